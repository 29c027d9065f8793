//! Checkpoints of real shapes and random weights, and datasets for them, made on the machine that measures.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shared::models::{config_of, expected_weights};

use super::weights::write_weights;

/// The size and the family of a teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// A Qwen2-VL for rehearsals on a CPU.
    Tiny,
    /// As Qwen2-VL-2B.
    #[value(name = "2b")]
    B2,
    /// As Qwen2-VL-7B.
    #[value(name = "7b")]
    B7,
    /// As Qwen2-VL-72B.
    #[value(name = "72b")]
    B72,
    /// An InternVL for rehearsals on a CPU.
    #[value(name = "tiny-internvl")]
    TinyInternVl,
    /// As InternVL2.5-8B: InternViT-300M before an InternLM2.5-7B, whose blocks are Llama's in transformers' layout.
    #[value(name = "internvl-8b")]
    InternVl8B,
}

/// How much of a teacher's decoder is made where not all of it has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// At most so many blocks.
    pub blocks: Option<usize>,
    /// At most so many bytes of weights, stored in bfloat16.
    pub bytes: Option<u64>,
}

/// Not even one block has room.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom {
    needed: u64,
    free: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [needed, free] = [self.needed, self.free].map(|bytes| bytes as f64 / 1e9);
        write!(f, "one block and all else take {needed:.1} GB, and there is room for {free:.1} GB")
    }
}

impl std::error::Error for NoRoom {}

impl Size {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Size::Tiny => "tiny",
            Size::B2 => "2B",
            Size::B7 => "7B",
            Size::B72 => "72B",
            Size::TinyInternVl => "InternVL-tiny",
            Size::InternVl8B => "InternVL-8B",
        }
    }

    /// The decoder's blocks.
    pub fn blocks(self) -> usize {
        self.decoder()[2]
    }

    fn is_internvl(self) -> bool {
        matches!(self, Size::TinyInternVl | Size::InternVl8B)
    }

    /// The fixture whose tokenizer, template and settings it takes.
    fn fixture(self) -> &'static str {
        if self.is_internvl() { "internvl" } else { "qwen2_vl" }
    }

    /// The decoder's width, feed-forward, blocks, heads, key-value heads and vocabulary.
    fn decoder(self) -> [usize; 6] {
        match self {
            Size::Tiny | Size::TinyInternVl => [64, 128, 2, 2, 1, 320],
            Size::B2 => [1536, 8960, 28, 12, 2, 151_936],
            Size::B7 => [3584, 18_944, 28, 28, 4, 152_064],
            Size::B72 => [8192, 29_568, 80, 64, 8, 152_064],
            Size::InternVl8B => [4096, 14_336, 32, 32, 8, 92_553],
        }
    }

    /// The vision encoder's width, blocks and heads.
    fn vision(self) -> [usize; 3] {
        match self {
            Size::Tiny | Size::TinyInternVl => [32, 2, 2],
            Size::InternVl8B => [1024, 24, 16],
            Size::B2 | Size::B7 | Size::B72 => [1280, 32, 16],
        }
    }

    /// The side of an image or a tile in pixels, about.
    fn side(self) -> usize {
        match self {
            Size::Tiny => 112,
            Size::TinyInternVl => 56,
            _ => 448,
        }
    }

    /// config.json, made of a fixture's, with so many blocks in the decoder.
    fn config(self, fixture: &Value, blocks: usize) -> Result<Value> {
        let mut config = fixture.clone();
        if self.is_internvl() {
            self.internvl(&mut config, blocks)?
        } else {
            self.qwen2_vl(&mut config, blocks)?
        }
        Ok(config)
    }

    /// The keys of both families' decoders.
    fn decoder_keys(self, blocks: usize) -> Value {
        let [width, ffn, _, heads, kv_heads, vocabulary] = self.decoder();
        json!({
            "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": blocks,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "rope_theta": 1e6, "max_position_embeddings": 32_768,
        })
    }

    fn qwen2_vl(self, config: &mut Value, blocks: usize) -> Result<()> {
        let [width, _, _, heads, ..] = self.decoder();
        let [embed, depth, vision_heads] = self.vision();
        let quarter = width / heads / 8;
        let sections = [4 * quarter - 2 * (quarter * 3 / 2), quarter * 3 / 2, quarter * 3 / 2];
        let vision = json!({
            "embed_dim": embed, "depth": depth, "num_heads": vision_heads, "mlp_ratio": 4,
            "hidden_size": width, "patch_size": PATCH,
        });
        merge(config, &self.decoder_keys(blocks))?;
        merge(
            config,
            &json!({
                "tie_word_embeddings": matches!(self, Size::Tiny | Size::B2), "torch_dtype": "bfloat16",
                "rope_scaling": {"type": "mrope", "mrope_section": sections},
            }),
        )?;
        merge(part(config, "vision_config")?, &vision)
    }

    fn internvl(self, config: &mut Value, blocks: usize) -> Result<()> {
        let [embed, depth, vision_heads] = self.vision();
        let side = self.side();
        let vision = json!({
            "hidden_size": embed, "intermediate_size": 4 * embed, "num_hidden_layers": depth,
            "num_attention_heads": vision_heads, "image_size": [side, side], "patch_size": [PATCH, PATCH],
        });
        let class =
            json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5});
        merge(config, &json!({"image_seq_length": self.tile_tokens(), "torch_dtype": "bfloat16"}))?;
        let text = part(config, "text_config")?;
        merge(text, &self.decoder_keys(blocks))?;
        merge(text, &class)?;
        merge(part(config, "vision_config")?, &vision)
    }

    /// Tokens of an InternVL's tile, of which 2 x 2 patches make one.
    fn tile_tokens(self) -> usize {
        (self.side() / PATCH / 2).pow(2)
    }

    /// Writes a checkout into `folder`: the tokenizer and template of a fixture; images of about 448 x 448 pixels, or up to
    /// four tiles of that and a thumbnail (less for the tiny ones); random weights in bfloat16. Gives its number of parameters.
    ///
    /// # Errors
    /// When a file cannot be read or written, and [`NoRoom`].
    pub fn make_checkout(self, fixtures: &Path, folder: &Path, cut: Cut) -> Result<u64> {
        std::fs::create_dir_all(folder)?;
        let fixture = fixtures.join(self.fixture());
        for file in std::fs::read_dir(&fixture)? {
            let path = file?.path();
            if let (true, Some(name)) = (path.extension().is_some_and(is_settings), path.file_name()) {
                std::fs::copy(&path, folder.join(name))?;
            }
        }
        let side = self.side();
        let images = if self.is_internvl() {
            edit(&folder.join("processor_config.json"), &json!({"image_seq_length": self.tile_tokens()}))?;
            json!({"size": {"height": side, "width": side}, "min_patches": 1, "max_patches": 4})
        } else {
            json!({"patch_size": PATCH, "min_pixels": side * side, "max_pixels": side * side})
        };
        edit(&folder.join("preprocessor_config.json"), &images)?;
        let (path, config) = (folder.join("config.json"), read_json(&fixture.join("config.json"))?);
        write_json(&path, &self.config(&config, self.blocks())?)?;
        let blocks = self.blocks_within(folder, cut)?;
        write_json(&path, &self.config(&config, blocks)?)?;
        write_weights(folder)
    }

    /// How many blocks a cut leaves of the decoder whose configuration is in `folder`.
    fn blocks_within(self, folder: &Path, cut: Cut) -> Result<usize> {
        let (mut all, mut decoder) = (0u64, 0u64);
        for (name, shape) in expected_weights(&config_of(folder)?)? {
            let bytes = 2 * shape.iter().product::<usize>() as u64;
            all += bytes;
            decoder += if name.contains("layers.") { bytes } else { 0 };
        }
        let block = decoder / self.blocks() as u64;
        let room = cut.bytes.map_or(u64::MAX, |free| free.saturating_sub(all - decoder)) / block;
        let blocks = self.blocks().min(usize::try_from(room)?).min(cut.blocks.unwrap_or(usize::MAX));
        match cut.bytes {
            Some(free) if blocks == 0 => Err(NoRoom { needed: all - decoder + block, free }.into()),
            _ => Ok(blocks.max(1)),
        }
    }
}

/// The side of a patch.
const PATCH: usize = 14;

/// Whether a file of a fixture is no weights.
fn is_settings(extension: &std::ffi::OsStr) -> bool {
    extension == "json" || extension == "jinja"
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string(value)?)?)
}

/// Changes some keys of a file.
fn edit(path: &Path, keys: &Value) -> Result<()> {
    let mut value = read_json(path)?;
    merge(&mut value, keys)?;
    write_json(path, &value)
}

fn part<'a>(config: &'a mut Value, name: &str) -> Result<&'a mut Value> {
    config.get_mut(name).with_context(|| format!("a fixture without {name}"))
}

fn merge(into: &mut Value, keys: &Value) -> Result<()> {
    let (Some(into), Some(keys)) = (into.as_object_mut(), keys.as_object()) else { bail!("no JSON object") };
    into.extend(keys.clone());
    Ok(())
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
    use std::collections::BTreeMap;

    use super::*;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
    }

    #[test]
    fn rotary_sections_fill_half_a_head() {
        let fixture = read_json(&fixtures().join("qwen2_vl/config.json")).unwrap();
        for (size, expected) in [
            (Size::Tiny, [4, 6, 6]),
            (Size::B2, [16, 24, 24]),
            (Size::B7, [16, 24, 24]),
            (Size::B72, [16, 24, 24]),
        ] {
            let config = size.config(&fixture, size.blocks()).unwrap();
            // Those of Qwen2-VL are 16, 24 and 24 in its own config.json.
            assert_eq!(config["rope_scaling"]["mrope_section"], json!(expected));
        }
    }

    #[test]
    fn tiny_checkouts_are_ones_that_models_load() {
        for size in [Size::Tiny, Size::TinyInternVl] {
            let folder = tempfile::tempdir().unwrap();
            let parameters = size.make_checkout(&fixtures(), folder.path(), Cut::default()).unwrap();
            let options =
                shared::models::LoadOptions::frozen(candle_core::Device::Cpu, candle_core::DType::F32);
            let model = shared::models::load(folder.path(), &options).unwrap();
            assert_eq!(model.body.decoder().hidden_size, 64);
            // Embedding 320 x 64 alone is 20480.
            assert!(parameters > 20_480, "{parameters}");
        }
    }

    /// Name and shape of the weights that a size would have.
    fn weights(size: Size, blocks: usize) -> BTreeMap<String, Vec<usize>> {
        let folder = tempfile::tempdir().unwrap();
        let fixture = read_json(&fixtures().join(size.fixture()).join("config.json")).unwrap();
        write_json(&folder.path().join("config.json"), &size.config(&fixture, blocks).unwrap()).unwrap();
        expected_weights(&config_of(folder.path()).unwrap()).unwrap()
    }

    fn numbers(weights: &BTreeMap<String, Vec<usize>>, pick: impl Fn(&str) -> bool) -> usize {
        let picked = weights.iter().filter(|(name, shape)| pick(name) && shape.len() > 1);
        picked.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn matrices_by_hand() {
        // Queries and output, keys and values, three of the feed-forward; then the table and the head.
        let large = weights(Size::B72, 80);
        let block = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 29_568;
        assert_eq!(numbers(&large, |name| name.contains("layers.")), 80 * block);
        assert_eq!(
            numbers(&large, |name| !name.contains("layers.") && !name.contains("visual")),
            2 * 152_064 * 8192
        );
        let tiled = weights(Size::InternVl8B, 32);
        let block = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336;
        assert_eq!(numbers(&tiled, |name| name.contains("layers.")), 32 * block);
        let block = 4 * 1024 * 1024 + 2 * 1024 * 4096;
        assert_eq!(numbers(&tiled, |name| name.contains("encoder.layer.")), 24 * block);
        // Four patches of width 1024 make one row of the projector.
        assert_eq!(numbers(&tiled, |name| name.contains("projector")), 4096 * 4096 + 4096 * 4096);
    }

    #[test]
    fn a_cut_leaves_as_many_blocks_as_have_room() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = |size: Size, cut| size.make_checkout(&fixtures(), folder.path(), cut).map(|all| 2 * all);
        let bytes =
            |n| weights(Size::Tiny, n).values().map(|shape| 2 * shape.iter().product::<usize>() as u64).sum();
        let [one, two]: [u64; 2] = [1, 2].map(bytes);
        assert_eq!(blocks(Size::Tiny, Cut { bytes: Some(two), blocks: None }).unwrap(), two);
        assert_eq!(blocks(Size::Tiny, Cut { bytes: Some(two - 1), blocks: None }).unwrap(), one);
        assert_eq!(blocks(Size::Tiny, Cut { bytes: None, blocks: Some(1) }).unwrap(), one);
        let error = blocks(Size::Tiny, Cut { bytes: Some(one - 1), blocks: None }).unwrap_err();
        assert!(error.is::<NoRoom>(), "{error}");
    }
}
