//! CLIP's resize policy: the shorter side to one size, then a window from the middle.

use super::RgbImage;

/// The (width, height) whose shorter side is `side`, the ratio kept.
pub fn shorter_side(width: u32, height: u32, side: u32) -> (u32, u32) {
    // In integers, as Python truncates the quotient of integers below 2^53.
    let long = |long: u32, short: u32| (u64::from(side) * u64::from(long) / u64::from(short.max(1))) as u32;
    if width <= height { (side, long(height, width)) } else { (long(width, height), side) }
}

/// The window of `width` x `height` in the middle; what it lacks at an image that is smaller is black.
pub fn centre_crop(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let lacking = |window: u32, side: u32| window.saturating_sub(side);
    let (lack_x, lack_y) = (lacking(width, image.width), lacking(height, image.height));
    let padded = pad(image, [lack_x / 2, lack_y / 2], [image.width + lack_x, image.height + lack_y], [0; 3]);
    let (left, top) = ((padded.width - width) / 2, (padded.height - height) / 2);
    crop(&padded, left, top, width, height)
}

/// The image at `[left, top]` of a canvas of `[width, height]` in one colour; it must fit.
pub fn pad(image: &RgbImage, [left, top]: [u32; 2], [width, height]: [u32; 2], colour: [u8; 3]) -> RgbImage {
    if (width, height) == (image.width, image.height) {
        return image.clone();
    }
    let mut data = colour.repeat(width as usize * height as usize);
    let line = 3 * image.width as usize;
    for (y, source) in image.data.chunks_exact(line.max(1)).enumerate() {
        let start = 3 * ((top as usize + y) * width as usize + left as usize);
        data[start..start + line].copy_from_slice(source);
    }
    RgbImage { width, height, data }
}

/// The part of an image; it must lie inside.
pub fn crop(image: &RgbImage, left: u32, top: u32, width: u32, height: u32) -> RgbImage {
    let mut data = Vec::with_capacity(3 * width as usize * height as usize);
    for y in top..top + height {
        let start = 3 * (y as usize * image.width as usize + left as usize);
        data.extend_from_slice(&image.data[start..start + 3 * width as usize]);
    }
    RgbImage { width, height, data }
}
