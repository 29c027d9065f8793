//! For tests: an observer who knows the pictures and the language, but not the code that makes them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use image::RgbImage;

/// An object as seen: row, column, "large red circle".
pub(crate) type Seen = (u8, u8, String);

const COLOURS: [(&str, [i32; 3]); 6] = [
    ("red", [250, 50, 60]),
    ("green", [50, 250, 60]),
    ("blue", [50, 60, 250]),
    ("yellow", [170, 170, 20]),
    ("purple", [170, 20, 170]),
    ("orange", [220, 120, 20]),
];

const SHAPES: [&str; 6] = ["circle", "square", "triangle", "diamond", "cross", "ring"];

/// What a picture shows, in reading order.
pub(crate) fn read_picture(picture: &RgbImage) -> Vec<Seen> {
    let mut seen = Vec::new();
    for row in 0..3 {
        for column in 0..3 {
            if let Some(name) = read_cell(picture, u32::from(row) * 28, u32::from(column) * 28) {
                seen.push((row, column, name));
            }
        }
    }
    seen
}

/// The object in the cell whose first pixel is given, all that is not gray: its colour by the nearest pure one, its size
/// by its extent, its shape by how it fills the square around it.
fn read_cell(picture: &RgbImage, y0: u32, x0: u32) -> Option<String> {
    let saturated = |p: &image::Rgb<u8>| p.0.iter().max().unwrap() - p.0.iter().min().unwrap() > 20;
    let ink: Vec<(i32, i32)> = (0..28 * 28)
        .map(|i| (i / 28, i % 28))
        .filter(|&(y, x)| saturated(picture.get_pixel(x0 + x, y0 + y)))
        .map(|(y, x)| (y as i32, x as i32))
        .collect();
    let &(y, x) = ink.first()?;
    let rgb = picture.get_pixel(x0 + x as u32, y0 + y as u32).0.map(i32::from);
    let distance = |pure: &[i32; 3]| (0..3).map(|c| (pure[c] - rgb[c]).abs()).max().unwrap();
    let colour = COLOURS.iter().min_by_key(|(_, pure)| distance(pure)).unwrap().0;
    let (top, bottom) = (ink.iter().map(|p| p.0).min().unwrap(), ink.iter().map(|p| p.0).max().unwrap());
    let (left, right) = (ink.iter().map(|p| p.1).min().unwrap(), ink.iter().map(|p| p.1).max().unwrap());
    let size = if right - left > 15 { "large" } else { "small" };
    let inked = |y: i32, x: i32| ink.contains(&(y, x));
    let filled = 100 * ink.len() as i32 / ((bottom - top + 1) * (right - left + 1));
    let (middle_y, middle_x) = ((top + bottom) / 2, (left + right) / 2);
    let shape = if !inked(middle_y, middle_x) {
        "ring"
    } else if filled == 100 {
        "square"
    } else if inked(bottom, left) && inked(bottom, right) {
        "triangle"
    } else if filled > 65 {
        "circle"
    } else if inked(top + (bottom - top) / 4, left + (right - left) / 4 + 1) {
        "diamond"
    } else {
        "cross"
    };
    Some(format!("{size} {colour} {shape}"))
}

fn article(noun: &str) -> String {
    let vowel = "aeiou".contains(&noun[..1]);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// The only object whose description contains `words`; "red object" means red alone.
fn only<'a>(seen: &'a [Seen], words: &str) -> &'a Seen {
    let words = words.trim_end_matches(" object");
    let mut fitting = seen.iter().filter(|(_, _, name)| name.contains(words));
    let first = fitting.next().unwrap_or_else(|| panic!("no {words} in {seen:?}"));
    assert!(fitting.next().is_none(), "several of {words} in {seen:?}");
    first
}

/// Whether training keeps this kind of object from this place: kinds are counted colour by colour.
pub(crate) fn is_held_out(object: &Seen) -> bool {
    let (row, column, name) = object;
    let colour = COLOURS.iter().position(|(word, _)| name.contains(word)).unwrap();
    let shape = SHAPES.iter().position(|word| name.ends_with(word)).unwrap();
    (6 * colour + shape) % 9 == usize::from(3 * row + column)
}

pub(crate) fn place_of(object: &Seen) -> String {
    let rows = ["top", "middle", "bottom"];
    let columns = ["left", "centre", "right"];
    format!("{} {}", rows[object.0 as usize], columns[object.1 as usize])
}

/// From what is seen and the rest of a question to its short and its sentence answer.
type Rule = fn(&[Seen], &str) -> (String, String);

/// The short and the sentence answer to a question about what is seen.
pub(crate) fn answer(seen: &[Seen], question: &str) -> (String, String) {
    let text = question.trim_end_matches(['?', '.']);
    // Longer openings first, where one starts with another.
    let openings: [(&str, Rule); 27] = [
        ("What colour is the ", colour),
        ("Which colour does the ", colour),
        ("Tell me the colour of the ", colour),
        ("What shape is the ", shape),
        ("Which shape does the ", shape),
        ("Tell me the shape of the ", shape),
        ("What size is the ", size),
        ("Tell me the size of the ", size),
        ("How many ", count),
        ("Count the ", count),
        ("What is the number of ", count),
        ("Is there ", exist),
        ("Can you see ", exist),
        ("Does the picture show ", exist),
        ("Where is the ", locate),
        ("Locate the ", locate),
        ("What is in the picture", describe),
        ("Describe the picture", describe),
        ("What is in the ", cell),
        ("Which object is in the ", cell),
        ("List the ", list),
        ("Sort the objects by ", sort),
        ("What is there of each ", sort),
        ("Which is ", compare),
        ("Which one is ", compare),
        ("Does the ", relation),
        ("Which ", list),
    ];
    if let Some(name) = text.strip_prefix("Is the ").and_then(|rest| rest.strip_suffix(" small or large")) {
        return size(seen, name);
    }
    if let Some(rest) = text.strip_prefix("Is the ") {
        return relation(seen, rest);
    }
    let (opening, solve) =
        openings.iter().find(|(opening, _)| text.starts_with(opening)).unwrap_or_else(|| panic!("{text}"));
    solve(seen, &text[opening.len()..])
}

fn colour(seen: &[Seen], rest: &str) -> (String, String) {
    let shape = rest.trim_end_matches(" have");
    let colour = only(seen, shape).2.split(' ').nth(1).unwrap().to_owned();
    (colour.clone(), format!("The {shape} is {colour}."))
}

fn shape(seen: &[Seen], rest: &str) -> (String, String) {
    let colour = rest.split(' ').next().unwrap();
    let shape = only(seen, &format!(" {colour} ")).2.rsplit(' ').next().unwrap().to_owned();
    (shape.clone(), format!("The {colour} object is {}.", article(&shape)))
}

fn size(seen: &[Seen], name: &str) -> (String, String) {
    let size = only(seen, name).2.split(' ').next().unwrap().to_owned();
    (size.clone(), format!("The {name} is {size}."))
}

fn count(seen: &[Seen], rest: &str) -> (String, String) {
    let many = rest.trim_end_matches(" are there");
    let one = many.strip_suffix("es").filter(|w| w.ends_with("ss")).unwrap_or(&many[..many.len() - 1]);
    let pattern = one.trim_end_matches("object").trim();
    let number = seen.iter().filter(|(_, _, name)| name.contains(pattern)).count();
    let word = ["zero", "one", "two", "three", "four", "five"][number];
    let sentence = match number {
        0 => format!("There are no {many}."),
        1 => format!("There is one {one}."),
        _ => format!("There are {word} {many}."),
    };
    (word.to_owned(), sentence)
}

fn exist(seen: &[Seen], noun: &str) -> (String, String) {
    let name = noun.split_once(' ').unwrap().1;
    if seen.iter().any(|object| object.2.ends_with(name)) {
        ("yes".to_owned(), format!("Yes, there is {noun}."))
    } else {
        ("no".to_owned(), format!("No, there is not {noun}."))
    }
}

fn locate(seen: &[Seen], name: &str) -> (String, String) {
    let place = place_of(only(seen, name));
    (place.clone(), format!("The {name} is in the {place}."))
}

fn cell(seen: &[Seen], place: &str) -> (String, String) {
    match seen.iter().find(|object| place_of(object) == place) {
        Some((_, _, name)) => (name.clone(), format!("There is {}.", article(name))),
        None => ("nothing".to_owned(), "There is nothing.".to_owned()),
    }
}

fn describe(seen: &[Seen], _: &str) -> (String, String) {
    let mut all = Vec::new();
    for row in 0..3 {
        for column in 0..3 {
            let object = seen.iter().find(|object| (object.0, object.1) == (row, column));
            let what = object.map_or("empty", |object| object.2.as_str());
            all.push(format!("{} {what}", place_of(&(row, column, String::new()))));
        }
    }
    let short = all.join(", ");
    (short.clone(), format!("Here: {short}."))
}

fn list(seen: &[Seen], rest: &str) -> (String, String) {
    let word = |object: &Seen, i: usize| object.2.split(' ').nth(i).unwrap().to_owned();
    let all: Vec<String> = seen
        .iter()
        .map(|object| match rest.trim_end_matches(" are there") {
            "colours" => word(object, 1),
            "shapes" => word(object, 2),
            _ => format!("{} {}", object.2, place_of(object)),
        })
        .collect();
    let short = all.join(", ");
    (short.clone(), format!("There are: {short}."))
}

fn sort(seen: &[Seen], by: &str) -> (String, String) {
    let (words, place_in_name): (Vec<&str>, usize) = match by {
        "colour" => (COLOURS.iter().map(|(word, _)| *word).collect(), 1),
        _ => (SHAPES.to_vec(), 2),
    };
    let group = |word: &&str| {
        let fitting = seen.iter().filter(|o| o.2.split(' ').nth(place_in_name).unwrap() == *word);
        let named: Vec<String> =
            fitting.map(|o| format!("{} {}", o.2.replace(&format!(" {word}"), ""), place_of(o))).collect();
        let all = if named.is_empty() { "none".to_owned() } else { named.join(" and ") };
        format!("{word} {all}")
    };
    let short = words.iter().map(group).collect::<Vec<_>>().join(", ");
    (short.clone(), format!("Sorted: {short}."))
}

fn relation(seen: &[Seen], rest: &str) -> (String, String) {
    let rest = rest.replace(" lie ", " ");
    for (words, across, sign, truth, opposite) in [
        (" left of the ", true, 1, "left of", "right of"),
        (" right of the ", true, -1, "right of", "left of"),
        (" above the ", false, 1, "above", "below"),
        (" below the ", false, -1, "below", "above"),
    ] {
        let Some((one, other)) = rest.split_once(words) else { continue };
        let (a, b) = (only(seen, one), only(seen, other));
        let ahead = if across { i32::from(b.1) - i32::from(a.1) } else { i32::from(b.0) - i32::from(a.0) };
        assert_ne!(ahead, 0, "{rest}");
        return if ahead * sign > 0 {
            ("yes".to_owned(), format!("Yes, it is {truth} the {other}."))
        } else {
            ("no".to_owned(), format!("No, it is {opposite} the {other}."))
        };
    }
    panic!("{rest}")
}

fn compare(seen: &[Seen], rest: &str) -> (String, String) {
    let (adjective, names) = rest.split_once([',', ':']).unwrap();
    let (one, other) = names.trim_start_matches(" the ").split_once(" or the ").unwrap();
    let wanted = if adjective == "larger" { "large" } else { "small" };
    let has = |name: &str| only(seen, name).2.starts_with(wanted);
    assert_ne!(has(one), has(other), "{rest}");
    let winner = if has(one) { one } else { other };
    (winner.to_owned(), format!("The {winner} is {adjective}."))
}
