//! Lists as Python prints them, which is how tables of benchmarks keep options: `['a', "b's", 'x\ny', 3]`.

use std::iter::Peekable;
use std::str::Chars;

/// The elements as texts; `None` when the text is no list of texts and numbers.
pub(super) fn parse(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut letters = inside.chars().peekable();
    let mut elements = Vec::new();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let Some(first) = letters.peek().copied() else { return Some(elements) };
        elements.push(match first {
            '\'' | '"' => quoted(&mut letters)?,
            _ => bare(&mut letters)?,
        });
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_some() {
            letters.next_if_eq(&',')?;
        }
    }
}

fn quoted(letters: &mut Peekable<Chars<'_>>) -> Option<String> {
    let (quote, mut text) = (letters.next()?, String::new());
    loop {
        match letters.next()? {
            '\\' => text.push(escaped(letters)?),
            letter if letter == quote => return Some(text),
            letter => text.push(letter),
        }
    }
}

fn escaped(letters: &mut Peekable<Chars<'_>>) -> Option<char> {
    let code = |letters: &mut Peekable<Chars<'_>>, digits: usize| {
        let digits: String = letters.by_ref().take(digits).collect();
        char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
    };
    match letters.next()? {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        'x' => code(letters, 2),
        'u' => code(letters, 4),
        'U' => code(letters, 8),
        letter => Some(letter),
    }
}

/// A number, up to the next comma.
fn bare(letters: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut text = String::new();
    while let Some(letter) = letters.next_if(|letter| *letter != ',') {
        text.push(letter);
    }
    let text = text.trim();
    text.parse::<f64>().ok().map(|_| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::parse;

    // Left: `repr` of the right in Python 3.
    #[test]
    fn reads_what_python_prints() {
        let cases: [(&str, &[&str]); 6] = [
            ("[]", &[]),
            ("['$6', '$7', '$8']", &["$6", "$7", "$8"]),
            (
                r#"["it's", 'say "x"', 'a\'b"c', '\\alpha, [1]']"#,
                &["it's", "say \"x\"", "a'b\"c", "\\alpha, [1]"],
            ),
            (r"['x\ny', 'caf\xe9', '\u200b', '\U0001f389']", &["x\ny", "café", "\u{200b}", "🎉"]),
            ("[1, -2.5, '3']", &["1", "-2.5", "3"]),
            ("['<image 1>', '<image 2>']", &["<image 1>", "<image 2>"]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "A", "['a", "['a' 'b']", "[a, b]", "[__import__('os')]", "['a'] + ['b']"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
