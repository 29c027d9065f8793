//! The order of patches in which each attention window is a run.

use crate::image::ImageInput;
use crate::models::qwen_vl::boundaries;

/// Merged patches reordered window by window; frames stay whole and in their order.
pub(super) struct Windows {
    /// For each place the merged patch that comes there.
    pub order: Vec<u32>,
    /// Where each window begins and the last one ends, in merged patches.
    pub boundaries: Vec<usize>,
}

impl Windows {
    /// Windows of `side` x `side` merged patches over images whose grids count patches, `merge` a side to a merged
    /// one. Windows at the right and at the bottom hold what is left.
    pub(super) fn of(images: &[ImageInput], side: usize, merge: usize) -> Self {
        let (mut order, mut lengths) = (Vec::new(), Vec::new());
        let mut frame_start = 0;
        for [frames, rows, columns] in images.iter().map(|image| image.grid) {
            let (rows, columns) = (rows / merge, columns / merge);
            for _ in 0..frames {
                for (top, left) in corners(rows, columns, side) {
                    let before = order.len();
                    for row in top..(top + side).min(rows) {
                        let start = frame_start + row * columns;
                        order
                            .extend((left..(left + side).min(columns)).map(|column| (start + column) as u32));
                    }
                    lengths.push(order.len() - before);
                }
                frame_start += rows * columns;
            }
        }
        Self { order, boundaries: boundaries(lengths) }
    }

    /// For each merged patch its place in the order.
    pub(super) fn places(&self) -> Vec<u32> {
        let mut places = vec![0; self.order.len()];
        for (place, &patch) in self.order.iter().enumerate() {
            places[patch as usize] = place as u32;
        }
        places
    }
}

fn corners(rows: usize, columns: usize, side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(side).flat_map(move |top| (0..columns).step_by(side).map(move |left| (top, left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_runs_and_the_rest_is_smaller() {
        let image = |grid| ImageInput { pixels: Vec::new(), shape: Vec::new(), grid, num_tokens: 0 };
        // 3 x 5 merged patches in windows of 2 x 2, then a frame of 1 x 1.
        let windows = Windows::of(&[image([1, 6, 10]), image([1, 2, 2])], 2, 2);
        let expected = [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(windows.order, expected);
        assert_eq!(windows.boundaries, [0, 4, 8, 10, 12, 14, 15, 16]);
        let back: Vec<u32> = windows.places().iter().map(|&place| windows.order[place as usize]).collect();
        assert_eq!(back, (0..16).collect::<Vec<_>>());
    }
}
