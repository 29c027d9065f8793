//! How features become bytes. One file per codec.

pub(super) mod lossless;
