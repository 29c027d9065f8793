//! Losses on features, never holding (tokens x vocabulary): what [`crate::methods`] and the stages are made of.
//!
//! | file | what | formula, summed over scored tokens |
//! |---|---|---|
//! | [`head`] | cross entropy and forward divergence through one head, in one pass | -log q\[target\]; KL(p \|\| q) |
//! | [`frozen_head`] | the teacher's head as the cache's file has it, for [`head`] | |
//! | [`chunks`] | any score of whole rows of logits | the caller's |
//! | [`log_probs`] | any score of a few chosen tokens a row | the caller's |
//! | [`divergence()`] | the divergence's terms, without cancellation | p (e^d - 1 - d), d = log q - log p |
//! | [`squared_error()`] | features beside the teacher's, without a head | mean (r - z)^2 |
//!
//! q = softmax(W r) of the features r that learn, p = softmax(W z) of the teacher's. Every loss returns sums, so that
//! a step adds its microbatches and divides once by the number of tokens.

pub mod chunks;
pub mod divergence;
pub mod frozen_head;
pub mod head;
pub mod log_probs;
pub mod squared_error;

pub use divergence::divergence;
pub use frozen_head::{HEAD, HeadWeight, MappedHead};
pub use head::{HeadLossOptions, HeadLossOutput, head_loss};
pub use squared_error::squared_error;
