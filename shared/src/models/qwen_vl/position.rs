//! M-RoPE positions: text advances all three axes together, an image spans a box of height and width positions at one
//! moment and advances the text by its longer side.

use std::ops::Range;

/// An image among the tokens.
pub(super) struct ImageBox {
    /// Its image tokens, row by row of the merged grid.
    pub tokens: Range<usize>,
    /// (temporal, height, width) of the merged grid.
    pub grid: [usize; 3],
}

/// (temporal, height, width) position of each of `num_tokens` tokens.
pub(super) fn positions(num_tokens: usize, images: &[ImageBox]) -> Vec<[u32; 3]> {
    let mut positions = Vec::with_capacity(num_tokens);
    let mut next = 0;
    for image in images {
        push_text(&mut positions, image.tokens.start, &mut next);
        let [frames, rows, columns] = image.grid.map(|side| side as u32);
        for frame in 0..frames {
            for row in 0..rows {
                positions.extend((0..columns).map(|column| [next + frame, next + row, next + column]));
            }
        }
        next += rows.max(columns);
    }
    push_text(&mut positions, num_tokens, &mut next);
    positions
}

/// Text up to token `end`.
fn push_text(positions: &mut Vec<[u32; 3]>, end: usize, next: &mut u32) {
    while positions.len() < end {
        positions.push([*next; 3]);
        *next += 1;
    }
}
