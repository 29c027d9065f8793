//! What `extract` and `distill` have in common.
//!
//! ```text
//! ids <- dataset <- text, image <- models        ids <- cache
//! ```
//!
//! Data flows one way, and [`cache`] never sees the models: the format compiles without candle
//! (`cargo check -p shared --no-default-features`), because the cache directory is the only
//! contract between the two programs.

pub mod agreement;
pub mod cache;
pub mod dataset;
pub mod explained;
pub mod html;
pub mod ids;
pub mod image;
pub mod lock;
pub mod memory;
#[cfg(feature = "models")]
pub mod models;
mod say;
pub mod settings;
pub mod text;
mod vectorised;
pub mod wildcard;
