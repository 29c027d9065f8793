//! From pixels to what they show, without the code that draws them.

use image::RgbImage;

pub(crate) const COLOURS: [(&str, [i32; 3]); 6] = [
    ("red", [250, 50, 60]),
    ("green", [50, 250, 60]),
    ("blue", [50, 60, 250]),
    ("yellow", [170, 170, 20]),
    ("purple", [170, 20, 170]),
    ("orange", [220, 120, 20]),
];

pub(crate) const SHAPES: [&str; 6] = ["circle", "square", "triangle", "diamond", "cross", "ring"];

/// Digits and letters as they look, row by row.
#[rustfmt::skip] // a glyph a line
const GLYPHS: [(&str, &str); 22] = [
    ("one", "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###."),
    ("two", ".###. #...# ....# ..##. .#... #.... #####"),
    ("three", "####. ....# ....# .###. ....# ....# ####."),
    ("four", "...#. ..##. .#.#. #..#. ##### ...#. ...#."),
    ("five", "##### #.... ####. ....# ....# #...# .###."),
    ("six", "..##. .#... #.... ####. #...# #...# .###."),
    ("seven", "##### ....# ...#. ..#.. ..#.. .#... .#..."),
    ("eight", ".###. #...# #...# .###. #...# #...# .###."),
    ("nine", ".###. #...# #...# .#### ....# ...#. .##.."),
    ("letter b", "####. #...# #...# ####. #...# #...# ####."),
    ("letter c", ".#### #.... #.... #.... #.... #.... .####"),
    ("letter d", "####. #...# #...# #...# #...# #...# ####."),
    ("letter e", "##### #.... #.... ####. #.... #.... #####"),
    ("letter g", ".#### #.... #.... #.### #...# #...# .####"),
    ("letter i", "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####"),
    ("letter m", "#...# ##.## #.#.# #.#.# #...# #...# #...#"),
    ("letter n", "#...# ##..# ##..# #.#.# #..## #..## #...#"),
    ("letter o", ".###. #...# #...# #...# #...# #...# .###."),
    ("letter p", "####. #...# #...# ####. #.... #.... #...."),
    ("letter s", ".#### #.... #.... .###. ....# ....# ####."),
    ("letter t", "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#.."),
    ("letter u", "#...# #...# #...# #...# #...# #...# .###."),
];

const WORDS: &str =
    "cup cub bus sun gum mud nut net pen pin pig dog pot top bed ice den bin sub mug tub tin toe dig";

/// The lines of the board, in the order in which words are kept from them, with their cells.
pub(crate) const LINES: [(&str, [usize; 3]); 6] = [
    ("top row", [0, 1, 2]),
    ("middle row", [3, 4, 5]),
    ("bottom row", [6, 7, 8]),
    ("left column", [0, 3, 6]),
    ("centre column", [1, 4, 7]),
    ("right column", [2, 5, 8]),
];

/// An object as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The cell, counted in reading order.
    pub(crate) cell: usize,
    pub(crate) size: &'static str,
    pub(crate) colour: &'static str,
    /// "circle", "seven", "letter b".
    pub(crate) figure: &'static str,
}

impl Seen {
    /// "red circle".
    pub(crate) fn kind(&self) -> String {
        format!("{} {}", self.colour, self.figure)
    }

    /// "large red circle".
    pub(crate) fn full(&self) -> String {
        format!("{} {} {}", self.size, self.colour, self.figure)
    }

    /// "shape", "number" or "letter".
    pub(crate) fn class(&self) -> &'static str {
        match self.figure {
            letter if letter.starts_with("letter ") => "letter",
            shape if SHAPES.contains(&shape) => "shape",
            _ => "number",
        }
    }

    /// What a digit is worth: the glyphs begin with the digits.
    pub(crate) fn value(&self) -> Option<usize> {
        (self.class() == "number").then(|| glyph_number(self.figure) + 1)
    }

    /// "top left".
    pub(crate) fn place(&self) -> String {
        place_of(self.cell)
    }

    /// Whether training keeps this kind of object from this place: shapes are counted colour by colour, digits
    /// and letters by fives.
    pub(crate) fn is_held_out(&self) -> bool {
        let colour = COLOURS.iter().position(|(word, _)| *word == self.colour).unwrap();
        let counted = match self.class() {
            "shape" => 6 * colour + SHAPES.iter().position(|word| *word == self.figure).unwrap(),
            "number" => 5 * colour + glyph_number(self.figure),
            _ => 5 * colour + glyph_number(self.figure) - 9 + 3,
        };
        counted % 9 == self.cell
    }
}

fn glyph_number(name: &str) -> usize {
    GLYPHS.iter().position(|(known, _)| *known == name).unwrap()
}

pub(crate) fn place_of(cell: usize) -> String {
    format!("{} {}", ["top", "middle", "bottom"][cell / 3], ["left", "centre", "right"][cell % 3])
}

/// The word in a line of the board, if one is there, and whether training keeps it from there.
pub(crate) fn word_in(seen: &[Seen], line: usize) -> Option<(String, bool)> {
    let letter = |cell: usize| seen.iter().find(|o| o.cell == cell)?.figure.strip_prefix("letter ");
    let word: String = LINES[line].1.into_iter().map(letter).collect::<Option<_>>()?;
    let index = WORDS.split(' ').position(|known| known == word)?;
    Some((word, index % 6 == line))
}

/// Whether anything in a picture is in a place that training keeps from it.
pub(crate) fn shows_held_out(seen: &[Seen]) -> bool {
    seen.iter().any(Seen::is_held_out) || (0..6).any(|line| word_in(seen, line).is_some_and(|(_, kept)| kept))
}

/// What a picture shows, in reading order.
pub(crate) fn read_picture(picture: &RgbImage) -> Vec<Seen> {
    assert_eq!(picture.dimensions(), (84, 84));
    (0..9).filter_map(|cell| read_cell(picture, cell)).collect()
}

/// The object in a cell, all that is not gray: its colour by the nearest pure one, its size by its extent.
fn read_cell(picture: &RgbImage, cell: usize) -> Option<Seen> {
    let (y0, x0) = (28 * (cell as u32 / 3), 28 * (cell as u32 % 3));
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
    let extent = Extent::of(&ink);
    let size = if extent.height().max(extent.width()) > 15 { "large" } else { "small" };
    // No shape is as high as a glyph of either size.
    let figure = match extent.height() {
        14 => glyph_of(&ink, &extent, 2),
        21 => glyph_of(&ink, &extent, 3),
        _ => shape_of(&ink, &extent),
    };
    Some(Seen { cell, size, colour, figure })
}

/// The square around some ink, its last row and column included.
struct Extent {
    top: i32,
    bottom: i32,
    left: i32,
    right: i32,
}

impl Extent {
    fn of(ink: &[(i32, i32)]) -> Self {
        let (ys, xs) = (ink.iter().map(|p| p.0), ink.iter().map(|p| p.1));
        Self {
            top: ys.clone().min().unwrap(),
            bottom: ys.max().unwrap(),
            left: xs.clone().min().unwrap(),
            right: xs.max().unwrap(),
        }
    }

    fn height(&self) -> i32 {
        self.bottom - self.top + 1
    }

    fn width(&self) -> i32 {
        self.right - self.left + 1
    }
}

/// The shape, by how it fills the square around it.
fn shape_of(ink: &[(i32, i32)], extent: &Extent) -> &'static str {
    let &Extent { top, bottom, left, right } = extent;
    let inked = |y: i32, x: i32| ink.contains(&(y, x));
    let filled = 100 * ink.len() as i32 / (extent.height() * extent.width());
    if !inked((top + bottom) / 2, (left + right) / 2) {
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
    }
}

/// The digit or letter whose dots, `side` pixels each, are the ink. Only a "one" is narrower than the others.
fn glyph_of(ink: &[(i32, i32)], extent: &Extent, side: i32) -> &'static str {
    let indent = (5 * side - extent.width()) / 2;
    let dot = |y: i32, x: i32| ink.contains(&(extent.top + y, extent.left + x - indent));
    let fits = |glyph: &str| {
        let rows: Vec<&[u8]> = glyph.split(' ').map(str::as_bytes).collect();
        let is_dot = |y: i32, x: i32| rows[(y / side) as usize][(x / side) as usize] == b'#';
        (0..7 * side).all(|y| (0..5 * side).all(|x| is_dot(y, x) == dot(y, x)))
    };
    let known = GLYPHS.iter().find(|(_, glyph)| fits(glyph));
    known.unwrap_or_else(|| panic!("no glyph: {ink:?}")).0
}
