//! JPEG through libjpeg-turbo's arithmetic (mozjpeg), whose pixels equal Pillow's bit for bit; decoders written
//! anew differ by up to 5 of 255.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::decode::check_size;
use super::{ImageError, RgbImage};

/// Decodes a JPEG file; gray becomes RGB, and so does CMYK, as Pillow converts it.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let starved = Cell::new(false);
    let reader = Watched { rest: bytes, starved: &starved };
    // libjpeg reports fatal errors by unwinding; nothing but this call's own state is touched.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_with(reader)));
    // libjpeg fills what is missing with gray and only warns; Pillow refuses such a file, and so do we.
    if starved.get() {
        return Err(ImageError::Truncated(format!("all of its {} bytes", bytes.len())));
    }
    decoded.unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<String>().cloned();
        Err(ImageError::Decode(message.unwrap_or_else(|| "libjpeg failed".into())))
    })
}

fn decode_with(reader: Watched<'_>) -> Result<RgbImage, ImageError> {
    let failed = |error: io::Error| ImageError::Decode(error.to_string());
    let decoder = Decompress::new_reader(reader).map_err(failed)?;
    let size = (u32::try_from(decoder.width()), u32::try_from(decoder.height()));
    let (Ok(width), Ok(height)) = size else {
        return Err(ImageError::Decode("its size is out of range".into()));
    };
    check_size(width, height)?;
    let has_four_inks = decoder.components().len() == 4;
    let target = if has_four_inks { ColorSpace::JCS_CMYK } else { ColorSpace::JCS_RGB };
    let mut lines = decoder.to_colorspace(target).map_err(failed)?;
    let mut data = vec![0; lines.min_flat_buffer_size()];
    lines.read_scanlines_into(&mut data).map_err(failed)?;
    lines.finish().map_err(failed)?;
    if has_four_inks {
        data = data.chunks_exact(4).flat_map(|ink| cmyk_to_rgb([ink[0], ink[1], ink[2], ink[3]])).collect();
    }
    Ok(RgbImage { width, height, data })
}

/// Files with four inks hold them inverted (Adobe's habit, which Pillow assumes of all), so 255 is no ink.
fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    // Pillow inverts the inks and takes `light - ink * light / 255`, the division rounded as below.
    let light = u32::from(black);
    [cyan, magenta, yellow].map(|inverted| {
        let product = u32::from(255 - inverted) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// A reader that remembers whether more was asked of it than there was.
struct Watched<'a> {
    rest: &'a [u8],
    starved: &'a Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.starved.set(self.starved.get() || (self.rest.is_empty() && !buffer.is_empty()));
        self.rest.read(buffer)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.starved.set(self.starved.get() || self.rest.is_empty());
        Ok(self.rest)
    }

    fn consume(&mut self, num_bytes: usize) {
        self.rest = &self.rest[num_bytes..];
    }
}
