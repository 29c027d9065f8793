//! The first frame of a GIF, where it lies on its screen, as Pillow shows it: around the frame is the transparent colour, or
//! else the first of the palette, and a frame that is larger than the screen enlarges it.

use gif::{DecodeOptions, DecodingError, Frame, MemoryLimit};

use super::decode::check_size;
use super::{ImageError, RgbImage};

/// How every GIF begins.
pub(super) const MAGIC: &[u8] = b"GIF8";

/// Decodes the first frame of a GIF file.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let failed = |error: DecodingError| ImageError::Decode(error.to_string());
    let mut options = DecodeOptions::new();
    // The size is checked before memory is taken for it.
    options.set_memory_limit(MemoryLimit::Unlimited);
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(bytes).map_err(failed)?;
    let screen = [decoder.width(), decoder.height()];
    let frame = decoder.next_frame_info().map_err(failed)?;
    let frame = frame.ok_or_else(|| ImageError::Decode("it has no frame".into()))?.clone();
    let [width, height] = canvas(screen, &frame);
    check_size(width, height)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = decoder.palette().map_err(failed)?;
    let around = colour(palette, frame.transparent.unwrap_or(0));
    let mut data = around.repeat(width as usize * height as usize);
    let frame_width = usize::from(frame.width).max(1);
    for (row, indices) in indices.chunks_exact(frame_width).enumerate() {
        let start = (usize::from(frame.top) + row) * width as usize + usize::from(frame.left);
        let pixels = data[3 * start..].chunks_exact_mut(3);
        pixels.zip(indices).for_each(|(pixel, &index)| pixel.copy_from_slice(&colour(palette, index)));
    }
    Ok(RgbImage { width, height, data })
}

/// (width, height) that hold both the screen and the frame.
fn canvas([width, height]: [u16; 2], frame: &Frame<'_>) -> [u32; 2] {
    let right = u32::from(frame.left) + u32::from(frame.width);
    let bottom = u32::from(frame.top) + u32::from(frame.height);
    [right.max(u32::from(width)), bottom.max(u32::from(height))]
}

/// The colour behind an index; beyond the palette all is black.
fn colour(palette: &[u8], index: u8) -> [u8; 3] {
    let at = 3 * usize::from(index);
    palette.get(at..at + 3).and_then(|colour| colour.try_into().ok()).unwrap_or_default()
}
