//! From encoded bytes to RGB, as Pillow's `Image.open(..)`, `exif_transpose` and `convert("RGB")` do.
//!
//! The format is told from the bytes, never from a name. Alpha is dropped (not blended), palettes are looked up, gray is
//! repeated, 16-bit colour keeps its high byte and 16-bit gray saturates at 255, which is what Pillow does with it.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader};

use super::{ImageError, RgbImage, gif, jpeg, orientation};

/// Largest number of pixels: Pillow's limit against decompression bombs.
pub const MAX_PIXELS: u64 = 178_956_970;

const JPEG_MAGIC: &[u8] = b"\xff\xd8\xff";
const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Where a PNG says whether it is gray (0).
const PNG_COLOUR_TYPE: usize = 25;

/// Decodes an image file, turned upright as its EXIF data asks.
///
/// # Errors
/// When the bytes are no image, a broken or cut-off one, or one of more than [`MAX_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let (image, xmp) = match bytes {
        jpeg if jpeg.starts_with(JPEG_MAGIC) => {
            (jpeg::decode(jpeg)?, orientation::jpeg_xmp(jpeg).map(<[u8]>::to_vec))
        }
        gif if gif.starts_with(gif::MAGIC) => (gif::decode(gif)?, None),
        other => decode_other(other)?,
    };
    Ok(orientation::upright(image, orientation::of(bytes, xmp.as_deref())))
}

/// Refuses an image by its header, before memory is taken for its pixels.
pub(super) fn check_size(width: u32, height: u32) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Decode("it has no pixels".into()));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge { width, height });
    }
    Ok(())
}

/// The image and its XMP.
fn decode_other(bytes: &[u8]) -> Result<(RgbImage, Option<Vec<u8>>), ImageError> {
    let failed = |error: image::ImageError| ImageError::Decode(error.to_string());
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|error| ImageError::Decode(error.to_string()))?;
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let xmp = decoder.xmp_metadata().unwrap_or_default();
    let is_gray = bytes.starts_with(PNG_MAGIC) && bytes.get(PNG_COLOUR_TYPE) == Some(&0);
    let data = match DynamicImage::from_decoder(decoder).map_err(failed)? {
        DynamicImage::ImageLuma8(image) => gray(image.iter().copied()),
        DynamicImage::ImageLumaA8(image) => gray(image.iter().copied().step_by(2)),
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => colour(image.chunks_exact(4), |value| value),
        DynamicImage::ImageLuma16(image) => gray(image.iter().copied().map(saturated)),
        // With a transparent value, 16-bit gray comes with an alpha that its file does not have.
        DynamicImage::ImageLumaA16(image) if is_gray => gray(image.iter().step_by(2).copied().map(saturated)),
        DynamicImage::ImageLumaA16(image) => gray(image.iter().step_by(2).map(|&value| high_byte(value))),
        DynamicImage::ImageRgb16(image) => colour(image.chunks_exact(3), high_byte),
        DynamicImage::ImageRgba16(image) => colour(image.chunks_exact(4), high_byte),
        other => {
            return Err(ImageError::Decode(format!("pixels of type {:?} are not supported", other.color())));
        }
    };
    Ok((RgbImage { width, height, data }, xmp))
}

fn saturated(value: u16) -> u8 {
    value.min(255) as u8
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn gray(values: impl Iterator<Item = u8>) -> Vec<u8> {
    values.flat_map(|value| [value; 3]).collect()
}

fn colour<'a, T: Copy + 'a>(pixels: impl Iterator<Item = &'a [T]>, byte: impl Fn(T) -> u8) -> Vec<u8> {
    pixels.flat_map(|pixel| [byte(pixel[0]), byte(pixel[1]), byte(pixel[2])]).collect()
}
