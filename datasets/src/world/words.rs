//! Words of three letters, in a row or a column of the board.
//!
//! Many differ in one letter or in its place (pin, pen, bin; top, pot), so that a reader has to look at all three. Each word has
//! one line in which training never shows it.

use super::BOARD;

/// The words. Each is kept from one line, see [`Spelled::is_held_out`].
pub const WORDS: [&str; 24] = [
    "cup", "cub", "bus", "sun", "gum", "mud", "nut", "net", "pen", "pin", "pig", "dog", "pot", "top", "bed",
    "ice", "den", "bin", "sub", "mug", "tub", "tin", "toe", "dig",
];

/// A row or a column of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// A row; a column otherwise.
    pub is_row: bool,
    /// From the top or from the left, 0 to 2.
    pub index: u8,
}

impl Line {
    /// Rows from the top, then columns from the left.
    pub fn all() -> impl Iterator<Item = Line> {
        let lines = |is_row| (0..BOARD).map(move |index| Line { is_row, index });
        lines(true).chain(lines(false))
    }

    /// Its cells as (row, column), in reading order.
    pub fn cells(self) -> [(u8, u8); BOARD as usize] {
        [0, 1, 2].map(|i| if self.is_row { (self.index, i) } else { (i, self.index) })
    }

    /// "row" or "column".
    pub fn noun(self) -> &'static str {
        if self.is_row { "row" } else { "column" }
    }

    /// "top row", "centre column".
    pub fn name(self) -> String {
        let names = if self.is_row { ["top", "middle", "bottom"] } else { ["left", "centre", "right"] };
        format!("{} {}", names[usize::from(self.index)], self.noun())
    }

    /// Where it stands in [`all`](Self::all).
    fn number(self) -> usize {
        usize::from(self.index + if self.is_row { 0 } else { BOARD })
    }
}

/// A word where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// The place in [`WORDS`].
    index: usize,
    /// The line that its letters fill.
    pub line: Line,
}

impl Spelled {
    /// The word that `letters` spell in `line`, if it is one.
    pub fn find(letters: &str, line: Line) -> Option<Self> {
        WORDS.iter().position(|word| *word == letters).map(|index| Self { index, line })
    }

    /// Its letters, in lower case.
    pub fn word(&self) -> &'static str {
        WORDS[self.index]
    }

    /// Whether training never shows the word in this line: each line is that of four words.
    pub fn is_held_out(&self) -> bool {
        self.index % 6 == self.line.number()
    }
}
