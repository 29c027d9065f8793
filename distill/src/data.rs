//! Samples: where they come from, in which order, read ahead, packed.
//!
//! ```text
//! caches, datasets -> source -> loader (ahead, on its own threads) -> batch (microbatches with their row maps)
//!               sampler, disk_order, mixture (order) ^
//! ```

pub mod ahead;
pub mod align;
pub mod batch;
pub mod disk_order;
pub mod index;
pub mod loader;
pub mod mixture;
pub mod sampler;
pub mod source;
pub mod spill;
pub mod teacher_sample;
