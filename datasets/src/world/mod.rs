//! The toy world: a 3 x 3 board of coloured shapes, and what may be asked about it.
//!
//! A cell is 28 pixels wide, so that under a patch of 14 pixels merged two by two (Qwen2-VL's
//! merger, InternVL's pixel shuffle) one image token sees exactly one cell. Ticks on its
//! edges tell a cell's place as on a ruler: M-RoPE alone says little at so small a scale.
//!
//! Combinations are held out: each of the 36 kinds of object, a colour and a shape, has one place where no
//! training picture shows it. Every test question turns on an object in such a place, so a model that
//! has learnt pictures by heart fails where one that has learnt colours, shapes and places does not.
//!
//! Beside the toy stands the grown-up world on the same board: scenes of three [`Level`]s, in which an object may also be a
//! coloured digit or letter ([`glyphs`]), and three letters in a line may spell a word ([`words`]). Its kinds and
//! its words have places that training keeps from them in the same way. Scenes are drawn in [`scenes`].

pub mod glyphs;
pub mod question;
pub mod render;
pub mod scenes;
pub mod words;

use serde::Deserialize;

use words::{Line, Spelled};

/// Cells on each side of the board.
pub const BOARD: u8 = 3;
/// Pixels on each side of a cell.
pub const CELL_PIXELS: u32 = 28;
/// Pixels on each side of a picture.
pub const PICTURE_PIXELS: u32 = BOARD as u32 * CELL_PIXELS;

/// Declares an enum with the word for each variant, so that the two cannot drift apart.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $word] $variant),+
        }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word a question or an answer uses.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// An object's colour.
    Colour { Red = "red", Green = "green", Blue = "blue", Yellow = "yellow", Purple = "purple", Orange = "orange" }
}
words! {
    /// An object's shape.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Diamond = "diamond", Cross = "cross", Ring = "ring" }
}
words! {
    /// An object's size.
    Size { Small = "small", Large = "large" }
}

words! {
    /// A digit, as an object of its own.
    Digit {
        One = "one", Two = "two", Three = "three", Four = "four", Five = "five", Six = "six", Seven = "seven",
        Eight = "eight", Nine = "nine",
    }
}
words! {
    /// A letter, as an object of its own: those that the words of [`words`] need. There is no "a", which a comparison
    /// of answers would take for an article.
    Letter {
        B = "letter b", C = "letter c", D = "letter d", E = "letter e", G = "letter g", I = "letter i", M = "letter m",
        N = "letter n", O = "letter o", P = "letter p", S = "letter s", T = "letter t", U = "letter u",
    }
}
words! {
    /// What sort of thing a figure is.
    Class { Shape = "shape", Number = "number", Letter = "letter" }
}

impl Digit {
    /// 1 to 9.
    pub fn value(self) -> usize {
        self as usize + 1
    }
}

impl Letter {
    /// The letter alone: "b".
    pub fn letter(self) -> &'static str {
        self.word().trim_start_matches("letter ")
    }
}

/// What an object is, its colour aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Figure {
    /// One of the toy's shapes.
    Shape(Shape),
    /// A digit, drawn as one.
    Digit(Digit),
    /// A letter, drawn as a capital.
    Letter(Letter),
}

impl Figure {
    /// Every figure: shapes, digits, letters.
    pub fn all() -> impl Iterator<Item = Figure> {
        let shapes = Shape::ALL.iter().copied().map(Figure::Shape);
        let digits = Digit::ALL.iter().copied().map(Figure::Digit);
        shapes.chain(digits).chain(Letter::ALL.iter().copied().map(Figure::Letter))
    }

    /// "circle", "seven", "letter b".
    pub fn word(self) -> &'static str {
        match self {
            Self::Shape(shape) => shape.word(),
            Self::Digit(digit) => digit.word(),
            Self::Letter(letter) => letter.word(),
        }
    }

    /// What sort of thing it is.
    pub fn class(self) -> Class {
        match self {
            Self::Shape(_) => Class::Shape,
            Self::Digit(_) => Class::Number,
            Self::Letter(_) => Class::Letter,
        }
    }

    /// The value of a digit.
    pub fn value(self) -> Option<usize> {
        match self {
            Self::Digit(digit) => Some(digit.value()),
            _ => None,
        }
    }
}

/// A colour and a figure: what objects are called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Its pure colour, before an object's tint.
    pub colour: Colour,
    /// What is drawn; in the toy, a shape.
    pub figure: Figure,
}

impl Kind {
    /// The toy's 36 kinds, a colour and a shape each.
    pub fn of_toy() -> impl Iterator<Item = Kind> {
        Self::all().filter(|kind| kind.figure.class() == Class::Shape)
    }

    /// Every kind, colour by colour.
    pub fn all() -> impl Iterator<Item = Kind> {
        let figures = |colour| Figure::all().map(move |figure| Kind { colour, figure });
        Colour::ALL.iter().flat_map(move |&colour| figures(colour))
    }

    /// The cell, counted in reading order, in which training never shows this kind. Each cell is that of four kinds
    /// of shape. A colour's shapes are kept from six cells, a shape from three (in two colours each), a digit
    /// or a letter from six.
    pub fn held_out_cell(self) -> u8 {
        let colour = self.colour as u8;
        let counted = match self.figure {
            Figure::Shape(shape) => Shape::ALL.len() as u8 * colour + shape as u8,
            // Five and the number of cells have no common divisor: no two colours share a cell.
            Figure::Digit(digit) => 5 * colour + digit as u8,
            Figure::Letter(letter) => 5 * colour + letter as u8 + 3,
        };
        counted % (BOARD * BOARD)
    }

    /// "red circle".
    pub fn name(self) -> String {
        format!("{} {}", self.colour.word(), self.figure.word())
    }
}

/// One thing on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// From the top, 0 to 2.
    pub row: u8,
    /// From the left, 0 to 2.
    pub column: u8,
    /// Colour and figure.
    pub kind: Kind,
    /// How much of its cell it fills.
    pub size: Size,
    /// How much the colour differs from its pure form, per channel.
    pub tint: [i32; 3],
}

impl Object {
    /// Whether training never shows such an object in this place.
    pub fn is_held_out(&self) -> bool {
        self.kind.held_out_cell() == self.row * BOARD + self.column
    }

    /// "large red circle".
    pub fn full_name(&self) -> String {
        format!("{} {}", self.size.word(), self.kind.name())
    }
}

/// How full a scene of the grown-up world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "u8")]
pub enum Level {
    /// Two or three objects.
    One = 1,
    /// Four or five.
    Two = 2,
    /// Six to eight.
    Three = 3,
}

impl Level {
    /// Every level, easiest first.
    pub const ALL: [Level; 3] = [Level::One, Level::Two, Level::Three];
}

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|&level| level as u8 == number);
        known.ok_or_else(|| format!("there is no level {number}: known are 1, 2, 3"))
    }
}

/// A picture's content, from which its pixels and all answers follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// In reading order; at most one in a cell.
    pub objects: Vec<Object>,
    /// Its level in the grown-up world; none in the toy.
    pub level: Option<Level>,
}

impl Scene {
    /// How many objects satisfy `test`.
    pub fn count(&self, test: impl Fn(&Object) -> bool) -> usize {
        self.objects.iter().filter(|object| test(object)).count()
    }

    /// The objects that no other of the same kind makes ambiguous.
    pub fn unique(&self) -> Vec<Object> {
        self.objects.iter().filter(|o| self.count(|p| p.kind == o.kind) == 1).copied().collect()
    }

    /// What lies in a cell.
    pub fn at(&self, row: u8, column: u8) -> Option<Object> {
        self.objects.iter().find(|o| (o.row, o.column) == (row, column)).copied()
    }

    /// The words that its letters spell, rows before columns.
    pub fn words(&self) -> Vec<Spelled> {
        let letter = |(row, column)| match self.at(row, column)?.kind.figure {
            Figure::Letter(letter) => Some(letter.letter()),
            _ => None,
        };
        let spelled = |line: Line| {
            let letters: Option<String> = line.cells().into_iter().map(letter).collect();
            Spelled::find(&letters?, line)
        };
        Line::all().filter_map(spelled).collect()
    }

    /// Whether anything in it, an object or a word, is in a place that training keeps from it.
    pub fn is_held_out(&self) -> bool {
        self.objects.iter().any(Object::is_held_out) || self.words().iter().any(Spelled::is_held_out)
    }
}

#[cfg(test)]
mod tests;
