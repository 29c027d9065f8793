//! What a worked answer comes to.
//!
//! "The red is seven, the blue is four: the red is larger." names both colours and says one. A rule that looks for the
//! reference anywhere in it finds either, so a wrong conclusion would be right.

use super::normalise::{is_number, normalise};
use super::says::says;

/// Words behind which a statement says what there is.
const VERBS: [&str; 6] = ["is", "are", "was", "were", "makes", "equals"];

/// Whether `answer` ends in what `reference` says.
///
/// Its last statement is read, or as many as the reference has: a statement ends at a full stop, colon, semicolon, question or
/// exclamation mark before a space, and at a line's end.
///
/// | reference | accepted |
/// |---|---|
/// | a number | where it is the number that the statement says |
/// | yes or no | where the statement opens with it, or the whole answer if the statement opens with neither |
/// | anything else | where the statement has its words, without a negation before them |
pub(super) fn concludes(answer: &str, reference: &str) -> bool {
    let all = statements(answer);
    let wanted = statements(reference).len().max(1);
    let end = all[all.len().saturating_sub(wanted)..].join(" ");
    let short = normalise(reference);
    match short.as_str() {
        "" => false,
        "yes" | "no" => {
            let concludes_so = ["yes", "no"].into_iter().any(|word| says(&end, word));
            says(if concludes_so { &end } else { answer }, reference)
        }
        _ if is_number(&short) => concluded_number(&normalise(&end)) == Some(short.as_str()),
        _ => says(&end, reference),
    }
}

/// The number that a normalised statement says: the first behind its last verb of being, or the last of all where there is none.
/// `three plus four is seven` says 7, `there are two fours` 2, `there are no discs` 0.
fn concluded_number(statement: &str) -> Option<&str> {
    let words: Vec<&str> = statement.split(' ').map(|word| if word == "no" { "0" } else { word }).collect();
    let verb = words.iter().rposition(|word| VERBS.contains(word));
    let behind = verb.and_then(|verb| words[verb..].iter().find(|word| is_number(word)));
    behind.or_else(|| words.iter().rfind(|word| is_number(word))).copied()
}

/// The statements of a text, with the marks that end them.
fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut letters) = (0, text.char_indices().peekable());
    while let Some((at, letter)) = letters.next() {
        let before_space = letters.peek().is_none_or(|(_, next)| next.is_whitespace());
        if letter == '\n' || matches!(letter, '.' | ':' | ';' | '?' | '!') && before_space {
            let end = at + letter.len_utf8();
            found.push(&text[start..end]);
            start = end;
        }
    }
    found.push(&text[start..]);
    found.retain(|statement| statement.chars().any(char::is_alphanumeric));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    // Answers as the world's models give them; whether they are right by reading them.
    #[test]
    fn the_last_statement_is_what_counts() {
        let larger = "The red is seven, the blue is four: the red is larger.";
        let sum = "Three plus one is four, four plus three is seven.";
        let line = "The star is in the top row: a red star, a blue disc. That makes two.";
        let hop = "The star is in the centre. Just left of it, in the middle left, is a small red disc.";
        let cases = [
            (larger, "red", true),
            (larger, "blue", false),
            (sum, "seven", true),
            (sum, "three", false),
            (sum, "7", true),
            ("Eight plus three is eleven.", "three", false),
            (line, "two", true),
            (hop, "small red disc", true),
            (hop, "star", false),
            ("The letters are c, a, t: cat.", "cat", true),
            ("Two red, one blue: most are not red.", "red", false),
            ("There are no red discs.", "zero", true),
            ("There are two red discs.", "zero", false),
            ("There is one two.", "one", true),
            ("There is one two.", "two", false),
            ("3 + 4 = 7", "7", true),
            ("It is 3.5 metres", "3.5", true),
            ("It is 3.5 metres", "5", false),
            ("The clock shows: 12:30", "12:30", true),
            ("red", "red", true),
            ("A red disc. A blue star.", "A red disc. A blue star.", true),
            ("A blue star. A red disc. A blue star.", "A red disc. A blue star.", true),
            ("A red disc.\nA green star.", "A red disc. A blue star.", false),
            ("Yes. The disc is red.", "yes", true),
            ("The disc is red: no.", "no", true),
            ("Yes or no? The disc is red: no.", "yes", false),
            ("There is no red disc.", "no", false),
            ("...", "red", false),
            ("", "red", false),
            ("anything", "the", false),
        ];
        for (answer, reference, expected) in cases {
            assert_eq!(concludes(answer, reference), expected, "{answer:?} / {reference:?}");
        }
    }
}
