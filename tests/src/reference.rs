//! Reference checkpoints: a hub-style checkout with what transformers made of some conversations beside it.
//!
//! ```text
//! DIR/<family>/config.json, model.safetensors, tokenizer and processor files
//! DIR/<family>/ref/samples.json        messages, input_ids
//! DIR/<family>/ref/<sample>.safetensors   in.* (model inputs), position_ids, final_hidden, ...
//! DIR/images/                          the image files that the messages name
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use shared::dataset::{Message, Part, Role};
use shared::image::ImageInput;
use shared::models::{Encoded, Model, Processor};
use shared::text::{ImageSpan, Prompt, TurnSpan};

/// The fixtures with transformers' results: every family, and the variants of each that a configuration can ask for.
pub const CHECKPOINTS: &[&str] = &[
    "models/qwen2_vl",
    "models/qwen2_vl_untied",
    "models/internvl",
    "models/internvl_llama",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "llava_next",
    "llava_onevision",
    "idefics3",
    "smolvlm",
    "gemma3",
    "paligemma",
    "internvl_chat",
    "internvl_chat_llama",
    "pixtral",
    "mistral3",
    "qwen2_text",
    "qwen3_text",
    "llama_text",
    "mistral_text",
    "mistral_window_text",
    "qwen2_long_text",
    "qwen2_5_vl_long",
];

/// One conversation and transformers' tensors for it.
pub struct Sample {
    /// Its name in samples.json.
    pub name: String,
    /// What is said.
    pub messages: Vec<Message>,
    /// The image files, in order.
    pub images: Vec<PathBuf>,
    /// Token ids as transformers' processor gives them.
    pub input_ids: Vec<u32>,
    /// transformers' greedy continuation, where the reference has one.
    pub generated: Option<Vec<u32>>,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct StoredSample {
    messages: Vec<StoredMessage>,
    images: Vec<String>,
    input_ids: Vec<u32>,
    generated: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct StoredMessage {
    role: Role,
    content: Vec<StoredPart>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum StoredPart {
    Text { text: String },
    Image {},
}

/// All samples of a reference checkpoint, in name order.
///
/// # Errors
/// When a file is missing or damaged.
pub fn samples(dir: &Path) -> Result<Vec<Sample>> {
    let path = dir.join("ref/samples.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let stored: BTreeMap<String, StoredSample> = serde_json::from_str(&text)?;
    stored.into_iter().map(|(name, sample)| read_sample(dir, name, sample)).collect()
}

fn read_sample(dir: &Path, name: String, stored: StoredSample) -> Result<Sample> {
    let path = dir.join(format!("ref/{name}.safetensors"));
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let message = |message: StoredMessage| {
        let parts = message
            .content
            .into_iter()
            .map(|part| match part {
                StoredPart::Text { text } => Part::Text { text },
                StoredPart::Image {} => Part::Image,
            })
            .collect();
        Message::new(message.role, parts)
    };
    Ok(Sample {
        name,
        messages: stored.messages.into_iter().map(message).collect(),
        images: stored.images.iter().map(|image| find_image(dir, image)).collect::<Result<_>>()?,
        input_ids: stored.input_ids,
        generated: stored.generated,
        tensors,
    })
}

fn find_image(dir: &Path, name: &str) -> Result<PathBuf> {
    let folders = ["images", "../images", "../images_png", "../../images"].map(|folder| dir.join(folder));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("no image `{name}` beside `{}`", dir.display()))
}

impl Sample {
    /// A stored tensor.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("sample `{}` has no tensor `{name}`", self.name))
    }

    /// Pixel values of all images as one row-major block, empty for text; without what transformers pads a batch
    /// with: tiles of zeros, or the rest of a common size (Pixtral).
    ///
    /// # Errors
    /// When the block cannot be read.
    pub fn pixels(&self) -> Result<Vec<f32>> {
        let images = self.sized_images()?;
        if !images.is_empty() {
            return Ok(images.into_iter().flat_map(|image| image.pixels).collect());
        }
        Ok(self.tiles()?.into_iter().flatten().flatten().collect())
    }

    /// Images of different sizes out of the block that pads them, (C, H, W) each; none where there are no sizes.
    fn sized_images(&self) -> Result<Vec<ImageInput>> {
        let (Some(pixels), Some(sizes)) =
            (self.tensors.get("in.pixel_values"), self.tensors.get("in.image_sizes"))
        else {
            return Ok(Vec::new());
        };
        if pixels.rank() != 4 {
            return Ok(Vec::new());
        }
        let sizes = sizes.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let image = |(index, size): (usize, &Vec<u32>)| {
            let (height, width) = (size[0] as usize, size[1] as usize);
            let image = pixels.get(index)?.narrow(1, 0, height)?.narrow(2, 0, width)?;
            let shape = image.dims().to_vec();
            let pixels = image.flatten_all()?.to_vec1()?;
            Ok(ImageInput { pixels, shape, grid: [1, 1, 1], num_tokens: 0 })
        };
        sizes.iter().enumerate().map(image).collect()
    }

    /// The rows of `in.pixel_values` (tiles, or patches) of each image; all of them as one image's where the block does
    /// not tell images apart.
    fn tiles(&self) -> Result<Vec<Vec<Vec<f32>>>> {
        let Some(pixels) = self.tensors.get("in.pixel_values") else { return Ok(Vec::new()) };
        let rows_of = |pixels: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(pixels.flatten_from(1)?.to_vec2()?) };
        if pixels.rank() < 5 {
            return Ok(vec![rows_of(pixels)?]);
        }
        let is_tile = |tile: &Vec<f32>| tile.iter().any(|&value| value != 0.0);
        let images = (0..pixels.dim(0)?).map(|image| rows_of(&pixels.get(image)?));
        images.map(|tiles| Ok(tiles?.into_iter().filter(is_tile).collect())).collect()
    }

    /// The grid of each image, where the family stores one: (temporal, height, width) in patches, or (tiles, height,
    /// width) of the image in pixels.
    ///
    /// # Errors
    /// When the block cannot be read.
    pub fn grids(&self) -> Result<Option<Vec<[usize; 3]>>> {
        let numbers = |name: &str| -> Result<Option<Vec<Vec<u32>>>> {
            let block = self.tensors.get(name).map(|block| block.to_dtype(DType::U32)?.to_vec2());
            Ok(block.transpose()?)
        };
        let sizes = numbers("in.image_sizes")?;
        if let Some(sizes) =
            sizes.filter(|_| self.tensors.get("in.pixel_values").is_some_and(|p| p.rank() == 5))
        {
            let tiles = self.tiles()?;
            let grid =
                |(size, tiles): (&Vec<u32>, &Vec<_>)| [tiles.len(), size[0] as usize, size[1] as usize];
            return Ok(Some(sizes.iter().zip(&tiles).map(grid).collect()));
        }
        let grids = numbers("in.image_grid_thw")?;
        Ok(grids.map(|grids| grids.iter().map(|g| [g[0] as usize, g[1] as usize, g[2] as usize]).collect()))
    }

    /// (temporal, height, width) position of each token; transformers stores none for 1-D families.
    ///
    /// # Errors
    /// When the block cannot be read.
    pub fn positions(&self) -> Result<Vec<[u32; 3]>> {
        let Some(positions) = self.tensors.get("position_ids") else {
            return Ok((0..self.input_ids.len() as u32).map(|position| [position; 3]).collect());
        };
        if positions.rank() == 2 {
            let line = positions.get(0)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
            return Ok(line.into_iter().map(|position| [position; 3]).collect());
        }
        let axes = positions.squeeze(1)?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        ensure!(axes.len() == 3, "positions of {} axes", axes.len());
        Ok((0..axes[0].len()).map(|t| [axes[0][t], axes[1][t], axes[2][t]]).collect())
    }

    /// The sample with the inputs that transformers' processor made, not ours.
    ///
    /// # Errors
    /// When the stored inputs are incomplete.
    pub fn stored_inputs(&self, model: &Model) -> Result<Encoded> {
        let images = self.stored_images()?;
        let runs = image_token(model)?.into_iter().flat_map(|token| runs_of(&self.input_ids, token));
        let spans = runs.map(|tokens| ImageSpan { tokens, grid: [1, 1, 1] });
        let prompt = Prompt {
            text: String::new(),
            input_ids: self.input_ids.clone(),
            offsets: Vec::new(),
            turns: self.answer()?.into_iter().collect(),
            images: spans.collect(),
        };
        Ok(Encoded { prompt, images, positions: self.positions()? })
    }

    /// The answer, for families that store labels: all that has one.
    fn answer(&self) -> Result<Option<TurnSpan>> {
        let Some(labels) = self.tensors.get("in.labels") else { return Ok(None) };
        let labels: Vec<i64> = labels.flatten_all()?.to_vec1()?;
        let question = labels.iter().take_while(|&&label| label < 0).count();
        let tokens = question..labels.len();
        Ok(Some(TurnSpan { role: Role::Assistant, tokens: tokens.clone(), answer: Some(tokens) }))
    }

    /// The images' pixels by grid; all tiles as one image where the family has no grids, which packing does not mind.
    fn stored_images(&self) -> Result<Vec<ImageInput>> {
        let sized = self.sized_images()?;
        let Some(pixels) = self.tensors.get("in.pixel_values").filter(|_| sized.is_empty()) else {
            return Ok(sized);
        };
        let row_shape = &pixels.dims()[if pixels.rank() < 5 { 1 } else { 2 }..];
        let rows: Vec<Vec<f32>> = self.tiles()?.into_iter().flatten().collect();
        let counts_patches = self.tensors.contains_key("in.image_grid_thw");
        let mut rest = rows.as_slice();
        let image = |grid: [usize; 3]| {
            let count = if counts_patches { grid.iter().product() } else { grid[0] };
            let (rows, behind) = rest.split_at(count);
            rest = behind;
            let shape = [&[count], row_shape].concat();
            ImageInput { pixels: rows.concat(), shape, grid, num_tokens: 0 }
        };
        Ok(self.grids()?.unwrap_or_else(|| vec![[rows.len(), 1, 1]]).into_iter().map(image).collect())
    }

    /// transformers' features: what its `lm_head` receives, (T, D).
    ///
    /// # Errors
    /// When they are not stored.
    pub fn features(&self) -> Result<&Tensor> {
        self.tensor("final_hidden")
    }
}

/// The token that image features replace: as config.json says, or else as the checkout's processor does; none for a
/// text model.
///
/// # Errors
/// When the processor cannot be read.
pub fn image_token(model: &Model) -> Result<Option<u32>> {
    let stated = model.config.config.image_token_id();
    match (stated, model.config.path.parent()) {
        (None, Some(dir)) => Ok(Processor::load(dir)?.image_token_id()),
        _ => Ok(stated),
    }
}

/// The maximal runs of `token`.
fn runs_of(ids: &[u32], token: u32) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    ids.chunk_by(move |a, b| (*a == token) == (*b == token)).filter_map(move |chunk| {
        let run = start..start + chunk.len();
        start = run.end;
        (chunk[0] == token).then_some(run)
    })
}

/// The largest absolute difference of two tensors of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn worst_error(ours: &Tensor, theirs: &Tensor) -> Result<f32> {
    Ok((ours.to_dtype(DType::F32)? - theirs)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}
