//! Generation: several samples at a time, packed, with a cache of keys and values.

use candle_core::{DType, Result, Tensor, bail};

use super::batch::{Encoded, PackedBatch};
use super::load::Model;
use super::text_model::KvCache;

mod defaults;
mod sampler;

pub use defaults::GenerationDefaults;
use sampler::Dice;
pub use sampler::{Sampling, penalise};

/// How tokens are chosen, and when to end.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// At most so many tokens an answer.
    pub max_new_tokens: usize,
    /// The tokens that end an answer; the first of them is kept.
    pub eos: &'a [u32],
    /// See [`penalise`]; 1 changes nothing. The prompt's tokens count as seen.
    pub repetition_penalty: f64,
    /// How tokens are drawn; none takes the likeliest, the first of equals.
    pub sampling: Option<Sampling>,
}

/// What a model wrote after one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Whether it ended by itself, not at the limit.
    pub is_complete: bool,
}

/// The most likely continuation of each question, up to `max_new_tokens` tokens or the first token of `eos`, which
/// is kept.
///
/// # Errors
/// As [`generate`].
pub fn generate_greedy(
    model: &Model,
    questions: &[&Encoded],
    max_new_tokens: usize,
    eos: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let generation = Generation { max_new_tokens, eos, repetition_penalty: 1.0, sampling: None };
    let answers = generate(model, questions, &vec![0; questions.len()], &generation)?;
    Ok(answers.into_iter().map(|answer| answer.tokens).collect())
}

/// An answer to each question. Samples that end leave the batch; an answer follows from its question and its seed
/// alone, whatever else is in the batch (on a GPU, but for rounding).
///
/// # Errors
/// When there is not one seed a question, a sample is empty, a shape does not fit the model, or the device fails.
pub fn generate(
    model: &Model,
    questions: &[&Encoded],
    seeds: &[u64],
    generation: &Generation,
) -> Result<Vec<Generated>> {
    if questions.len() != seeds.len() {
        bail!("{} questions and {} seeds", questions.len(), seeds.len())
    }
    let mut answers: Vec<Answer> =
        questions.iter().zip(seeds).map(|(question, seed)| Answer::new(question, *seed)).collect();
    let limit = generation.max_new_tokens;
    if questions.is_empty() || limit == 0 {
        return Ok(vec![Generated::default(); questions.len()]);
    }
    let mut cache = KvCache::default();
    let mut batch = PackedBatch::pack(questions);
    let mut embeds = model.body.embed(&batch)?.detach();
    // Which answer each sample of the batch is.
    let mut active: Vec<usize> = (0..questions.len()).collect();
    loop {
        let features = model.body.decode_with(&embeds, &batch, Some(&mut cache))?;
        let logits = last_logits(model, &features, &batch.cu_seqlens)?;
        let tokens = choose(&logits, &mut answers, &active, generation)?;
        for (&answer, &token) in active.iter().zip(&tokens) {
            answers[answer].take(token, generation.eos);
        }
        let open: Vec<usize> = (0..active.len()).filter(|&at| answers[active[at]].is_open(limit)).collect();
        if open.is_empty() {
            return Ok(answers.into_iter().map(|answer| answer.generated).collect());
        }
        if open.len() < active.len() {
            cache.keep(&open);
        }
        active = open.iter().map(|&at| active[at]).collect();
        let step: Vec<u32> = open.iter().map(|&at| tokens[at]).collect();
        let positions: Vec<u32> = active.iter().map(|&answer| answers[answer].next_position()).collect();
        batch = PackedBatch::step(&step, &positions);
        embeds = model.body.embed(&batch)?.detach();
    }
}

/// An answer in the making.
struct Answer<'a> {
    question: &'a Encoded,
    generated: Generated,
    dice: Dice,
    /// The position after the question: one past the largest on all three axes, also after an image whose positions run
    /// ahead of its token count.
    start: u32,
}

impl<'a> Answer<'a> {
    fn new(question: &'a Encoded, seed: u64) -> Self {
        let start = question.positions.iter().flatten().max().map_or(0, |last| last + 1);
        Self { question, generated: Generated::default(), dice: Dice::new(seed), start }
    }

    fn take(&mut self, token: u32, eos: &[u32]) {
        self.generated.tokens.push(token);
        self.generated.is_complete = eos.contains(&token);
    }

    fn is_open(&self, limit: usize) -> bool {
        !self.generated.is_complete && self.generated.tokens.len() < limit
    }

    /// Of the token taken last.
    fn next_position(&self) -> u32 {
        self.start + self.generated.tokens.len() as u32 - 1
    }
}

/// The next token of each active answer, from its logits (S, V).
fn choose(
    logits: &Tensor,
    answers: &mut [Answer],
    active: &[usize],
    generation: &Generation,
) -> Result<Vec<u32>> {
    if generation.sampling.is_none() && generation.repetition_penalty == 1.0 {
        return logits.argmax(1)?.to_vec1();
    }
    let mut rows = logits.to_vec2::<f32>()?;
    let mut tokens = Vec::with_capacity(rows.len());
    for (scores, &answer) in rows.iter_mut().zip(active) {
        let answer = &mut answers[answer];
        if generation.repetition_penalty != 1.0 {
            let seen = [answer.question.prompt.input_ids.as_slice(), &answer.generated.tokens].concat();
            penalise(scores, &seen, generation.repetition_penalty as f32);
        }
        tokens.push(match generation.sampling {
            Some(sampling) => sampling.draw(scores, &mut answer.dice),
            None => likeliest(scores),
        });
    }
    Ok(tokens)
}

/// The first of the highest scores, as PyTorch's argmax.
fn likeliest(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best as u32
}

/// Logits after each sample's last token, (S, V) in float32.
fn last_logits(model: &Model, features: &Tensor, cu_seqlens: &[usize]) -> Result<Tensor> {
    let mut last = Vec::with_capacity(cu_seqlens.len());
    for sample in cu_seqlens.windows(2) {
        match sample[1] > sample[0] {
            true => last.push(sample[1] as u32 - 1),
            false => bail!("a sample without tokens cannot be continued"),
        }
    }
    let rows = features.detach().index_select(&Tensor::new(last, features.device())?, 0)?;
    model.head.logits(&rows)?.detach().to_dtype(DType::F32)
}
