//! When a generated answer counts as right.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::conclusion::concludes;
use super::normalise::normalise;

/// How predictions are compared with references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// `choice` where the reference is a single option letter, `exact` elsewhere.
    #[default]
    Auto,
    /// Equal after normalisation.
    Exact,
    /// Numbers within 5 % of the reference, as ChartQA counts them; `exact` where it is no number.
    Relaxed,
    /// The option letter that the prediction opens with: `B`, `(b)`, `B. a cat`.
    Choice,
    /// The normalised reference stands in the prediction as whole words.
    Contains,
    /// The normalised reference is what the prediction ends in: what a worked answer comes to, whatever it names on the way.
    Conclusion,
}

const NAMES: [(&str, Metric); 6] = [
    ("auto", Metric::Auto),
    ("exact", Metric::Exact),
    ("relaxed", Metric::Relaxed),
    ("choice", Metric::Choice),
    ("contains", Metric::Contains),
    ("conclusion", Metric::Conclusion),
];

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, metric)| *metric).ok_or_else(|| {
            let names: Vec<String> = NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("there is no metric `{text}`: known are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, metric)| metric == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl Metric {
    /// Whether `prediction` answers what `reference` says.
    #[must_use]
    pub fn accepts(self, prediction: &str, reference: &str) -> bool {
        match self {
            Self::Auto if option_letter(reference, true).is_some() => {
                Self::Choice.accepts(prediction, reference)
            }
            Self::Auto | Self::Exact => normalise(prediction) == normalise(reference),
            Self::Relaxed => within_five_percent(prediction, reference)
                .unwrap_or_else(|| normalise(prediction) == normalise(reference)),
            Self::Choice => {
                let letter = option_letter(prediction, false);
                letter.is_some() && letter == option_letter(reference, false)
            }
            Self::Contains => {
                let (prediction, reference) = (normalise(prediction), normalise(reference));
                !reference.is_empty() && format!(" {prediction} ").contains(&format!(" {reference} "))
            }
            Self::Conclusion => concludes(prediction, reference),
        }
    }
}

/// The option letter an answer opens with; `alone`: only when nothing else is there.
pub(super) fn option_letter(answer: &str, alone: bool) -> Option<char> {
    let bare = answer.trim().trim_start_matches(['(', '[', '*']);
    let letter = bare.chars().next().filter(char::is_ascii_alphabetic)?.to_ascii_uppercase();
    let rest = &bare[1..];
    let ends = rest.is_empty() || rest.starts_with([')', ']', '.', ':', '*', ',']);
    let says_more = rest.trim_matches([')', ']', '.', ':', '*', ' ']).is_empty();
    match alone {
        true => (ends && says_more && bare.starts_with(letter)).then_some(letter),
        false => {
            (ends || rest.starts_with(char::is_whitespace) && bare.starts_with(letter)).then_some(letter)
        }
    }
}

fn within_five_percent(prediction: &str, reference: &str) -> Option<bool> {
    let (wanted, got) = (number(reference)?, number(prediction));
    Some(got.is_some_and(|got| (got - wanted).abs() <= 0.05 * wanted.abs()))
}

pub(super) fn number(answer: &str) -> Option<f64> {
    let plain = answer.trim().trim_end_matches('.').trim_start_matches('$');
    let (digits, scale) = match plain.strip_suffix('%') {
        Some(digits) => (digits, 0.01),
        None => (plain, 1.0),
    };
    let value = normalise(digits).parse::<f64>().ok()?;
    Some(value * scale).filter(|it| it.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_and_write_themselves() {
        assert!(
            NAMES.iter().all(|(name, metric)| metric.to_string() == *name && name.parse() == Ok(*metric))
        );
        assert!("vibes".parse::<Metric>().is_err_and(|error| error.contains("`relaxed`")));
    }

    #[test]
    fn exact_and_contains() {
        assert!(Metric::Exact.accepts("Red", "red."));
        assert!(!Metric::Exact.accepts("dark red", "red"));
        assert!(Metric::Contains.accepts("It is dark red.", "red"));
        assert!(!Metric::Contains.accepts("It is bored", "red"));
        assert!(!Metric::Contains.accepts("anything", "the"), "an empty reference is in nothing");
    }

    #[test]
    fn choice_reads_the_opening_letter() {
        for prediction in ["B", "b.", "(B) a cat", "B: a cat", "B a cat", "**B**"] {
            assert!(Metric::Choice.accepts(prediction, "B"), "{prediction:?}");
        }
        assert!(!Metric::Choice.accepts("a cat", "A"), "an article is no option");
        assert!(!Metric::Choice.accepts("Because", "B"));
        assert!(!Metric::Choice.accepts("", "B"));
    }

    #[test]
    fn auto_takes_choice_for_letters_only() {
        assert!(Metric::Auto.accepts("B. because", "B"));
        assert!(!Metric::Auto.accepts("C", "B"));
        assert!(Metric::Auto.accepts("a yes", "Yes"));
        assert!(!Metric::Auto.accepts("yes it is", "yes"));
    }

    #[test]
    fn relaxed_allows_five_percent_on_numbers() {
        // ChartQA (arXiv 2203.10244, section 5): 5 % tolerance on numbers, exact match elsewhere.
        assert!(Metric::Relaxed.accepts("105", "100"));
        assert!(!Metric::Relaxed.accepts("106", "100"));
        assert!(Metric::Relaxed.accepts("47%", "46%"));
        assert!(!Metric::Relaxed.accepts("about", "46%"));
        assert!(Metric::Relaxed.accepts("Spain", "spain"));
    }
}
