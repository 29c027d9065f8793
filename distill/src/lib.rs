//! Trains a Recalibrator and a student VLM from a feature cache; the teacher is never loaded.
//!
//! The method is GenRecal (arXiv 2506.15681), in three stages; see [`stage`] for the one table that
//! says what each trains and which losses it takes.

pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod eval;
pub mod export;
pub mod lora;
pub mod losses;
pub mod methods;
pub mod recalibrator;
pub mod report;
pub mod stage;
pub mod student;
pub mod train;
