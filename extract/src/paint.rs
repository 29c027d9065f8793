//! A sample's text with its spans: what is an answer, an image, a position with features.

use shared::cache::{CachedTurn, SampleMeta};

/// What a token is to a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One without features, which a student does not read.
    Bare,
    /// A question token with features.
    Kept,
    /// The position before an answer: its feature predicts the answer's first token.
    Boundary,
    /// An answer token with features.
    Answer,
    /// Image placeholders.
    Image,
}

impl Kind {
    /// In the order of the legend.
    pub(crate) const ALL: [Kind; 5] = [Kind::Answer, Kind::Boundary, Kind::Kept, Kind::Image, Kind::Bare];

    /// For the legend.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bare => "no features",
            Kind::Kept => "question with features",
            Kind::Boundary => "last question position",
            Kind::Answer => "answer",
            Kind::Image => "image",
        }
    }

    /// The escape sequence that begins this kind on a terminal.
    fn colour(self) -> &'static str {
        match self {
            Kind::Bare => "\x1b[2m",
            Kind::Kept => "\x1b[36m",
            Kind::Boundary => "\x1b[4;33m",
            Kind::Answer => "\x1b[32m",
            Kind::Image => "\x1b[35m",
        }
    }
}

const END: &str = "\x1b[0m";

/// What the colours mean, in these colours.
pub fn legend() -> String {
    Kind::ALL.map(|kind| format!("{}{}{END}", kind.colour(), kind.name())).join("  ")
}

/// The sample's text, in colours if there is a terminal to show them. An image's placeholders become one word, and control
/// characters are shown, not obeyed.
pub fn painted(meta: &SampleMeta, in_colour: bool) -> String {
    let kinds = kinds(meta);
    let characters: Vec<char> = meta.text.chars().collect();
    let (mut shown, mut from, mut token) = (String::new(), 0, 0);
    for run in kinds.chunk_by(|a, b| a == b) {
        let tokens = token..token + run.len();
        token = tokens.end;
        // Characters that no token claims go with the token after them.
        let end = meta.offsets[tokens.clone()].iter().map(|offset| offset.1 as usize).max().unwrap_or(from);
        let end = end.clamp(from, characters.len());
        let text = match run[0] {
            Kind::Image => format!("[image: {} tokens]", run.len()),
            _ => characters[from..end].iter().copied().map(visible).collect(),
        };
        from = end;
        match in_colour {
            true => shown.extend([run[0].colour(), &text, END]),
            false => shown.push_str(&text),
        }
    }
    shown.extend(characters[from..].iter().copied().map(visible));
    shown
}

/// Control characters are shown, not obeyed.
pub(crate) fn visible(character: char) -> String {
    match character {
        '\n' | '\t' => character.to_string(),
        control if control.is_control() => control.escape_default().to_string(),
        other => other.to_string(),
    }
}

/// What each token is.
pub(crate) fn kinds(meta: &SampleMeta) -> Vec<Kind> {
    let mut kinds = vec![Kind::Bare; meta.input_ids.len()];
    meta.positions.iter().for_each(|&at| kinds[at as usize] = Kind::Kept);
    let answer =
        |turn: &CachedTurn| turn.answer_start as usize..(turn.answer_start + turn.num_answer_tokens) as usize;
    for answer in meta.turns.iter().map(answer).filter(|answer| !answer.is_empty()) {
        kinds[answer.start - 1] = Kind::Boundary;
        kinds[answer].fill(Kind::Answer);
    }
    for image in &meta.images {
        let start = image.token_start as usize;
        kinds[start..start + image.num_tokens as usize].fill(Kind::Image);
    }
    kinds
}

#[cfg(test)]
pub(crate) mod tests {
    use shared::cache::CachedImage;
    use shared::ids::{Digest, SampleKey};

    use super::*;

    /// `<image>` as two placeholders, a question of two words, an answer of one and an end that no token claims.
    pub(crate) fn meta() -> SampleMeta {
        let turn = |role: &str, token_start, num_tokens, answer_start, num_answer_tokens| CachedTurn {
            role: role.to_owned(),
            token_start,
            num_tokens,
            answer_start,
            num_answer_tokens,
        };
        let image = CachedImage {
            digest: Digest::of(b""),
            width: 1,
            height: 1,
            token_start: 0,
            num_tokens: 2,
            grid: [1; 3],
        };
        SampleMeta {
            key: SampleKey::from_bytes([0; 16]),
            row_id: None,
            source: String::new(),
            row: 0,
            messages: String::new(),
            text: "##one two\x1b yes\n".to_owned(),
            images: vec![image],
            input_ids: vec![0; 5],
            offsets: vec![(0, 1), (1, 2), (2, 5), (6, 10), (11, 14)],
            turns: vec![turn("user", 0, 4, 0, 0), turn("assistant", 4, 1, 4, 1)],
            positions: vec![3, 4],
        }
    }

    #[test]
    fn spans_have_their_colours_and_images_are_one_word() {
        assert_eq!(painted(&meta(), false), "[image: 2 tokens]one two\\u{1b} yes\n");
        let shown = painted(&meta(), true);
        let expected = "\x1b[35m[image: 2 tokens]\x1b[0m\x1b[2mone\x1b[0m\x1b[4;33m two\\u{1b}\x1b[0m\x1b[32m yes\x1b[0m\n";
        assert_eq!(shown, expected);
        assert!(legend().contains("\x1b[32manswer\x1b[0m"));
    }
}
