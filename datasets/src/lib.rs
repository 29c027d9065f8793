//! The embedded toy: a small visual world of our own, with everything needed to run the method on it.
//!
//! - [`world`]: scenes of coloured shapes, their pictures, questions and answers, from a seed;
//! - [`splits`]: the folders of PNG files and LLaVA JSON that `extract` and `distill` read;
//! - [`tokenizers`]: two tokenizers of different kinds, trained on the world's own text;
//! - [`checkout`]: untrained checkpoints of two families, from a recipe and a seed.
//!
//! Everything is a function of the [`manifest`] (`datasets/toy/toy.toml`): the same seed gives the same
//! bytes. The one thing that is not made here is the teacher's training, which is
//! `distill run --stages finetune` on the world's training split (`make toy`).

pub mod checkout;
pub mod dice;
pub mod manifest;
#[cfg(test)]
mod oracle;
pub mod splits;
pub mod tokenizers;
pub mod world;
