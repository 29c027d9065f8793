//! EXIF orientation: cameras store the sensor's rows and say how to turn them.

use std::io::Cursor;

use super::RgbImage;

/// The orientation a file asks for, 1 to 8 as EXIF numbers them; 1 (upright) where it asks for none.
pub(super) fn of(bytes: &[u8]) -> u32 {
    // Broken EXIF data are as good as none: Pillow, too, shows the image as it is stored.
    let Ok(data) = exif::Reader::new().read_from_container(&mut Cursor::new(bytes)) else { return 1 };
    let field = data.get_field(exif::Tag::Orientation, exif::In::PRIMARY);
    field.and_then(|field| field.value.get_uint(0)).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

/// Turns an image upright.
pub(super) fn upright(image: RgbImage, orientation: u32) -> RgbImage {
    if orientation == 1 {
        return image;
    }
    let (width, height) = (image.width as usize, image.height as usize);
    let swapped = orientation >= 5;
    let (new_width, new_height) = if swapped { (height, width) } else { (width, height) };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..new_height {
        for x in 0..new_width {
            // Where the pixel that belongs at (x, y) is stored.
            let (column, row) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            let at = 3 * (row * width + column);
            data.extend_from_slice(&image.data[at..at + 3]);
        }
    }
    RgbImage { width: new_width as u32, height: new_height as u32, data }
}
