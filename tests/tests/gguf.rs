//! Teachers with quantised matrices from a GGUF file: the right numbers, the right file, and what it costs on record.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use e2e::damage::{copy_of, edit_config, edit_weights};
use e2e::frozen::{features, frozen, options};
use e2e::parity::TOLERANCE;
use e2e::programs::{Finished, run};
use e2e::reference::{samples, worst_error};
use e2e::rows::{fixture, write_rows};
use serde_json::json;
use shared::cache::Manifest;
use shared::models::{LoadOptions, Model, ModelPart, TrainableParts, load, load_streamed};

fn checkout() -> PathBuf {
    fixture("llama_gguf")
}

fn gguf() -> PathBuf {
    checkout().join("model.gguf")
}

fn with(gguf: &Path) -> LoadOptions {
    LoadOptions { gguf: Some(gguf.to_owned()), ..options(DType::F32) }
}

/// The expected features are transformers', with the file's matrices as the gguf package dequantises them, rows in the order
/// that transformers' own loader of GGUF gives them (make_gguf.py).
#[test]
fn features_are_those_of_the_dequantised_matrices() {
    let stored = &samples(&checkout()).unwrap()[0];
    let model = load(&checkout(), &with(&gguf())).unwrap();
    let inputs = stored.stored_inputs(&model).unwrap();
    let (streamed, _) = load_streamed(&checkout(), &with(&gguf())).unwrap();
    let rows = |model: &Model| features(model, &inputs).to_vec2::<f32>().unwrap();
    assert_eq!(rows(&streamed), rows(&model), "the same bits when blocks are read as they are needed");
    let expected = stored.features().unwrap();
    let error = worst_error(&features(&model, &inputs), expected).unwrap();
    assert!(error < TOLERANCE, "{error}");
    // The tolerance tells them from the float weights' features.
    let float = frozen(&checkout());
    assert!(worst_error(&features(&float, &inputs), expected).unwrap() > 10.0 * TOLERANCE);
}

/// InternLM2 has queries, keys and values in one matrix, llama.cpp's files have three. The file holds the checkpoint's own values,
/// so the expected features are transformers' of the checkpoint.
#[test]
fn a_fused_matrix_may_come_as_three() {
    let (dir, gguf) = (fixture("internvl_chat"), fixture("internlm2.gguf"));
    let model = load(&dir, &with(&gguf)).unwrap();
    let (streamed, _) = load_streamed(&dir, &with(&gguf)).unwrap();
    for stored in samples(&dir).unwrap() {
        let inputs = stored.stored_inputs(&model).unwrap();
        let got = features(&model, &inputs);
        assert!(worst_error(&got, stored.features().unwrap()).unwrap() < TOLERANCE);
        let rows = got.to_vec2::<f32>().unwrap();
        assert_eq!(features(&streamed, &inputs).to_vec2::<f32>().unwrap(), rows);
    }

    // The file's matrices are used, and not the checkpoint's, which here are half as large again in the same direction.
    let copy = copy_of("internvl_chat");
    edit_weights(copy.path(), |tensors| {
        let matrix = tensors.get_mut("language_model.model.layers.0.attention.wqkv.weight").unwrap();
        *matrix = (&*matrix * 1.5).unwrap();
    });
    let stored = &samples(&dir).unwrap()[0];
    let of_file = load(copy.path(), &with(&gguf)).unwrap();
    let inputs = stored.stored_inputs(&of_file).unwrap();
    let expected = stored.features().unwrap();
    assert!(worst_error(&features(&of_file, &inputs), expected).unwrap() < TOLERANCE);
    assert!(worst_error(&features(&frozen(copy.path()), &inputs), expected).unwrap() > 10.0 * TOLERANCE);

    let copy = copy_of("internvl_chat");
    edit_weights(copy.path(), |tensors| {
        let matrix = tensors.get_mut("language_model.model.layers.0.attention.wqkv.weight").unwrap();
        *matrix = matrix.flip(&[0]).unwrap();
    });
    let message = refusal(copy.path(), &with(&gguf));
    for part in ["attn_q", "attn_k", "attn_v"] {
        assert!(message.contains(&format!("`blk.0.{part}.weight` is not a quantised `language_model.model.layers.0.attention.wqkv.weight`")), "{message}");
    }
}

/// The message in which loading this checkout with this file ends.
fn refusal(dir: &Path, options: &LoadOptions) -> String {
    let message = load(dir, options).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("hint: "), "{message}");
    message
}

#[test]
fn a_file_of_another_model_is_refused() {
    let copy = copy_of("llama_gguf");
    // Other weights of the same shapes: one matrix of the last block.
    edit_weights(copy.path(), |tensors| {
        let matrix = tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        *matrix = matrix.flip(&[0]).unwrap();
    });
    let message = refusal(copy.path(), &with(&gguf()));
    assert!(
        message.contains("`blk.1.ffn_up.weight` is not a quantised `model.layers.1.mlp.up_proj.weight`"),
        "{message}"
    );

    let copy = copy_of("llama_gguf");
    edit_config(copy.path(), |config| config["num_hidden_layers"] = json!(1));
    edit_weights(copy.path(), |tensors| tensors.retain(|name, _| !name.contains("layers.1.")));
    let message = refusal(copy.path(), &with(&gguf()));
    assert!(message.contains("more blocks than the 1 of config.json"), "{message}");

    let message = refusal(&fixture("qwen2_text"), &with(&gguf()));
    assert!(message.contains("`blk.0.attn_q.weight` has shape [32, 256]"), "{message}");
}

#[test]
fn a_file_that_cannot_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let altered = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = folder.path().join(name);
        fs::write(&path, change(fs::read(gguf()).unwrap())).unwrap();
        path
    };
    let replaced = |from: &str, to: &str| {
        let (from, to) = (from.as_bytes().to_vec(), to.as_bytes().to_vec());
        move |mut bytes: Vec<u8>| {
            let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
            bytes[at..at + to.len()].copy_from_slice(&to);
            bytes
        }
    };
    let cases = [
        (altered("truncated.gguf", &|bytes| bytes[..bytes.len() / 2].to_vec()), "it ends after"),
        (altered("other.gguf", &replaced("GGUF", "GGML")), "not a GGUF file"),
        // llama.cpp's Falcon has other blocks, and its queries and keys in another order.
        (altered("falcon.gguf", &replaced("llama", "falco")), "its `general.architecture` is `falco`"),
        (
            altered("missing.gguf", &replaced("blk.1.attn_v", "blk.1.attn_x")),
            "missing: `blk.1.attn_v.weight`",
        ),
        // Qwen's rows are not paired: read as its file, queries and keys come out in the wrong order.
        (altered("qwen2.gguf", &replaced("llama", "qwen2")), "`blk.0.attn_q.weight` is not a quantised"),
        (folder.path().join("none.gguf"), "cannot read"),
    ];
    for (path, says) in cases {
        let message = refusal(&checkout(), &with(&path));
        assert!(message.contains(says) && message.contains(path.to_str().unwrap()), "{message}");
    }
    let trained = LoadOptions { trainable: TrainableParts::of(&[ModelPart::Body]), ..with(&gguf()) };
    assert!(refusal(&checkout(), &trained).contains("quantised weights cannot be trained"));
}

/// `extract run` on two rows of text.
fn extract(folder: &Path, more: &[&str]) -> Finished {
    let rows = ["What is it?", "And what is this?"].map(|question| {
        json!({ "id": question, "conversations": [{ "from": "human", "value": question }, { "from": "gpt", "value": "A square." }] })
    });
    write_rows(&folder.join("rows.jsonl"), &rows).unwrap();
    let (teacher, data, out) = (checkout(), folder.join("rows.jsonl"), folder.join("cache"));
    let mut args = vec!["run", "--device", "cpu", "--teacher", teacher.to_str().unwrap()];
    args.extend(["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    args.extend(more);
    run("extract", args).unwrap()
}

#[test]
fn the_manifest_says_what_quantisation_costs_and_the_fingerprint_tells_the_teachers_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = gguf();
    let with_file = ["--gguf", path.to_str().unwrap()];
    let finished = extract(folder.path(), &with_file);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let manifest = Manifest::load(&folder.path().join("cache")).unwrap();
    assert_eq!(manifest.about["gguf"], "model.gguf");
    let error: f64 = manifest.about["gguf_relative_l2"].parse().unwrap();
    // Four bits a weight are 8 % off (make_gguf.py prints it for each matrix), and the residual stream dilutes that.
    assert!(error > 1e-3 && error < 0.2, "{error}");
    assert!(manifest.about["gguf_through_head"].contains("KL through the head"), "{:?}", manifest.about);
    assert!(finished.stderr.contains("relative L2"), "{}", finished.stderr);

    // The same command again has nothing to do; without the file it is another teacher.
    assert_eq!(extract(folder.path(), &with_file).code, Some(0));
    let refused = extract(folder.path(), &[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("gguf") && refused.stderr.contains("hint: "), "{}", refused.stderr);
}
