//! Orientation: cameras store the sensor's rows and say in EXIF how to turn them; some programs say it in XMP instead.

use std::io::Cursor;

use super::RgbImage;

/// The orientation a file asks for, 1 to 8 as EXIF numbers them; 1 (upright) where it asks for none. As in Pillow, its
/// `xmp` counts where EXIF has no orientation at all.
pub(super) fn of(bytes: &[u8], xmp: Option<&[u8]>) -> u32 {
    let asked = in_exif(bytes).or_else(|| in_xmp(xmp?));
    asked.filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

/// Broken EXIF data are as good as none: Pillow, too, shows the image as it is stored.
fn in_exif(bytes: &[u8]) -> Option<u32> {
    let data = exif::Reader::new().read_from_container(&mut Cursor::new(bytes)).ok()?;
    data.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0)
}

/// The digit behind the first `tiff:Orientation="` or `<tiff:Orientation>`.
fn in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let values = xmp.windows(NAME.len()).enumerate().filter(|(_, name)| *name == NAME);
    let digit = |at: usize| {
        let rest = &xmp[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u32::from(digit - b'0'))
    };
    values.map(|(at, _)| at).find_map(digit)
}

/// The XMP of a JPEG file: the last segment of that name before the pixels.
pub(super) fn jpeg_xmp(bytes: &[u8]) -> Option<&[u8]> {
    const SIGNATURE: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    const APP1: u8 = 0xe1;
    const START_OF_SCAN: u8 = 0xda;
    let (mut rest, mut found) = (bytes.get(2..)?, None);
    while let [0xff, marker, high, low, ..] = *rest {
        // Any number of fill bytes may stand before a marker.
        if marker == 0xff {
            rest = &rest[1..];
            continue;
        }
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        if marker == START_OF_SCAN || rest.len() < end {
            break;
        }
        if marker == APP1 {
            found = rest[4.min(end)..end].strip_prefix(SIGNATURE).or(found);
        }
        rest = &rest[end..];
    }
    found
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
