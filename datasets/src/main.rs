//! Makes the toy.
fn main() {}
