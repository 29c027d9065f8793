//! `--memory-limit`: how a run divides memory when the teacher's blocks are read from the checkpoint as they are needed.
//!
//! ```text
//! limit = what is taken before the first batch (program, tokenizer, weights that stay)
//!       + two blocks, and one weight as it is stored
//!       + the writer's row group
//!       + pixels that wait: the window, the queue of batches
//!       + what a block makes of one batch, dropped after it
//!       + what stays of all batches of a pass: pixels, patches, tokens on their way to the next block
//! ```
//!
//! Estimates lean to the high side; the peak that the kernel tells stands beside the limit in the summary.

use anyhow::Result;
use indicatif::HumanBytes;
use shared::models::Footprint;

use crate::batch::BatchSize;
use crate::error::Usage;
use crate::sample::Prepared;

/// For threads, decoding of images, and what else has no term of its own.
const RESERVE: u64 = 8 << 20;
/// The smallest batch worth a forward pass, in tokens and in patches (an image of 448 x 448 pixels).
const LEAST_TOKENS: u64 = 256;
const LEAST_PATCHES: u64 = 1024;
/// Batches' pixels that wait ahead of the teacher: two in the window, two in the queue, one in hand.
const WAITING: u64 = 5;
/// Batches' features that wait to be collected and for the writer, at most as many rows as tokens.
const WRITING: u64 = 4;

/// Sizes that a run with a limit keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens in one batch.
    pub max_tokens: usize,
    /// Bytes of pixels in one batch.
    pub max_pixel_bytes: usize,
    /// Bytes for the batches of a pass: the work on one, and what stays of all.
    pass_bytes: u64,
    /// Tokens in one pass.
    pass_tokens: usize,
    costs: Costs,
}

/// What tokens and pixels cost, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Costs {
    /// Of a token while a block runs.
    token_work: u64,
    /// Of a token between blocks.
    token_state: u64,
    /// Of a byte of pixels while a block runs, in hundredths.
    pixel_work: u64,
    /// Of a byte of pixels between blocks, in hundredths.
    pixel_state: u64,
    /// Bytes of a patch's pixels; 0 without a vision encoder.
    patch: u64,
}

impl Costs {
    fn of(footprint: &Footprint) -> Costs {
        let number = footprint.number_bytes as u64;
        let width = footprint.token_width as u64 * number;
        let patch = (footprint.patch_pixels * size_of::<f32>()) as u64;
        let hundredths = |bytes: u64| (100 * bytes).checked_div(patch).unwrap_or(0);
        Costs {
            // Outputs of the linear layers once, and about as much for norms, residuals and products of them.
            token_work: 2 * footprint.text.outputs as u64 * number + WRITING * footprint.width as u64 * 4,
            // Beside its vector: angles of the rotary embedding, ids, positions, offsets, what it sees.
            token_state: width + 8 * footprint.head_dim as u64 + 128,
            // The packed copy and the tensor of patches come on top.
            pixel_work: hundredths(2 * footprint.vision.outputs as u64 * number) + 200,
            pixel_state: hundredths(footprint.patch_width as u64 * number * 11 / 10) + 100,
            patch,
        }
    }

    fn work(&self, tokens: u64, pixel_bytes: u64) -> u64 {
        (tokens * self.token_work).max(pixel_bytes * self.pixel_work / 100)
    }

    fn state(&self, tokens: u64, pixel_bytes: u64) -> u64 {
        tokens * self.token_state + pixel_bytes * self.pixel_state / 100
    }

    /// Of the least batch, with what waits before and behind it.
    fn least(&self) -> u64 {
        let pixels = LEAST_PATCHES * self.patch;
        let (tokens, waiting) = (LEAST_TOKENS, WAITING * pixels);
        self.work(tokens, pixels) + self.state(tokens, pixels) + waiting
    }
}

/// What is taken whatever the batches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes in use before the first batch.
    pub now: u64,
    /// Bytes of a row group of the writer.
    pub row_group: u64,
}

impl Budget {
    /// Divides `limit` bytes; `max_tokens` and `pass_tokens` are the most tokens of a batch and of a pass whatever the limit.
    ///
    /// # Errors
    /// When the limit cannot hold two blocks and one batch, with what could.
    pub fn plan(
        limit: u64,
        taken: Taken,
        footprint: &Footprint,
        [max_tokens, pass_tokens]: [usize; 2],
    ) -> Result<Budget> {
        let costs = Costs::of(footprint);
        let blocks = footprint.streaming_bytes() as u64;
        // A row group is encoded once more when it is full.
        let fixed = taken.now + blocks + 2 * taken.row_group + RESERVE;
        let least = costs.least();
        let Some(free) = limit.checked_sub(fixed).filter(|free| *free >= least) else {
            return Err(Usage(format!(
                "a memory limit of {} cannot hold this teacher: it takes at least {}\nhint: {} are in use before the first \
                 batch, two blocks with the weight that is being read take {}, the rest is for one small batch; raise \
                 `--memory-limit`",
                HumanBytes(limit),
                HumanBytes((fixed + least).next_multiple_of(1 << 20)),
                HumanBytes(taken.now),
                HumanBytes(blocks),
            ))
            .into());
        };
        // A third for a batch with what waits of its kind: larger ones gain nothing, and passes are made of several.
        let share = (free / 3).max(LEAST_TOKENS * costs.token_work);
        let max_tokens = max_tokens.min((share / costs.token_work) as usize);
        let pixel_cost = costs.pixel_work + 100 * WAITING;
        let max_pixel_bytes = (100 * share / pixel_cost).max(LEAST_PATCHES * costs.patch);
        let waiting = if costs.patch > 0 { WAITING * max_pixel_bytes } else { 0 };
        Ok(Budget {
            max_tokens,
            max_pixel_bytes: usize::try_from(max_pixel_bytes).unwrap_or(usize::MAX),
            pass_bytes: free.saturating_sub(waiting),
            pass_tokens,
            costs,
        })
    }

    /// How large a batch the budget has room for.
    pub fn batch_size(&self) -> BatchSize {
        BatchSize { max_tokens: self.max_tokens, max_pixel_bytes: self.max_pixel_bytes }
    }

    /// Whether batches of this many (tokens, bytes of pixels) may go through the blocks together.
    pub fn fits(&self, batches: impl Iterator<Item = (usize, usize)> + Clone) -> bool {
        let costs = &self.costs;
        let sizes = batches.map(|(tokens, pixels)| (tokens as u64, pixels as u64));
        let tokens: u64 = sizes.clone().map(|(tokens, _)| tokens).sum();
        let state: u64 = sizes.clone().map(|(tokens, pixels)| costs.state(tokens, pixels)).sum();
        let work = sizes.map(|(tokens, pixels)| costs.work(tokens, pixels)).max().unwrap_or(0);
        tokens <= self.pass_tokens as u64 && state + work <= self.pass_bytes
    }
}

/// (Tokens, bytes of pixels) of a batch.
pub fn sizes(batch: &[Prepared]) -> (usize, usize) {
    (batch.iter().map(Prepared::num_tokens).sum(), batch.iter().map(Prepared::pixel_bytes).sum())
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used)]

    use shared::models::BlockSize;

    use super::*;

    /// A decoder of width 1024 in f32; 12 million numbers a block.
    fn footprint() -> Footprint {
        let text = BlockSize { elements: 12 << 20, largest: 3 << 20, outputs: 9728 };
        Footprint {
            number_bytes: 4,
            width: 1024,
            head_dim: 64,
            token_width: 1024,
            text,
            ..Footprint::default()
        }
    }

    const TAKEN: Taken = Taken { now: 20 << 20, row_group: 1 << 20 };

    fn plan(limit: u64) -> Result<Budget> {
        Budget::plan(limit, TAKEN, &footprint(), [4096, 16_384])
    }

    #[test]
    fn what_is_said_to_be_enough_is_enough() {
        let error = plan(100 << 20).unwrap_err();
        assert!(error.is::<Usage>());
        let text = error.to_string();
        // Two blocks of 48 MiB and a weight of 12 MiB, by hand.
        assert!(text.contains("108.00 MiB") && text.contains("100.00 MiB"), "{text}");
        let least: f64 = text.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let least = least as u64;
        assert!(least > 20 + 108 + 8, "{text}");
        let budget = plan(least << 20).unwrap();
        assert!(budget.max_tokens >= 256 && budget.fits([(256, 0)].into_iter()), "{budget:?}");
        assert!(plan((least - 1) << 20).is_err());
    }

    #[test]
    fn a_larger_limit_gives_larger_passes_until_they_gain_nothing() {
        let tokens = |limit: u64| {
            let budget = plan(limit).unwrap();
            let batch = budget.max_tokens;
            let pass = (1..).take_while(|n| budget.fits(vec![(batch, 0); *n].into_iter())).count() * batch;
            (batch, pass)
        };
        let (small, medium, large) = (tokens(200 << 20), tokens(400 << 20), tokens(64 << 30));
        assert!(small.0 < medium.0 && small.1 < medium.1, "{small:?} {medium:?}");
        assert_eq!(large, (4096, 16_384), "no more than was asked for, and what a pass can use");
    }

    #[test]
    fn pixels_bound_batches_and_passes() {
        let vision = BlockSize { elements: 3 << 20, largest: 1 << 20, outputs: 9 * 512 };
        let footprint = Footprint { vision, patch_pixels: 1176, patch_width: 512, ..footprint() };
        let budget = Budget::plan(500 << 20, TAKEN, &footprint, [4096, 16_384]).unwrap();
        let pixels = budget.max_pixel_bytes;
        assert!((1024 * 1176 * 4..100 << 20).contains(&pixels), "{pixels}");
        assert!(budget.fits([(256, pixels)].into_iter()));
        assert!(!budget.fits(vec![(256, pixels); 40].into_iter()));
        assert!(budget.fits(vec![(256, 0); 40].into_iter()));
    }
}
