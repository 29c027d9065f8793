//! Which option of a multiple-choice question an answer means.

use super::metric::option_letter;
use super::normalise::normalise;

/// The letter of an option by its place.
#[must_use]
pub fn letter(place: usize) -> char {
    char::from_u32('A' as u32 + place as u32).unwrap_or('?')
}

/// The place of the option that an answer chooses, if it chooses one.
///
/// First come letters: one that opens the answer (`B`, `(b)`, `B. a cat`), one after the words `answer is`, or the only
/// one in brackets. Then texts: the only option that stands in the answer as whole words, the longest where one contains
/// another. Then the only letter that stands alone (`the right option is C`). Anything else chooses nothing, and is wrong: no
/// option is drawn at random.
#[must_use]
pub fn choose(answer: &str, options: &[String]) -> Option<usize> {
    let place = |found: char| (0..options.len()).find(|&place| letter(place) == found);
    let after = |words: &str| {
        let start = answer.to_ascii_lowercase().rfind(words)? + words.len();
        option_letter(answer.get(start..)?.trim_start_matches([':', ' ']), false)
    };
    let opening = option_letter(answer, false).filter(|_| !opens_with_word(answer));
    let letters = [opening, after("answer is"), after("answer:"), only_bracketed(answer)];
    let lettered = letters.into_iter().flatten().find_map(place);
    lettered.or_else(|| only_text(answer, options)).or_else(|| only_alone(answer).and_then(place))
}

/// `A cat` is no choice of A, and `I think` none of I.
fn opens_with_word(answer: &str) -> bool {
    let mut words = answer.split_whitespace();
    matches!(words.next(), Some("A" | "I")) && words.next().is_some()
}

/// The letter in brackets, when there is exactly one such letter.
fn only_bracketed(answer: &str) -> Option<char> {
    let letters: Vec<char> = answer.chars().collect();
    let mut found =
        letters.windows(3).filter(|it| it[0] == '(' && it[2] == ')' && it[1].is_ascii_uppercase());
    let first = found.next()?[1];
    found.all(|it| it[1] == first).then_some(first)
}

/// The capital letter that is a word of its own, when there is exactly one such letter. In a sentence I is a pronoun, and a
/// first A an article; another A may be either, so that it is not chosen, nor is a letter beside it.
fn only_alone(answer: &str) -> Option<char> {
    let words: Vec<&str> =
        answer.split(|it: char| !it.is_alphanumeric()).filter(|it| !it.is_empty()).collect();
    let is_sentence = words.len() > 3;
    let mut found = words.iter().enumerate().filter_map(|(place, word)| match word.as_bytes() {
        b"I" if is_sentence => None,
        b"A" if is_sentence && place == 0 => None,
        [letter @ b'A'..=b'Z'] => Some(char::from(*letter)),
        _ => None,
    });
    let first = found.next().filter(|first| !is_sentence || *first != 'A')?;
    found.all(|it| it == first).then_some(first)
}

fn only_text(answer: &str, options: &[String]) -> Option<usize> {
    let answer = format!(" {} ", normalise(answer));
    let texts: Vec<String> = options.iter().map(|option| format!(" {} ", normalise(option))).collect();
    let stands = |text: &String| !text.trim().is_empty() && answer.contains(text.as_str());
    let standing: Vec<usize> = (0..texts.len()).filter(|&place| stands(&texts[place])).collect();
    let longest = *standing.iter().max_by_key(|&&place| texts[place].len())?;
    let contained = |&place: &usize| {
        place == longest || texts[longest].contains(&texts[place]) && texts[place] != texts[longest]
    };
    standing.iter().all(contained).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Answers as models give them; the expected place by reading them.
    #[test]
    fn reads_letters_then_texts() {
        let options = ["red", "dark red", "blue", "a cat"].map(str::to_owned);
        let cases = [
            ("B", Some(1)),
            ("(c)", Some(2)),
            ("C. blue", Some(2)),
            ("The answer is D.", Some(3)),
            ("Answer: B", Some(1)),
            ("I would say (C), since it is cold", Some(2)),
            ("It is dark red.", Some(1)),
            ("A cat", Some(3)),
            ("It is red or blue", None),
            ("(A) and (B)", Some(0)),
            ("either (A) or (B)", None),
            ("Option A", Some(0)),
            ("The right option is C", Some(2)),
            (r"\boxed{B}", Some(1)),
            ("neither B nor C", None),
            ("Look at A and see", None),
            ("E", None),
            ("green", None),
            ("", None),
        ];
        for (answer, expected) in cases {
            assert_eq!(choose(answer, &options), expected, "of {answer:?}");
        }
    }

    #[test]
    fn ten_options_have_an_i_that_is_no_pronoun() {
        let options: Vec<String> = (0..10).map(|place| format!("option number {place}")).collect();
        assert_eq!(choose("I think the answer is B.", &options), Some(1));
        assert_eq!(choose("I would say that it is large", &options), None);
        assert_eq!(choose("I", &options), Some(8));
        assert_eq!(choose("I. option number 8", &options), Some(8));
    }
}
