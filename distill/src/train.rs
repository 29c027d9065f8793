//! Training: an explicit loop, no callbacks.
//!
//! ```text
//! run (stages in order) -> stage loop -> step (microbatches, clip, update) -> terms (losses of one microbatch)
//!                                     -> eval (leakage controls), metrics, run log, checkpoint
//! ```

pub mod aligned;
mod append_file;
pub mod checkpoint;
pub mod ema;
pub mod identity;
mod lock;
pub mod metrics;
pub mod optim;
pub mod progress;
pub mod run;
pub mod run_log;
pub mod schedule;
pub mod stage_loop;
pub mod step;
pub mod student_features;
pub mod summary;
pub mod teacher;
pub mod tensorboard;
pub mod terms;
