//! Which tokens see which, block by block. Everywhere else a token sees those before it.

use candle_core::{Device, Result};
use serde::Serialize;

use super::layers::{Rope, Sight};
use super::{DecoderConfig, PackedBatch};

/// What a decoder's blocks see.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pattern {
    /// The tokens before.
    Causal,
    /// What stands before a sample's first answer sees all of itself (PaliGemma).
    Question,
    /// The tokens before, and local blocks no further back than their window (Mistral, Qwen2).
    Windows(LocalBlocks),
    /// Tokens of an image see each other, and local blocks see no further back than their window (Gemma 3).
    Images(LocalBlocks),
}

/// Blocks with a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LocalBlocks {
    /// Which blocks they are, one answer for each block.
    pub is_local: Vec<bool>,
    /// How many tokens a token of a local block sees, itself included.
    pub window: usize,
    /// The base of their rotary embedding, where they have one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
}

impl Pattern {
    /// For skipping the usual in a fingerprint.
    pub(super) fn is_causal(&self) -> bool {
        *self == Self::Causal
    }

    /// How the blocks see the tokens of a batch, of whose samples `cached` tokens each came before; `rope` is that of blocks
    /// without a window.
    pub(super) fn views(
        &self,
        rope: Rope,
        config: &DecoderConfig,
        batch: &PackedBatch,
        cached: &[usize],
        device: &Device,
    ) -> Result<Views<'_>> {
        Ok(match self {
            Self::Causal => Views { rope, sights: None, local: None },
            Self::Question => {
                let sights = sights(batch, cached, &question_ends(batch), None);
                Views { rope, sights: Some(sights), local: None }
            }
            Self::Windows(local) => {
                let local = local.views(config, batch, cached, &own_ends(batch), device)?;
                // Where every window reaches its sample's beginning it changes nothing, and the usual way is faster.
                let is_cut = local.sights.iter().any(|[from, _]| *from > 0);
                Views { rope, sights: None, local: is_cut.then_some(local) }
            }
            Self::Images(local) => {
                let ends = image_ends(batch);
                let local = local.views(config, batch, cached, &ends, device)?;
                Views { rope, sights: Some(sights(batch, cached, &ends, None)), local: Some(local) }
            }
        })
    }
}

impl LocalBlocks {
    /// How they see the tokens of a batch, whose tokens are parts of what ends at `ends`.
    fn views(
        &self,
        config: &DecoderConfig,
        batch: &PackedBatch,
        cached: &[usize],
        ends: &[usize],
        device: &Device,
    ) -> Result<LocalViews<'_>> {
        let positions = || batch.positions.iter().map(|position| position[0]).collect::<Vec<_>>();
        let rope = self.rope_theta.map(|theta| Rope::new(&positions(), config.head_dim, theta, device));
        let sights = sights(batch, cached, ends, Some(self.window));
        Ok(LocalViews { is_local: &self.is_local, rope: rope.transpose()?, sights })
    }
}

/// How the blocks see the tokens of one batch.
pub(super) struct Views<'a> {
    rope: Rope,
    sights: Option<Vec<Sight>>,
    local: Option<LocalViews<'a>>,
}

/// Which blocks are local, and what is theirs.
struct LocalViews<'a> {
    is_local: &'a [bool],
    /// That of the other blocks where there is none.
    rope: Option<Rope>,
    sights: Vec<Sight>,
}

/// How one block sees the tokens.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Its rotary embedding.
    pub rope: &'a Rope,
    /// Which tokens each token sees; those before it if nothing is said.
    pub sights: Option<&'a [Sight]>,
}

impl Views<'_> {
    /// That of one block.
    pub(super) fn of(&self, block: usize) -> View<'_> {
        match &self.local {
            Some(local) if local.is_local.get(block) == Some(&true) => {
                View { rope: local.rope.as_ref().unwrap_or(&self.rope), sights: Some(&local.sights) }
            }
            _ => View { rope: &self.rope, sights: self.sights.as_deref() },
        }
    }
}

/// What each packed token sees of its sample, the `cached` tokens of it counted: from the first or as far back as the
/// window, to itself or to the end of its block, `ends` in packed tokens.
fn sights(batch: &PackedBatch, cached: &[usize], ends: &[usize], window: Option<usize>) -> Vec<Sight> {
    let mut sights = Vec::with_capacity(ends.len());
    for (sample, bounds) in batch.cu_seqlens.windows(2).enumerate() {
        let before = cached.get(sample).copied().unwrap_or(0);
        for (token, &end) in (bounds[0]..bounds[1]).zip(&ends[bounds[0]..]) {
            let after = before + token - bounds[0] + 1;
            let from = window.map_or(0, |window| after.saturating_sub(window));
            sights.push([from, after.max(before + end - bounds[0])]);
        }
    }
    sights
}

/// For each packed token the end of itself.
fn own_ends(batch: &PackedBatch) -> Vec<usize> {
    (1..=batch.num_tokens()).collect()
}

/// For each packed token the end of what it is part of: its sample's question, or itself.
fn question_ends(batch: &PackedBatch) -> Vec<usize> {
    let mut ends = own_ends(batch);
    for (bounds, &len) in batch.cu_seqlens.windows(2).zip(&batch.question_lens) {
        ends[bounds[0]..bounds[0] + len].fill(bounds[0] + len);
    }
    ends
}

/// For each packed token the end of what it is part of: a run of image tokens, or itself.
fn image_ends(batch: &PackedBatch) -> Vec<usize> {
    let mut ends = own_ends(batch);
    let starts_sample = |row: u32| batch.cu_seqlens.binary_search(&(row as usize)).is_ok();
    for run in batch.image_rows.chunk_by(|&a, &b| a + 1 == b && !starts_sample(b)) {
        if let [first, .., last] = run {
            ends[*first as usize..=*last as usize].fill(*last as usize + 1);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two samples of five and four tokens, images at 1 and 2 and at 4, and one that opens the second sample.
    fn batch() -> PackedBatch {
        PackedBatch {
            input_ids: vec![0; 9],
            cu_seqlens: vec![0, 5, 9],
            question_lens: vec![3, 4],
            image_rows: vec![1, 2, 4, 5, 6],
            ..PackedBatch::default()
        }
    }

    #[test]
    fn images_see_themselves_and_no_other_sample() {
        let ends = image_ends(&batch());
        assert_eq!(ends, [1, 3, 3, 4, 5, 7, 7, 8, 9]);
        let first = [[0, 1], [0, 3], [0, 3], [0, 4], [0, 5]];
        let second = [[0, 2], [0, 2], [0, 3], [0, 4]];
        assert_eq!(sights(&batch(), &[], &ends, None), [&first[..], &second].concat());
        // A window of two ends backwards what an image opens forwards.
        let first = [[0, 1], [0, 3], [1, 3], [2, 4], [3, 5]];
        let second = [[0, 2], [0, 2], [1, 3], [2, 4]];
        assert_eq!(sights(&batch(), &[], &ends, Some(2)), [&first[..], &second].concat());
    }

    #[test]
    fn a_question_sees_itself_and_what_follows_what_was_before() {
        let ends = question_ends(&batch());
        let first = [[0, 3], [0, 3], [0, 3], [0, 4], [0, 5]];
        assert_eq!(sights(&batch(), &[], &ends, None), [&first[..], &[[0, 4]; 4]].concat());
        // One more token for each, with six and seven tokens before it.
        let step = PackedBatch::step(&[8, 8], &[6, 7]);
        let ends = question_ends(&step);
        assert_eq!(sights(&step, &[6, 7], &ends, None), [[0, 7], [0, 8]]);
        assert_eq!(sights(&step, &[6, 7], &image_ends(&step), Some(3)), [[4, 7], [5, 8]]);
    }
}
