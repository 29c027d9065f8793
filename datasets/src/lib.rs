//! Two small visual worlds of our own, with everything needed to run the method on them: the embedded toy and the grown-up
//! world of the replica.
//!
//! - [`world`]: scenes of coloured shapes, digits and letters, their pictures, questions and answers, from a seed;
//! - [`splits`]: the folders of PNG files and LLaVA JSON that `extract` and `distill` read;
//! - [`choices`]: questions with four options; [`benchmark`]: a split as multiple choice, in the formats of MMBench and MMMU;
//! - [`tokenizers`]: two tokenizers of different kinds, trained on the world's own text;
//! - [`checkout`]: untrained checkpoints of two families, from a recipe and a seed;
//! - [`deal`]: rows of another dataset dealt into training and test.
//!
//! Everything is a function of a [`manifest`] (`datasets/toy/toy.toml`, `datasets/replica/world.toml`): the same seed gives
//! the same bytes. The one thing that is not made here is the teachers' training, which is
//! `distill run --stages finetune` on a world's training split (`make toy`).

pub mod benchmark;
pub mod checkout;
pub mod choices;
pub mod deal;
pub mod dice;
pub mod manifest;
#[cfg(test)]
mod oracle;
pub mod splits;
pub mod tokenizers;
pub mod world;
