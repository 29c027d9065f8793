//! Losses on features: one file each.
//!
//! | loss | file | formula, summed over scored tokens |
//! |---|---|---|
//! | cross entropy and forward divergence through a head | [`head`] | -log q\[target\]; KL(p \|\| q) |
//!
//! q = softmax(W r) of the features r that learn, p = softmax(W z) of the teacher's. Every loss returns sums, so that
//! a step adds its microbatches and divides once by the number of tokens.

pub mod head;

pub use head::{HeadLossOptions, HeadLossOutput, head_loss};
