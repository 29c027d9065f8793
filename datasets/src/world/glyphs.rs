//! The font of the grown-up world: digits and capitals on a grid of 5 x 7 dots, our own.
//!
//! Each dot becomes a square of pixels, two wide in a small glyph and three in a large one, so that both fit
//! into a cell beside its ticks. A row is five bits, the leftmost dot first.

use super::{Digit, Letter, Size};

/// Dots of a glyph, across and down.
pub const DOTS: (i32, i32) = (5, 7);

/// A glyph, row by row from the top.
pub type Glyph = [u8; DOTS.1 as usize];

/// Pixels on each side of a dot.
pub fn dot_pixels(size: Size) -> i32 {
    match size {
        Size::Small => 2,
        Size::Large => 3,
    }
}

/// Whether the dot in `row` and `column` is inked.
pub fn is_inked(glyph: &Glyph, row: i32, column: i32) -> bool {
    glyph[row as usize] >> (DOTS.0 - 1 - column) & 1 == 1
}

/// A digit's glyph.
#[rustfmt::skip] // a glyph a line
pub fn digit(digit: Digit) -> Glyph {
    match digit {
        Digit::One => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        Digit::Two => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        Digit::Three => [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110],
        Digit::Four => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        Digit::Five => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        Digit::Six => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        Digit::Seven => [0b11111, 0b00001, 0b00010, 0b00100, 0b00100, 0b01000, 0b01000],
        Digit::Eight => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        Digit::Nine => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
    }
}

/// A letter's glyph.
#[rustfmt::skip] // a glyph a line
pub fn letter(letter: Letter) -> Glyph {
    match letter {
        Letter::B => [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
        Letter::C => [0b01111, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b01111],
        Letter::D => [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110],
        Letter::E => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        Letter::G => [0b01111, 0b10000, 0b10000, 0b10111, 0b10001, 0b10001, 0b01111],
        Letter::I => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b11111],
        Letter::M => [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001],
        Letter::N => [0b10001, 0b11001, 0b11001, 0b10101, 0b10011, 0b10011, 0b10001],
        Letter::O => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        Letter::P => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        Letter::S => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        Letter::T => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        Letter::U => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
    }
}
