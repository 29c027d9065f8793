//! The toy's topics, on the scenes of either world.

use super::sight::{COLOURS, SHAPES};
use super::{Answers, Seen, article, is_called, number, only, place_of, singular};

pub(super) fn colour(seen: &[Seen], rest: &str) -> Answers {
    let figure = rest.trim_end_matches(" have");
    let colour = only(seen, figure).colour;
    (colour.to_owned(), format!("The {figure} is {colour}."))
}

pub(super) fn shape(seen: &[Seen], rest: &str) -> Answers {
    let name = rest.trim_end_matches(" have");
    let figure = only(seen, name).figure;
    (figure.to_owned(), format!("The {name} is {}.", article(figure)))
}

pub(super) fn size(seen: &[Seen], name: &str) -> Answers {
    let size = only(seen, name).size;
    (size.to_owned(), format!("The {name} is {size}."))
}

pub(super) fn count(seen: &[Seen], rest: &str) -> Answers {
    let many = rest.trim_end_matches(" are there");
    let one = singular(many);
    let count = seen.iter().filter(|o| is_called(o, &one)).count();
    let sentence = match count {
        0 => format!("There are no {many}."),
        1 => format!("There is one {one}."),
        _ => format!("There are {} {many}.", number(count)),
    };
    (number(count).to_owned(), sentence)
}

pub(super) fn exist(seen: &[Seen], noun: &str) -> Answers {
    let name = noun.split_once(' ').unwrap().1;
    if seen.iter().any(|o| o.kind() == name) {
        ("yes".to_owned(), format!("Yes, there is {noun}."))
    } else {
        ("no".to_owned(), format!("No, there is not {noun}."))
    }
}

pub(super) fn locate(seen: &[Seen], name: &str) -> Answers {
    let place = only(seen, name).place();
    (place.clone(), format!("The {name} is in the {place}."))
}

pub(super) fn cell(seen: &[Seen], place: &str) -> Answers {
    match seen.iter().find(|o| o.place() == place) {
        Some(o) => (o.full(), format!("There is {}.", article(&o.full()))),
        None => ("nothing".to_owned(), "There is nothing.".to_owned()),
    }
}

pub(super) fn describe(seen: &[Seen], _: &str) -> Answers {
    let told = |cell| {
        let object = seen.iter().find(|o| o.cell == cell);
        format!("{} {}", place_of(cell), object.map_or("empty".to_owned(), Seen::full))
    };
    let short = (0..9).map(told).collect::<Vec<_>>().join(", ");
    (short.clone(), format!("Here: {short}."))
}

pub(super) fn list(seen: &[Seen], what: &str) -> Answers {
    let listed: Vec<String> = match what {
        "objects" => seen.iter().map(|o| format!("{} {}", o.full(), o.place())).collect(),
        "colours" => seen.iter().map(|o| o.colour.to_owned()).collect(),
        class => {
            let fitting = seen.iter().filter(|o| o.class() == singular(class));
            fitting.map(|o| o.figure.to_owned()).collect()
        }
    };
    assert!(!listed.is_empty(), "no {what} in {seen:?}");
    let short = listed.join(", ");
    (short.clone(), format!("There are: {short}."))
}

pub(super) fn sort(seen: &[Seen], by: &str) -> Answers {
    let group = |word: &str, fits: &dyn Fn(&Seen) -> bool, told: &dyn Fn(&Seen) -> String| {
        let fitting = seen.iter().filter(|o| fits(o));
        let named: Vec<String> = fitting.map(|o| format!("{} {}", told(o), o.place())).collect();
        format!("{word} {}", if named.is_empty() { "none".to_owned() } else { named.join(" and ") })
    };
    let groups: Vec<String> = match by {
        "colour" => {
            let told = |o: &Seen| format!("{} {}", o.size, o.figure);
            COLOURS.iter().map(|(word, _)| group(word, &|o| o.colour == *word, &told)).collect()
        }
        "shape" => {
            let told = |o: &Seen| format!("{} {}", o.size, o.colour);
            SHAPES.iter().map(|word| group(word, &|o| o.figure == *word, &told)).collect()
        }
        "kind" => {
            let classes = ["shapes", "numbers", "letters"].into_iter();
            classes.map(|word| group(word, &|o| o.class() == singular(word), &Seen::full)).collect()
        }
        _ => panic!("{by}"),
    };
    let short = groups.join(", ");
    (short.clone(), format!("Sorted: {short}."))
}

pub(super) fn relation(seen: &[Seen], rest: &str) -> Answers {
    let rest = rest.replace(" lie ", " ");
    for (words, across, sign, truth, opposite) in [
        (" left of the ", true, 1, "left of", "right of"),
        (" right of the ", true, -1, "right of", "left of"),
        (" above the ", false, 1, "above", "below"),
        (" below the ", false, -1, "below", "above"),
    ] {
        let Some((one, other)) = rest.split_once(words) else { continue };
        let [a, b] = [one, other].map(|name| only(seen, name).cell as i32);
        let ahead = if across { b % 3 - a % 3 } else { b / 3 - a / 3 };
        assert_ne!(ahead, 0, "{rest}");
        return if ahead * sign > 0 {
            ("yes".to_owned(), format!("Yes, it is {truth} the {other}."))
        } else {
            ("no".to_owned(), format!("No, it is {opposite} the {other}."))
        };
    }
    panic!("{rest}")
}

pub(super) fn compare(seen: &[Seen], rest: &str) -> Answers {
    let (adjective, names) = rest.split_once([',', ':']).unwrap();
    let (one, other) = names.trim_start_matches(" the ").split_once(" or the ").unwrap();
    let wanted = if adjective == "larger" { "large" } else { "small" };
    let [a, b] = [one, other].map(|name| only(seen, name));
    assert_ne!(a.size, b.size, "{rest}");
    assert!(a.value().is_none() || b.value().is_none(), "which of two digits? {rest}");
    let winner = if a.size == wanted { one } else { other };
    (winner.to_owned(), format!("The {winner} is {adjective}."))
}
