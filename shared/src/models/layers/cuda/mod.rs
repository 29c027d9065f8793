//! What the layers do on an NVIDIA GPU: fused kernels of our own for norms, rotary embeddings and activations, each with its
//! backward, for frozen biases and for AdamW's update, and attention that keeps no matrix of scores.
//!
//! [`plan`] says how kernels are launched and [`flash`] which attention has one; both are tested without a GPU. The rest exists in a build with CUDA alone.

#[cfg(feature = "cuda")]
pub(super) mod attention;
pub(super) mod flash;
#[cfg(feature = "cuda")]
pub(super) mod machine;
#[cfg(feature = "cuda")]
pub(super) mod ops;
pub(super) mod plan;
