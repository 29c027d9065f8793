//! Text on its way into HTML: `distill report` and `extract inspect` write pages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Text as HTML shows it literally.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// An image file as a page holds it, a `data:` URI; `None` where its first bytes are of no format that browsers show.
#[must_use]
pub fn data_uri(image: &[u8]) -> Option<String> {
    let kind = match image {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [b'B', b'M', ..] => "bmp",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => return None,
    };
    Some(format!("data:image/{kind};base64,{}", STANDARD.encode(image)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_what_it_is() {
        // Base64 by Python's base64.b64encode.
        assert_eq!(data_uri(b"BM!").as_deref(), Some("data:image/bmp;base64,Qk0h"));
        assert_eq!(data_uri(b"\xff\xd8\xff\xe0").as_deref(), Some("data:image/jpeg;base64,/9j/4A=="));
        assert_eq!(data_uri(b"<svg>"), None);
    }
}
