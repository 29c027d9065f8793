//! Whether a detailed response comes to the short answer that a dataset has.
//!
//! The rules err on the side of no: what they refuse keeps its original answer, what they accept wrongly is taught.

use super::choice::{choose, letter};
use super::metric::{Metric, option_letter};
use super::normalise::{is_number, normalise};
use super::says::says;

/// Whether `response` to `question` says what `reference` says.
///
/// | reference | `auto` accepts |
/// |---|---|
/// | an option letter | a response that chooses this option of those the question lists |
/// | a number | a response whose only number, behind `answer is` if it says so, is equal |
/// | yes or no | a response that opens with it |
/// | anything else | an equal response, or one that has its words without a negation before them |
///
/// Of the other metrics, `relaxed` allows 5 % in the second line, and the rest ask as [`Metric::accepts`] does.
pub fn agrees(response: &str, question: &str, reference: &str, metric: Metric) -> bool {
    let stated = stated(response);
    match metric {
        Metric::Exact | Metric::Contains | Metric::Conclusion => metric.accepts(response, reference),
        Metric::Choice => chooses(response, question, reference),
        Metric::Relaxed => match only_number(reference, true) {
            Some(_) => only_number(stated, false).is_some_and(|got| metric.accepts(&got, reference)),
            None => says(stated, reference),
        },
        Metric::Auto if option_letter(reference, true).is_some() => chooses(response, question, reference),
        Metric::Auto => match only_number(reference, true) {
            Some(number) => only_number(stated, false) == Some(number),
            None => says(stated, reference),
        },
    }
}

/// What follows the words that announce an answer, or all of it.
fn stated(response: &str) -> &str {
    let lower = response.to_ascii_lowercase();
    let announced =
        ["answer is", "answer:"].iter().filter_map(|words| Some(lower.rfind(words)? + words.len())).max();
    announced.and_then(|at| response.get(at..)).unwrap_or(response)
}

fn chooses(response: &str, question: &str, reference: &str) -> bool {
    let options = listed_options(question);
    let Some(wanted) = option_letter(reference, true) else {
        return Metric::Choice.accepts(response, reference);
    };
    match (0..options.len()).find(|&place| letter(place) == wanted) {
        Some(place) => choose(response, &options) == Some(place),
        None => Metric::Choice.accepts(response, reference),
    }
}

/// The options that a question lists, a line each: `A. cat`, `(A) cat`, `A) cat`, `A: cat`; none unless they go on from A.
fn listed_options(question: &str) -> Vec<String> {
    let mut options = Vec::new();
    for line in question.lines() {
        let bare = line.trim().trim_start_matches('(');
        let rest = bare.strip_prefix(letter(options.len()));
        if let Some(text) = rest.and_then(|rest| rest.strip_prefix(['.', ')', ':'])) {
            options.push(text.trim().to_owned());
        }
    }
    options
}

/// The only number of a text, as it is normalised; if `alone`, a text that has other words has none.
fn only_number(text: &str, alone: bool) -> Option<String> {
    let plain = normalise(text);
    let words: Vec<&str> = plain.split_whitespace().collect();
    let mut numbers = words.iter().filter(|word| is_number(word));
    let first = *numbers.next()?;
    let same = |word: &&str| word.parse::<f64>() == first.parse::<f64>();
    let is_only = numbers.all(same) && (!alone || words.len() == 1);
    is_only.then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Responses as models give them; whether they agree by reading them.
    #[test]
    fn a_detailed_response_is_read_for_its_short_answer() {
        let choice = "Which animal is it?\nA. a cat\nB. a dog\nC. a cow\nAnswer with the letter.";
        let cases = [
            ("The picture shows 32 people in two boats.", "How many people?", "32", false),
            ("There are thirty-two of them: the answer is 32.", "How many people?", "32", true),
            ("There are two red squares, so two.", "How many?", "2", true),
            ("I can see 33 people.", "How many?", "32", false),
            ("The animal has horns, so the answer is C.", choice, "C", true),
            ("It is a dog.", choice, "B", true),
            ("It is a dog or a cow.", choice, "B", false),
            ("A. a cat", choice, "B", false),
            ("Yes, both are blue.", "Are they blue?", "Yes", true),
            ("No, one is yellow.", "Are they blue?", "Yes", false),
            ("There is no yellow one.", "Is there a yellow one?", "no", false),
            ("The cube on the left is dark red.", "Which colour?", "dark red", true),
            ("The cube is not red.", "Which colour?", "red", false),
            ("The cube is blue.", "Which colour?", "red", false),
            ("", "Which colour?", "red", false),
            ("Anything", "Which?", "", false),
        ];
        for (response, question, reference, expected) in cases {
            assert_eq!(
                agrees(response, question, reference, Metric::Auto),
                expected,
                "{response:?} / {reference:?}"
            );
        }
    }

    #[test]
    fn relaxed_bears_five_percent_in_a_sentence() {
        let says = |response: &str, metric| agrees(response, "What share?", "40", metric);
        assert!(
            says("About 41 percent of them.", Metric::Relaxed) && !says("About 41 percent.", Metric::Auto)
        );
        assert!(!says("About 43 percent of them.", Metric::Relaxed));
        assert!(says("It is 40.", Metric::Contains) && !says("It is 40.", Metric::Exact));
    }
}
