//! For tests: an observer who knows the pictures and the language, but not the code that makes them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod facts;
mod sight;
mod steps;

pub(crate) use sight::{Seen, place_of, read_picture, shows_held_out, word_in};

/// A short and a sentence answer.
pub(crate) type Answers = (String, String);

/// From what is seen and the rest of a question to its answers.
type Rule = fn(&[Seen], &str) -> Answers;

/// How questions begin, longer openings first where one starts with another.
const OPENINGS: [(&str, Rule); 51] = [
    ("What colour is the ", facts::colour),
    ("Which colour does the ", facts::colour),
    ("Tell me the colour of the ", facts::colour),
    ("What shape is the ", facts::shape),
    ("Which shape does the ", facts::shape),
    ("Tell me the shape of the ", facts::shape),
    ("What size is the ", facts::size),
    ("Tell me the size of the ", facts::size),
    ("How many objects are in the ", steps::line),
    ("Count the objects in the ", steps::line),
    ("How many ", facts::count),
    ("Count the ", facts::count),
    ("What is the number of ", facts::count),
    ("Is there ", facts::exist),
    ("Can you see ", facts::exist),
    ("Does the picture show ", facts::exist),
    ("Where is the ", facts::locate),
    ("Locate the ", facts::locate),
    ("What is in the picture", facts::describe),
    ("Describe the picture", facts::describe),
    ("What is in the ", facts::cell),
    ("Which object is in the ", facts::cell),
    ("List the ", facts::list),
    ("Sort the objects by ", facts::sort),
    ("What is there of each ", facts::sort),
    ("Which is ", facts::compare),
    ("Which one is ", facts::compare),
    ("What number is in the ", steps::number_in),
    ("Which number is in the ", steps::number_in),
    ("Read the number in the ", steps::number_in),
    ("Which number is larger, the ", |seen, rest| steps::larger(seen, rest, true)),
    ("Which number is smaller, the ", |seen, rest| steps::larger(seen, rest, false)),
    ("What number is ", steps::number_of),
    ("Which number is ", steps::number_of),
    ("Which word is in the ", steps::word),
    ("Read the word in the ", steps::word),
    ("What do the numbers add up to", steps::sum),
    ("What is the sum of the numbers", steps::sum),
    ("Add up the numbers", steps::sum),
    ("What is just ", steps::hop),
    ("Which object is just ", steps::hop),
    ("What lies just ", steps::hop),
    ("Which colour is there most of", steps::most),
    ("Which colour do most objects have", steps::most),
    ("What is the most common colour", steps::most),
    ("Does the ", facts::relation),
    ("Which shapes", |seen, _| facts::list(seen, "shapes")),
    ("Which numbers", |seen, _| facts::list(seen, "numbers")),
    ("Which letters", |seen, _| facts::list(seen, "letters")),
    ("Which colours", |seen, _| facts::list(seen, "colours")),
    ("Which objects", |seen, _| facts::list(seen, "objects")),
];

/// The answers to a question about what one picture shows.
pub(crate) fn answer(seen: &[Seen], question: &str) -> Answers {
    let text = question.trim_end_matches(['?', '.']);
    if let Some(rest) = text.strip_prefix("Is the ") {
        return is_the(seen, rest);
    }
    if let Some(line) = text.strip_prefix("What does the ").and_then(|rest| rest.strip_suffix(" spell")) {
        return steps::word(seen, line);
    }
    if let Some(colour) = text.strip_prefix("Read the ").and_then(|rest| rest.strip_suffix(" number")) {
        return steps::number_of(seen, colour);
    }
    let (opening, solve) =
        OPENINGS.iter().find(|(opening, _)| text.starts_with(opening)).unwrap_or_else(|| panic!("{text}"));
    solve(seen, &text[opening.len()..])
}

/// Several questions begin so; their ends tell them apart.
fn is_the(seen: &[Seen], rest: &str) -> Answers {
    if let Some(name) = rest.strip_suffix(" small or large") {
        facts::size(seen, name)
    } else if let Some(names) = rest.strip_suffix(" number larger") {
        steps::larger(seen, names, true)
    } else if let Some(names) = rest.strip_suffix(" number smaller") {
        steps::larger(seen, names, false)
    } else {
        facts::relation(seen, rest)
    }
}

/// The answers to a question about two pictures.
pub(crate) fn answer_about_two(pictures: [&[Seen]; 2], question: &str) -> Answers {
    let many = question
        .strip_prefix("Which picture has more ")
        .and_then(|rest| rest.strip_suffix(", the first or the second?"))
        .or_else(|| {
            question.strip_prefix("Are there more ")?.strip_suffix(" in the first or the second picture?")
        })
        .unwrap_or_else(|| panic!("{question}"));
    let one = singular(many);
    let [a, b] = pictures.map(|seen| seen.iter().filter(|o| is_called(o, &one)).count());
    let told = |count: usize| match count {
        0 => format!("no {many}"),
        1 => format!("one {one}"),
        _ => format!("{} {many}", number(count)),
    };
    let (short, end) = if a > b {
        ("first", "the first has more")
    } else if b > a {
        ("second", "the second has more")
    } else {
        ("same", "both have the same")
    };
    (short.to_owned(), format!("The first has {}, the second has {}: {end}.", told(a), told(b)))
}

/// The word for a number.
fn number(value: usize) -> &'static str {
    let words = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
                 seventeen eighteen nineteen twenty";
    words.split(' ').nth(value).unwrap()
}

fn article(noun: &str) -> String {
    let is_vowel = "aeiou".contains(&noun[..1]) && noun != "one";
    format!("{} {noun}", if is_vowel { "an" } else { "a" })
}

/// "circle" for "circles".
fn singular(many: &str) -> String {
    if let Some((before, letter)) = many.split_once("letters ") {
        return format!("{before}letter {letter}");
    }
    let stem = many.strip_suffix("es").filter(|stem| stem.ends_with("ss") || stem.ends_with('x'));
    stem.or(many.strip_suffix('s')).unwrap().to_owned()
}

/// Whether an object answers to a noun: its kind, its figure, its class, or its colour with "object".
fn is_called(object: &Seen, noun: &str) -> bool {
    [object.kind(), object.figure.to_owned(), object.class().to_owned(), format!("{} object", object.colour)]
        .iter()
        .any(|name| name == noun)
}

/// The only object that answers to a noun.
fn only<'a>(seen: &'a [Seen], noun: &str) -> &'a Seen {
    let fitting: Vec<&Seen> = seen.iter().filter(|o| is_called(o, noun)).collect();
    assert_eq!(fitting.len(), 1, "`{noun}` in {seen:?}");
    fitting[0]
}
