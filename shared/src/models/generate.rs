//! Greedy generation: several samples at a time, packed, with a cache of keys and values.

use candle_core::{DType, Result, Tensor, bail};

use super::batch::{Encoded, PackedBatch};
use super::load::Model;
use super::text_model::KvCache;

/// The most likely continuation of each question, up to `max_new_tokens` tokens or the first token of `eos`, which
/// is kept. Samples that end leave the batch.
///
/// # Errors
/// When a sample is empty, a shape does not fit the model, or the device fails.
pub fn generate_greedy(
    model: &Model,
    questions: &[&Encoded],
    max_new_tokens: usize,
    eos: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let mut answers = vec![Vec::new(); questions.len()];
    if questions.is_empty() || max_new_tokens == 0 {
        return Ok(answers);
    }
    let mut cache = KvCache::default();
    let mut batch = PackedBatch::pack(questions);
    let mut embeds = model.body.embed(&batch)?.detach();
    // Which question each sample of the batch is, and the position its next token takes: one past the largest
    // so far, on all three axes, also after an image whose positions run ahead of its token count.
    let mut active: Vec<usize> = (0..questions.len()).collect();
    let mut next: Vec<u32> = questions.iter().map(|question| next_position(&question.positions)).collect();
    loop {
        let features = model.body.decode_with(&embeds, &batch, Some(&mut cache))?;
        let tokens = likeliest(model, &features, &batch.cu_seqlens)?;
        for (&question, &token) in active.iter().zip(&tokens) {
            answers[question].push(token);
        }
        let open: Vec<usize> = (0..active.len())
            .filter(|&i| !eos.contains(&tokens[i]) && answers[active[i]].len() < max_new_tokens)
            .collect();
        if open.is_empty() {
            return Ok(answers);
        }
        if open.len() < active.len() {
            cache.keep(&open);
        }
        let step: Vec<u32> = open.iter().map(|&i| tokens[i]).collect();
        let positions: Vec<u32> = open.iter().map(|&i| next[i]).collect();
        active = open.iter().map(|&i| active[i]).collect();
        next = positions.iter().map(|position| position + 1).collect();
        batch = PackedBatch::step(&step, &positions);
        embeds = model.body.embed(&batch)?.detach();
    }
}

fn next_position(positions: &[[u32; 3]]) -> u32 {
    positions.iter().flatten().max().map_or(0, |last| last + 1)
}

/// The likeliest token after each sample's last one; the first of equals, as PyTorch's argmax.
fn likeliest(model: &Model, features: &Tensor, cu_seqlens: &[usize]) -> Result<Vec<u32>> {
    let mut last = Vec::with_capacity(cu_seqlens.len());
    for sample in cu_seqlens.windows(2) {
        match sample[1] > sample[0] {
            true => last.push(sample[1] as u32 - 1),
            false => bail!("a sample without tokens cannot be continued"),
        }
    }
    let rows = features.detach().index_select(&Tensor::new(last, features.device())?, 0)?;
    model.head.logits(&rows)?.detach().to_dtype(DType::F32)?.argmax(1)?.to_vec1()
}
