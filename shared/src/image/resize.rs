//! Antialiased resizing, equal to torchvision's bit for bit.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{ImageError, RgbImage};

/// The filters that processors name, with Pillow's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFilter {
    /// 1
    Lanczos,
    /// 2
    Bilinear,
    /// 3
    Bicubic,
}

impl ResizeFilter {
    /// The filter behind Pillow's number in a `preprocessor_config.json`.
    pub fn from_pillow(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    fn kernel(self) -> FilterType {
        match self {
            Self::Lanczos => FilterType::Lanczos3,
            Self::Bilinear => FilterType::Bilinear,
            Self::Bicubic => FilterType::CatmullRom,
        }
    }
}

/// Resizes to `width` x `height`, whatever that does to the ratio of the sides.
///
/// # Errors
/// When the target has no pixels.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: ResizeFilter) -> Result<RgbImage, ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Resize(format!("to {width} x {height} pixels")));
    }
    // The library goes down first and torchvision across; both round to bytes in between, so the order shows. Two calls, each in
    // one direction, put it right: one call differs in a tenth of all values, by up to 6 of 255.
    let across = pass(image, width, image.height, filter)?;
    pass(across.as_ref().unwrap_or(image), width, height, filter)
        .map(|down| down.or(across).unwrap_or_else(|| image.clone()))
}

/// One direction; none if there is nothing to do.
fn pass(image: &RgbImage, width: u32, height: u32, filter: ResizeFilter) -> Result<Option<RgbImage>, ImageError> {
    if (image.width, image.height) == (width, height) {
        return Ok(None);
    }
    let source = ImageRef::new(image.width, image.height, &image.data, PixelType::U8x3)
        .map_err(|error| ImageError::Resize(error.to_string()))?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter.kernel())).use_alpha(false);
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| ImageError::Resize(error.to_string()))?;
    Ok(Some(RgbImage { width, height, data: target.into_vec() }))
}
