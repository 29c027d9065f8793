//! Samples packed for one forward pass.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::image::ImageInput;
use crate::text::Prompt;

/// One conversation as one model takes it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The rendered, expanded and tokenised text with its spans.
    pub prompt: Prompt,
    /// The images, in the order of the prompt's image spans.
    pub images: Vec<ImageInput>,
    /// (temporal, height, width) position of each token; three equal numbers for 1-D rotary families.
    pub positions: Vec<[u32; 3]>,
}

impl Encoded {
    /// About how much memory it takes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        let pixels: usize = self.images.iter().map(|image| image.pixels.len() * 4).sum();
        // Token id, character range and position: 4 + 8 + 12 bytes.
        pixels + self.prompt.input_ids.len() * 24 + self.prompt.text.len()
    }
}

/// Samples concatenated for one forward pass: no padding anywhere.
#[derive(Clone, Debug, Default)]
pub struct PackedBatch {
    /// Token ids, (T).
    pub input_ids: Vec<u32>,
    /// (temporal, height, width) position of each token, (T); three equal numbers for 1-D rotary families.
    pub positions: Vec<[u32; 3]>,
    /// Sample boundaries in tokens: S+1 numbers from 0 to T.
    pub cu_seqlens: Vec<usize>,
    /// How many tokens of each sample stand before its first answer, (S); all of them where there is none.
    pub question_lens: Vec<usize>,
    /// The distinct images of all samples, by first use: what the vision encoder sees.
    pub images: Vec<ImageInput>,
    /// Which of `images` is meant each time one is used, in token order.
    pub image_uses: Vec<usize>,
    /// The packed positions that take image features, in the order the features come.
    pub image_rows: Vec<u32>,
    /// The packed positions whose features are wanted, in this order; all positions where nothing is said. The last block
    /// spares the others all that comes after attention.
    pub wanted: Option<Vec<u32>>,
}

impl PackedBatch {
    /// Concatenates the samples in the order given. An image that several samples or turns use is there once.
    pub fn pack(samples: &[&Encoded]) -> Self {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        let mut known = HashMap::new();
        for sample in samples {
            let start = batch.input_ids.len();
            batch.input_ids.extend_from_slice(&sample.prompt.input_ids);
            batch.positions.extend_from_slice(&sample.positions);
            sample.images.iter().for_each(|image| batch.use_image(image, &mut known));
            let ids = &sample.prompt.input_ids;
            for span in &sample.prompt.images {
                // A span begins with an image token; what is not one in it separates rows or tiles.
                let is_image = |token: &usize| ids[*token] == ids[span.tokens.start];
                let rows = span.tokens.clone().filter(is_image).map(|token| (start + token) as u32);
                batch.image_rows.extend(rows);
            }
            let answers = sample.prompt.turns.iter().filter_map(|turn| turn.answer.as_ref());
            let first = answers.map(|answer| answer.start).min().unwrap_or(ids.len());
            batch.question_lens.push(first.min(ids.len()));
            batch.cu_seqlens.push(batch.input_ids.len());
        }
        batch
    }

    /// Takes an image in, unless it is there. `known` has the place of the first image with a hash of pixels; another
    /// image of the same hash, should there ever be one, is kept apart.
    fn use_image(&mut self, image: &ImageInput, known: &mut HashMap<u64, usize>) {
        let new = self.images.len();
        let first = *known.entry(xxh3_64(bytemuck::cast_slice(&image.pixels))).or_insert(new);
        if first == new || self.images[first] != *image {
            self.images.push(image.clone());
            self.image_uses.push(new);
        } else {
            self.image_uses.push(first);
        }
    }

    /// The rows of the distinct images' features that each use takes, in token order; none where every image is used once.
    pub(super) fn repeated_rows(&self) -> Option<Vec<u32>> {
        if self.image_uses.len() == self.images.len() {
            return None;
        }
        let ends = self.images.iter().scan(0, |end, image| {
            *end += image.num_tokens as u32;
            Some(*end)
        });
        let ends: Vec<u32> = ends.collect();
        let rows = |image: &usize| ends[*image] - self.images[*image].num_tokens as u32..ends[*image];
        Some(self.image_uses.iter().flat_map(rows).collect())
    }

    /// One new token for each of several samples: a step of generation.
    pub fn step(tokens: &[u32], positions: &[u32]) -> Self {
        Self {
            input_ids: tokens.to_vec(),
            positions: positions.iter().map(|&position| [position; 3]).collect(),
            cu_seqlens: (0..=tokens.len()).collect(),
            question_lens: vec![0; tokens.len()],
            ..Self::default()
        }
    }

    /// T.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// S.
    pub fn num_samples(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }
}

/// Samples in batches of like length: the longest of a batch times their number keeps to `max_tokens`, and a longer
/// sample runs alone. Indices into `lengths`, shortest first.
pub fn in_like_lengths(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            Some(batch) if lengths[index].saturating_mul(batch.len() + 1) <= max_tokens => batch.push(index),
            _ => batches.push(vec![index]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_lengths_share_a_batch_within_the_budget() {
        assert_eq!(in_like_lengths(&[9, 2, 3, 40, 8], 20), [vec![1, 2], vec![4, 0], vec![3]]);
        assert!(in_like_lengths(&[], 20).is_empty());
    }
}
