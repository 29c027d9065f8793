//! The form in which answers are compared, which VQA benchmarks share: case, punctuation, articles and number words do
//! not matter, the words themselves do.

/// Lower case, number words as digits, no articles, no punctuation but decimal points and signs.
///
/// The steps are those of the VQA evaluation (visualqa.org), with three differences on purpose: apostrophes
/// vanish on both sides instead of passing through a table of contractions, the sign of a number stays, and number words go
/// up to twenty in place of ten.
#[must_use]
pub fn normalise(answer: &str) -> String {
    let letters: Vec<char> = answer.to_lowercase().chars().collect();
    let at = |index: Option<usize>| index.and_then(|it| letters.get(it)).copied().unwrap_or(' ');
    let mut plain = String::with_capacity(answer.len());
    for (index, &letter) in letters.iter().enumerate() {
        let (before, after) = (at(index.checked_sub(1)), at(Some(index + 1)));
        let in_number = before.is_ascii_digit() && after.is_ascii_digit();
        match letter {
            '.' if in_number => plain.push('.'),
            ',' if in_number => {}
            '-' if before.is_whitespace() && after.is_ascii_digit() => plain.push('-'),
            '\'' | '’' => {}
            _ if letter.is_alphanumeric() => plain.push(letter),
            _ => plain.push(' '),
        }
    }
    let words = plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.map(digit_of).collect::<Vec<_>>().join(" ")
}

fn digit_of(word: &str) -> &str {
    /// Numbers in words and in digits.
    const NUMBERS: [(&str, &str); 22] = [
        ("none", "0"),
        ("zero", "0"),
        ("one", "1"),
        ("two", "2"),
        ("three", "3"),
        ("four", "4"),
        ("five", "5"),
        ("six", "6"),
        ("seven", "7"),
        ("eight", "8"),
        ("nine", "9"),
        ("ten", "10"),
        ("eleven", "11"),
        ("twelve", "12"),
        ("thirteen", "13"),
        ("fourteen", "14"),
        ("fifteen", "15"),
        ("sixteen", "16"),
        ("seventeen", "17"),
        ("eighteen", "18"),
        ("nineteen", "19"),
        ("twenty", "20"),
    ];
    NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits)
}

/// Whether a normalised word is a number.
pub(super) fn is_number(word: &str) -> bool {
    word.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_vqa_does() {
        // Left: answers; right: what vqaEval.py's punctuation and article steps make of them.
        let cases = [
            ("The red circle.", "red circle"),
            ("  Two\n", "2"),
            ("1,000 people", "1000 people"),
            ("3.5", "3.5"),
            ("left-of", "left of"),
            ("none", "0"),
            ("an apple, a pear", "apple pear"),
        ];
        for (answer, expected) in cases {
            assert_eq!(normalise(answer), expected, "of {answer:?}");
        }
        assert_eq!(normalise("it isn't"), normalise("it isnt"));
        assert_ne!(normalise("-5"), normalise("5"), "the sign stays");
        assert_eq!(normalise("Twelve"), "12", "here number words go on after ten");
    }
}
