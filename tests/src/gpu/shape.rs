//! Checkpoints of real shapes and random weights, and datasets for them, made on the machine that measures.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use shared::models::{config_of, expected_weights};

/// The size of a Qwen2-VL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// For rehearsals on a CPU.
    Tiny,
    /// As Qwen2-VL-2B.
    #[value(name = "2b")]
    B2,
    /// As Qwen2-VL-7B.
    #[value(name = "7b")]
    B7,
}

impl Size {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Size::Tiny => "tiny",
            Size::B2 => "2B",
            Size::B7 => "7B",
        }
    }

    /// The decoder's width, feed-forward, blocks, heads, key-value heads and vocabulary.
    fn decoder(self) -> [usize; 6] {
        match self {
            Size::Tiny => [64, 128, 2, 2, 1, 320],
            Size::B2 => [1536, 8960, 28, 12, 2, 151_936],
            Size::B7 => [3584, 18_944, 28, 28, 4, 152_064],
        }
    }

    /// The vision encoder's width, blocks and heads.
    fn vision(self) -> [usize; 3] {
        if self == Size::Tiny { [32, 2, 2] } else { [1280, 32, 16] }
    }

    /// config.json, made of a fixture's.
    fn config(self, fixture: &Value) -> Result<Value> {
        let [width, ffn, blocks, heads, kv_heads, vocabulary] = self.decoder();
        let [embed, depth, vision_heads] = self.vision();
        let quarter = width / heads / 8;
        let keys = json!({
            "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": blocks,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "tie_word_embeddings": self != Size::B7, "torch_dtype": "bfloat16", "rope_theta": 1e6,
            "max_position_embeddings": 32_768,
            "rope_scaling": {"type": "mrope", "mrope_section": [4 * quarter - 2 * (quarter * 3 / 2), quarter * 3 / 2, quarter * 3 / 2]},
        });
        let vision = json!({
            "embed_dim": embed, "depth": depth, "num_heads": vision_heads, "mlp_ratio": 4,
            "hidden_size": width, "patch_size": 14,
        });
        let mut config = fixture.clone();
        merge(&mut config, &keys)?;
        merge(config.get_mut("vision_config").context("a fixture without vision_config")?, &vision)?;
        Ok(config)
    }

    /// Writes a checkout into `folder`: the tokenizer and template of the checkout `processor`, images of about 448 x 448
    /// pixels (a tenth of that for the tiny one), random weights in bfloat16. Gives its number of parameters.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn make_checkout(self, processor: &Path, folder: &Path) -> Result<u64> {
        std::fs::create_dir_all(folder)?;
        for name in ["chat_template.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(processor.join(name), folder.join(name))?;
        }
        let pixels = if self == Size::Tiny { 112 * 112 } else { 448 * 448 };
        let mut images = read_json(&processor.join("preprocessor_config.json"))?;
        merge(&mut images, &json!({"patch_size": 14, "min_pixels": pixels, "max_pixels": pixels}))?;
        write_json(&folder.join("preprocessor_config.json"), &images)?;
        write_json(&folder.join("config.json"), &self.config(&read_json(&processor.join("config.json"))?)?)?;
        write_weights(folder)
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string(value)?)?)
}

fn merge(into: &mut Value, keys: &Value) -> Result<()> {
    let (Some(into), Some(keys)) = (into.as_object_mut(), keys.as_object()) else { bail!("no JSON object") };
    into.extend(keys.clone());
    Ok(())
}

/// Random bytes to draw weights from, over and over.
const POOL_BYTES: usize = 32 << 20;

/// Writes model.safetensors for the config.json of `folder`; the number of parameters.
fn write_weights(folder: &Path) -> Result<u64> {
    let shapes = expected_weights(&config_of(folder)?)?;
    let mut header = Map::new();
    let mut end = 0u64;
    let mut places = Vec::new();
    for (name, shape) in &shapes {
        let bytes = 2 * shape.iter().product::<usize>() as u64;
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        let is_norm = shape.len() == 1 && name.ends_with(".weight");
        places.push((end, bytes, is_norm));
        end += bytes;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = File::create(folder.join("model.safetensors"))?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
    file.write_all_at(&header, 8)?;
    let start = 8 + header.len() as u64;
    file.set_len(start + end)?;
    let pool = pool();
    let ones: Vec<u8> = [0x80, 0x3f].repeat(1 << 16);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let write = |worker: usize| {
            for &(at, bytes, is_norm) in places.iter().skip(worker).step_by(threads) {
                let source = if is_norm { &ones } else { &pool };
                let mut written = 0;
                while written < bytes {
                    let piece = (bytes - written).min(source.len() as u64);
                    file.write_all_at(&source[..piece as usize], start + at + written)?;
                    written += piece;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let workers: Vec<_> = (0..threads).map(|worker| scope.spawn(move || write(worker))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(written) => Ok(written?),
            Err(_) => bail!("a thread that writes weights failed"),
        })
    })?;
    Ok(end / 2)
}

/// Bytes of random numbers in bfloat16, half of them negative, of a size between 2^-6 and 2^-5: about what keeps the outputs of a
/// matrix of some thousand columns in range.
fn pool() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut words = Vec::with_capacity(POOL_BYTES);
    for _ in 0..POOL_BYTES / 8 {
        // xorshift64 (Marsaglia 2003), four numbers at a time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let numbers = (state & 0x807f_807f_807f_807f) | 0x3c80_3c80_3c80_3c80;
        words.extend_from_slice(&numbers.to_le_bytes());
    }
    words
}

/// Images of the fixtures, in turn, each with a question and an answer of its own: `count` rows in `folder`/data.json.
///
/// # Errors
/// When the file cannot be written.
pub fn make_data(folder: &Path, count: usize) -> Result<PathBuf> {
    const IMAGES: [&str; 4] = ["photo.jpg", "square.png", "tall.png", "wide.png"];
    let row = |i: usize| {
        let question = format!("<image>\nWhat is the {}th thing that one sees here?", 1000 + i);
        let answer = format!("It is number {} of all that there is to see.", 1000 + 7 * i);
        json!({"id": format!("row/{i}"), "image": IMAGES[i % IMAGES.len()], "conversations": [
            {"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
    };
    let path = folder.join(format!("data-{count}.json"));
    write_json(&path, &Value::Array((0..count).map(row).collect()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn rotary_sections_fill_half_a_head() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen2_vl/config.json");
        let fixture = read_json(&fixture).unwrap();
        for (size, expected) in [(Size::Tiny, [4, 6, 6]), (Size::B2, [16, 24, 24]), (Size::B7, [16, 24, 24])]
        {
            let config = size.config(&fixture).unwrap();
            // Those of Qwen2-VL are 16, 24 and 24 in its own config.json.
            assert_eq!(config["rope_scaling"]["mrope_section"], json!(expected));
        }
    }

    #[test]
    fn a_tiny_checkout_is_one_that_models_load() {
        let folder = tempfile::tempdir().unwrap();
        let processor = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen2_vl");
        let parameters = Size::Tiny.make_checkout(&processor, folder.path()).unwrap();
        let options = shared::models::LoadOptions::frozen(candle_core::Device::Cpu, candle_core::DType::F32);
        let model = shared::models::load(folder.path(), &options).unwrap();
        assert_eq!(model.body.decoder().hidden_size, 64);
        // Embedding 320 x 64 alone is 20480.
        assert!(parameters > 20_480, "{parameters}");
    }
}
