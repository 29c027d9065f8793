//! Qwen-VL's resize policy: sides that are multiples of a merge window, an area within bounds, the ratio nearly kept.

use super::ImageError;

const MAX_ASPECT_RATIO: u32 = 200;

/// The bounds of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmartResize {
    /// Both sides become multiples of it.
    pub factor: usize,
    /// Smallest area in pixels.
    pub min_pixels: usize,
    /// Largest area in pixels.
    pub max_pixels: usize,
}

impl SmartResize {
    /// The (width, height) that an image is resized to.
    ///
    /// # Errors
    /// When one side is over 200 times the other.
    pub fn target(&self, width: u32, height: u32) -> Result<(u32, u32), ImageError> {
        if f64::from(width.max(height)) / f64::from(width.min(height)) > f64::from(MAX_ASPECT_RATIO) {
            return Err(ImageError::AspectRatio { width, height, limit: MAX_ASPECT_RATIO });
        }
        let factor = self.factor as f64;
        let (w, h) = (f64::from(width), f64::from(height));
        // Python's `round` takes halves to the even neighbour, and so must we.
        let round = |side: f64| (side / factor).round_ties_even() * factor;
        let area = round(w) * round(h);
        let (new_width, new_height) = if area > self.max_pixels as f64 {
            let beta = (h * w / self.max_pixels as f64).sqrt();
            let shrink = |side: f64| (((side / beta) / factor).floor() * factor).max(factor);
            (shrink(w), shrink(h))
        } else if area < self.min_pixels as f64 {
            let beta = (self.min_pixels as f64 / (h * w)).sqrt();
            let grow = |side: f64| (side * beta / factor).ceil() * factor;
            (grow(w), grow(h))
        } else {
            (round(w), round(h))
        };
        Ok((new_width as u32, new_height as u32))
    }
}
