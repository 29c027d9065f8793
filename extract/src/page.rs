//! One sample as a page of HTML: its images under the grid of their tokens, its text token by token in the colours of its spans,
//! and for each token with a feature how long that vector is. The page needs no other file.

use std::fmt::Write;
use std::ops::Range;

use shared::cache::{CachedImage, SampleMeta};
use shared::html::{data_uri, escape};
use shared::ids::Digest;

use crate::paint::{Kind, kinds, visible};

const STYLE: &str = include_str!("page.css");

/// The page. `images` are encoded files in any order, found by their digests; `features` are those of `meta.positions`, each
/// of `width` values.
pub fn page(meta: &SampleMeta, images: &[Vec<u8>], features: &[f32], width: usize) -> String {
    let norms = Norms::of(meta, features, width);
    let id = meta.row_id.as_deref().unwrap_or("without an id");
    let title = escape(&format!("Sample {} ({id})", meta.key));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style>\
         </head><body>\n<h1>{title}</h1>\n<p>Row {} of {}. {} tokens, {} with features; a bar under a token is as strong as \
         its feature is long, the longest is {:.4}.</p>\n",
        meta.row,
        escape(&meta.source),
        meta.input_ids.len(),
        meta.positions.len(),
        norms.longest
    );
    for (number, image) in meta.images.iter().enumerate() {
        let file = images.iter().find(|file| Digest::of(file) == image.digest);
        html += &figure(number, image, file.map(Vec::as_slice), &norms);
    }
    html += "<p>";
    for kind in Kind::ALL {
        let _ = write!(html, "<span class=\"{}\">{}</span> ", class(kind), kind.name());
    }
    html + "</p>\n<pre>" + &tokens(meta, &norms) + "</pre>\n</body></html>\n"
}

/// The Euclidean length of each token's feature.
struct Norms {
    of_token: Vec<Option<f64>>,
    longest: f64,
}

impl Norms {
    fn of(meta: &SampleMeta, features: &[f32], width: usize) -> Self {
        let mut of_token = vec![None; meta.input_ids.len()];
        let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        for (&at, row) in meta.positions.iter().zip(features.chunks_exact(width.max(1))) {
            of_token[at as usize] = Some(norm(row));
        }
        let longest = of_token.iter().flatten().copied().fold(0.0, f64::max);
        Self { of_token, longest }
    }

    /// What an element says of a token: its bar, and its title.
    fn attributes(&self, meta_ids: Option<&[u32]>, token: usize) -> (String, String) {
        let id = meta_ids.map_or(String::new(), |ids| format!(", id {}", ids[token]));
        match self.of_token[token] {
            Some(norm) => {
                let share = if self.longest > 0.0 { norm / self.longest } else { 0.0 };
                (
                    format!(" style=\"--norm:{share:.3}\""),
                    format!("token {token}{id}, feature of length {norm:.4}"),
                )
            }
            None => (String::new(), format!("token {token}{id}, no feature")),
        }
    }
}

/// An image under the lines of its patches and the cells of its tokens.
fn figure(number: usize, image: &CachedImage, file: Option<&[u8]>, norms: &Norms) -> String {
    let [t, h, w] = image.grid;
    let tokens = image.token_start as usize..(image.token_start + image.num_tokens) as usize;
    let mut html =
        format!("<figure><div class=\"image\" style=\"aspect-ratio:{}/{}\">", image.width, image.height);
    html += &match file.map(data_uri) {
        Some(Some(uri)) => format!("<img alt=\"image {number}\" src=\"{uri}\">"),
        Some(None) => "<p>Browsers do not show files of this image's type.</p>".to_owned(),
        None => "<p>The cache does not embed this image; <code>--image FILE</code> shows it.</p>".to_owned(),
    };
    if t == 1 {
        html += &grid((h, w), tokens.clone(), norms);
    }
    let _ = writeln!(
        html,
        "</div><figcaption>image {number}: {} x {} pixels, grid {t} x {h} x {w}, tokens {} to {}</figcaption></figure>",
        image.width, image.height, tokens.start, tokens.end
    );
    html
}

/// Lines between patches and, where a whole square of patches is one token, a cell for each token.
fn grid((h, w): (u32, u32), tokens: Range<usize>, norms: &Norms) -> String {
    let mut svg = format!("<svg viewBox=\"0 0 {w} {h}\" preserveAspectRatio=\"none\">");
    if let Some(side) = patches_of_token(h, w, tokens.len()) {
        for (cell, token) in tokens.enumerate() {
            let (x, y) = (cell as u32 % (w / side) * side, cell as u32 / (w / side) * side);
            let (style, title) = norms.attributes(None, token);
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"{style}><title>{title}</title></rect>"
            );
        }
    }
    let columns: String = (1..w).map(|x| format!("M{x} 0V{h}")).collect();
    let rows: String = (1..h).map(|y| format!("M0 {y}H{w}")).collect();
    svg + &format!("<path d=\"{columns}{rows}\"/></svg>")
}

/// The side of the square of patches that becomes one token, if tokens are such squares, row by row.
fn patches_of_token(h: u32, w: u32, num_tokens: usize) -> Option<u32> {
    (1..=h.min(w)).find(|side| {
        h.is_multiple_of(*side) && w.is_multiple_of(*side) && (h / side * (w / side)) as usize == num_tokens
    })
}

/// The text, a `span` for each token; an image's placeholders are one word.
fn tokens(meta: &SampleMeta, norms: &Norms) -> String {
    let kinds = kinds(meta);
    let characters: Vec<char> = meta.text.chars().collect();
    let shown = |range: Range<usize>| -> String {
        escape(&characters[range].iter().copied().map(visible).collect::<String>())
    };
    let (mut html, mut from) = (String::new(), 0);
    for (token, &(start, end)) in meta.offsets.iter().enumerate() {
        // Several tokens may share a character: the first of them shows it.
        let (start, end) = ((start as usize).max(from), (end as usize).max(from));
        let is_image = kinds[token] == Kind::Image;
        let begins = |image: &&CachedImage| image.token_start as usize == token;
        if !is_image {
            html += &shown(from..start);
        }
        let text = match meta.images.iter().find(begins) {
            Some(image) => format!("[image: {} tokens]", image.num_tokens),
            None if start == end => "\u{b7}".to_owned(),
            None => shown(start..end),
        };
        from = end;
        if is_image && !meta.images.iter().any(|image| begins(&image)) {
            continue;
        }
        let (style, title) = norms.attributes(Some(&meta.input_ids), token);
        let _ =
            write!(html, "<span class=\"{}\"{style} title=\"{title}\">{text}</span>", class(kinds[token]));
    }
    html + &shown(from..characters.len())
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Bare => "bare",
        Kind::Kept => "kept",
        Kind::Boundary => "boundary",
        Kind::Answer => "answer",
        Kind::Image => "image-token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::tests::meta;

    #[test]
    fn tokens_cells_and_lengths_are_on_the_page() {
        let mut meta = meta();
        meta.text = "##<b> two\x1b yes\n".to_owned();
        meta.images[0].grid = [1, 2, 4];
        meta.images[0].digest = Digest::of(b"BM");
        meta.positions = vec![0, 3, 4];
        // Lengths 5, 13 and 0 by Pythagoras.
        let html = page(&meta, &[b"BM".to_vec()], &[3.0, 4.0, 5.0, -12.0, 0.0, 0.0], 2);
        for part in [
            "src=\"data:image/bmp;base64,Qk0=\"",
            // Two tokens over 2 x 4 patches: squares of side 2.
            "<rect x=\"0\" y=\"0\" width=\"2\" height=\"2\" style=\"--norm:0.385\"><title>token 0, feature of length 5.0000</title>",
            "<rect x=\"2\" y=\"0\" width=\"2\" height=\"2\"><title>token 1, no feature</title>",
            "M1 0V2M2 0V2M3 0V2M0 1H4",
            ">[image: 2 tokens]</span>",
            "<span class=\"bare\" title=\"token 2, id 0, no feature\">&lt;b&gt;</span>",
            "<span class=\"boundary\" style=\"--norm:1.000\" title=\"token 3, id 0, feature of length 13.0000\">two\\u{1b}</span>",
            "<span class=\"answer\" style=\"--norm:0.000\" title=\"token 4, id 0, feature of length 0.0000\">yes</span>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("<b>") && page(&meta, &[], &[], 2).contains("does not embed this image"));
    }

    #[test]
    fn cells_need_whole_squares() {
        assert_eq!(patches_of_token(4, 6, 24), Some(1));
        assert_eq!(patches_of_token(4, 6, 6), Some(2));
        // A newline token after each row of patches, as some families have.
        assert_eq!(patches_of_token(4, 6, 28), None);
    }
}
