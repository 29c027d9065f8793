//! One-dimensional positions: image tokens count like any other.

/// The position of each token, three times over.
pub(super) fn positions(num_tokens: usize) -> Vec<[u32; 3]> {
    (0..num_tokens as u32).map(|token| [token; 3]).collect()
}
