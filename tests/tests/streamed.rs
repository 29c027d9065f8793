//! A model whose blocks are read from the checkpoint when they are needed against the same model in memory: the same bits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use candle_core::{DType, Tensor};
use e2e::damage::{copy_of, edit_weights};
use e2e::frozen::{encoded, features, frozen, options};
use e2e::reference::{CHECKPOINTS, samples};
use e2e::rows::fixture;
use shared::models::{Model, PackedBatch, Table, generate_greedy, load_streamed};

fn streamed(name: &str) -> Model {
    load_streamed(&fixture(name), &options(DType::F32)).unwrap().0
}

fn values(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

#[test]
fn features_are_those_in_memory_bit_for_bit() {
    for name in CHECKPOINTS {
        let (resident, streamed) = (frozen(&fixture(name)), streamed(name));
        let samples = encoded(&resident, &samples(&fixture(name)).unwrap());
        // Batches of their own, and one more with all samples, through each block together.
        let all: Vec<_> = samples.iter().collect();
        let mut batches: Vec<PackedBatch> =
            samples.iter().map(|sample| PackedBatch::pack(&[sample])).collect();
        batches.push(PackedBatch::pack(&all));
        let found = streamed.body.features_all(&batches).unwrap();
        assert_eq!(found.len(), samples.len() + 1);
        let alone: Vec<_> = samples.iter().map(|sample| values(&features(&resident, sample))).collect();
        for (found, expected) in found.iter().zip(&alone) {
            assert_eq!(&values(found), expected, "{name}");
        }
        assert_eq!(values(&found[samples.len()]), alone.concat(), "{name}: packed");
        // A model in memory takes several batches the same way.
        let together = resident.body.features_all(&batches).unwrap();
        assert!(together.iter().zip(&found).all(|(a, b)| values(a) == values(b)), "{name}");
    }
}

#[test]
fn generation_and_logits_are_those_in_memory() {
    for name in CHECKPOINTS {
        let (resident, streamed) = (frozen(&fixture(name)), streamed(name));
        let samples = encoded(&resident, &samples(&fixture(name)).unwrap());
        let questions: Vec<_> = samples.iter().collect();
        let expected = generate_greedy(&resident, &questions, 3, &[]).unwrap();
        assert_eq!(generate_greedy(&streamed, &questions, 3, &[]).unwrap(), expected, "{name}");
        let features = features(&resident, &samples[0]);
        let logits = [&resident, &streamed].map(|model| values(&model.head.logits(&features).unwrap()));
        assert_eq!(logits[0], logits[1], "{name}");
    }
}

#[test]
fn neither_blocks_nor_tables_are_loaded() {
    for name in CHECKPOINTS {
        let (model, footprint) = load_streamed(&fixture(name), &options(DType::F32)).unwrap();
        assert!(matches!((model.body.embedding(), &model.head.table), (Table::Stored(_), Table::Stored(_))));
        let [text, vision] = model.body.streamed();
        let decoder = model.body.decoder();
        let (d, i) = (decoder.hidden_size, decoder.intermediate_size);
        let (q, kv) = (decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim);
        let text = text.unwrap();
        // Queries, keys, values, what follows them, and the gated feed-forward; norms and biases are small.
        let matrices = d * (2 * q + 2 * kv) + 3 * d * i;
        assert!(text.elements >= matrices && text.elements < matrices + matrices / 4, "{name}: {text:?}");
        assert_eq!(text.outputs, q + 2 * kv + d + 2 * i + d, "{name}");
        assert_eq!(vision.is_some_and(|size| size.elements > 0), footprint.patch_pixels > 0, "{name}");
        assert_eq!(name.ends_with("_text"), footprint.patch_pixels == 0, "{name}");
        let blocks = decoder.num_layers * text.elements * 4;
        let table = decoder.vocab_size * d * 4;
        assert!(footprint.resident_bytes + blocks + table <= footprint.total_bytes, "{name}: {footprint:?}");
    }
}

#[test]
fn a_weight_that_no_block_could_read_is_refused_at_once() {
    let copy = copy_of("qwen2_text");
    edit_weights(copy.path(), |tensors| {
        let name = "model.layers.1.mlp.down_proj.weight";
        let doubles = tensors[name].to_dtype(DType::F64).unwrap();
        tensors.insert(name.into(), doubles);
    });
    let error = load_streamed(copy.path(), &options(DType::F32)).err().unwrap().to_string();
    assert!(error.contains("layers.1.mlp.down_proj.weight` is stored as F64"), "{error}");
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn a_token_beyond_the_table_is_refused() {
    let model = streamed("qwen2_text");
    let batch = PackedBatch::step(&[model.body.decoder().vocab_size as u32], &[0]);
    let error = model.body.features(&batch).unwrap_err().to_string();
    assert!(error.contains("of a table with"), "{error}");
}
