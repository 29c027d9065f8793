//! Whether a statement has the words of a short answer, and does not deny them.

use super::normalise::normalise;

/// Words that turn what follows them into its opposite.
const NEGATIONS: [&str; 8] = ["not", "no", "never", "without", "isnt", "arent", "wasnt", "neither"];

/// Whether `stated` opens with a reference of yes or no, or has the words of another without a negation before them.
pub(super) fn says(stated: &str, reference: &str) -> bool {
    let (stated, reference) = (normalise(stated), normalise(reference));
    let (stated, reference): (Vec<&str>, Vec<&str>) =
        (stated.split_whitespace().collect(), reference.split_whitespace().collect());
    if matches!(reference.as_slice(), ["yes" | "no"]) {
        return stated.first() == reference.first();
    }
    let is_denied = |at: usize| stated[..at].iter().rev().take(2).any(|word| NEGATIONS.contains(word));
    let places = stated.windows(reference.len().max(1)).enumerate();
    let mut found = places.filter(|(_, words)| *words == reference.as_slice()).map(|(at, _)| at).peekable();
    found.peek().is_some() && found.all(|at| !is_denied(at))
}
