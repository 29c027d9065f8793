//! What the cross-crate tests share.

pub mod programs;
pub mod reference;
pub mod rows;
