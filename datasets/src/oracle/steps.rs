//! The topics of the grown-up world.

use super::sight::{COLOURS, LINES};
use super::{Answers, Seen, article, number, only, place_of, word_in};

pub(super) fn number_in(seen: &[Seen], place: &str) -> Answers {
    let digit = seen.iter().find(|o| o.place() == place && o.value().is_some()).unwrap().figure;
    (digit.to_owned(), format!("The number in the {place} is {digit}."))
}

pub(super) fn number_of(seen: &[Seen], colour: &str) -> Answers {
    let digit = only_digit(seen, colour).figure;
    (digit.to_owned(), format!("The {colour} number is {digit}."))
}

fn only_digit<'a>(seen: &'a [Seen], colour: &str) -> &'a Seen {
    let fitting: Vec<&Seen> = seen.iter().filter(|o| o.value().is_some() && o.colour == colour).collect();
    assert_eq!(fitting.len(), 1, "{colour} digits in {seen:?}");
    fitting[0]
}

pub(super) fn larger(seen: &[Seen], names: &str, wants_larger: bool) -> Answers {
    let (one, other) = names.split_once(" or the ").unwrap();
    let [a, b] = [one, other].map(|colour| only_digit(seen, colour));
    assert_ne!(a.value(), b.value());
    let winner = if (a.value() > b.value()) == wants_larger { one } else { other };
    let adjective = if wants_larger { "larger" } else { "smaller" };
    let seen = format!("The {one} is {}, the {other} is {}", a.figure, b.figure);
    (winner.to_owned(), format!("{seen}: the {winner} is {adjective}."))
}

pub(super) fn word(seen: &[Seen], name: &str) -> Answers {
    let line = LINES.iter().position(|(known, _)| *known == name).unwrap();
    let (word, _) = word_in(seen, line).unwrap_or_else(|| panic!("no word in the {name}: {seen:?}"));
    let letters: Vec<&str> = word.split("").filter(|letter| !letter.is_empty()).collect();
    (word.clone(), format!("The letters are {}: {word}.", letters.join(", ")))
}

pub(super) fn sum(seen: &[Seen], _: &str) -> Answers {
    let values: Vec<usize> = seen.iter().filter_map(Seen::value).collect();
    assert!(values.len() > 1, "nothing to add in {seen:?}");
    let steps: Vec<String> = (1..values.len())
        .map(|i| {
            let [before, after] = [i, i + 1].map(|n| values[..n].iter().sum());
            format!("{} plus {} is {}", number(before), number(values[i]), number(after))
        })
        .collect();
    let sentence = steps.join(", ");
    let total = number(values.iter().sum());
    (total.to_owned(), format!("{}{}.", sentence[..1].to_uppercase(), &sentence[1..]))
}

pub(super) fn hop(seen: &[Seen], rest: &str) -> Answers {
    let (direction, name) = rest.split_once(" the ").unwrap();
    let from = only(seen, name);
    let (row, column) = (from.cell / 3, from.cell % 3);
    let cell = match direction {
        "left of" if column > 0 => from.cell - 1,
        "right of" if column < 2 => from.cell + 1,
        "above" if row > 0 => from.cell - 3,
        "below" if row < 2 => from.cell + 3,
        _ => panic!("{rest} leaves the board"),
    };
    let found = seen.iter().find(|o| o.cell == cell).map(Seen::full);
    let thing = found.as_deref().map_or("nothing".to_owned(), article);
    let (start, end) = (from.place(), place_of(cell));
    let sentence = format!("The {name} is in the {start}. Just {direction} it, in the {end}, is {thing}.");
    (found.unwrap_or("nothing".to_owned()), sentence)
}

pub(super) fn line(seen: &[Seen], rest: &str) -> Answers {
    let (noun, name) = rest.split_once(" of the ").unwrap();
    let cell = only(seen, name).cell;
    let (line, cells) =
        LINES.iter().find(|(line, cells)| line.ends_with(noun) && cells.contains(&cell)).unwrap();
    let shown: Vec<String> = seen.iter().filter(|o| cells.contains(&o.cell)).map(Seen::kind).collect();
    let count = number(shown.len());
    let sentence = format!("The {name} is in the {line}: {}. That makes {count}.", shown.join(", "));
    (count.to_owned(), sentence)
}

pub(super) fn most(seen: &[Seen], _: &str) -> Answers {
    let counted: Vec<(usize, &str)> = COLOURS
        .iter()
        .map(|(word, _)| (seen.iter().filter(|o| o.colour == *word).count(), *word))
        .filter(|(count, _)| *count > 0)
        .collect();
    let (most, winner) = *counted.iter().max().unwrap();
    assert!(counted.iter().all(|(count, word)| *word == winner || *count < most), "no most in {seen:?}");
    let told: Vec<String> =
        counted.iter().map(|(count, word)| format!("{} {word}", number(*count))).collect();
    let told = told.join(", ");
    (winner.to_owned(), format!("{}{}: most are {winner}.", told[..1].to_uppercase(), &told[1..]))
}
