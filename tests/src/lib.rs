//! What the cross-crate tests share.

pub mod counting;
pub mod damage;
pub mod distilled;
pub mod frozen;
pub mod generation;
pub mod goldens;
pub mod gpu;
pub mod grown;
pub mod jobs;
pub mod parity;
pub mod programs;
pub mod random;
pub mod reference;
pub mod rows;
pub mod tools;
