//! The toy world: a 3 x 3 board of coloured shapes, and what may be asked about it.
//!
//! A cell is 28 pixels wide, so that under a patch of 14 pixels merged two by two (Qwen2-VL's
//! merger, InternVL's pixel shuffle) one image token sees exactly one cell. Ticks on its
//! edges tell a cell's place as on a ruler: M-RoPE alone says little at so small a scale.
//!
//! Combinations are held out: each of the 36 kinds of object, a colour and a shape, has one place where no
//! training picture shows it. Every test question turns on an object in such a place, so a model that
//! has learnt pictures by heart fails where one that has learnt colours, shapes and places does not.

pub mod question;
pub mod render;

use crate::dice::Dice;

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

/// A colour-shape pair: what objects are called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The colour.
    pub colour: Colour,
    /// The shape.
    pub shape: Shape,
}

impl Kind {
    /// All 36 pairs.
    pub fn all() -> impl Iterator<Item = Kind> {
        let shapes = |colour| Shape::ALL.iter().map(move |&shape| Kind { colour, shape });
        Colour::ALL.iter().flat_map(move |&colour| shapes(colour))
    }

    /// The cell, counted in reading order, in which training never shows this kind. Each cell is that of
    /// four kinds, each colour and each shape is kept from six cells.
    pub fn held_out_cell(self) -> u8 {
        (Shape::ALL.len() as u8 * self.colour as u8 + self.shape as u8) % (BOARD * BOARD)
    }

    /// "red circle".
    pub fn name(self) -> String {
        format!("{} {}", self.colour.word(), self.shape.word())
    }
}

/// One thing on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// From the top, 0 to 2.
    pub row: u8,
    /// From the left, 0 to 2.
    pub column: u8,
    /// Colour and shape.
    pub kind: Kind,
    /// Size.
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

/// A picture's content, from which its pixels and all answers follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// In reading order; at most one in a cell.
    pub objects: Vec<Object>,
}

impl Scene {
    /// A random scene of two to five objects. Without `held_out` none of them is in a place that training
    /// keeps from it; with it, at least one is.
    pub fn random(held_out: bool, dice: &mut Dice) -> Self {
        // The average number of tries is below three.
        loop {
            let scene = Self::any(dice);
            if scene.objects.iter().any(Object::is_held_out) == held_out {
                return scene;
            }
        }
    }

    fn any(dice: &mut Dice) -> Self {
        let kinds = random_kinds(dice);
        let mut cells: Vec<u8> = (0..BOARD * BOARD).collect();
        for i in 0..kinds.len() {
            let other = i + dice.below(cells.len() - i);
            cells.swap(i, other);
        }
        let mut chosen = cells[..kinds.len()].to_vec();
        chosen.sort_unstable();
        let objects =
            chosen.into_iter().zip(kinds).map(|(cell, kind)| random_object(cell, kind, dice)).collect();
        Self { objects }
    }

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
}

/// The kinds of a scene's objects; a kind is repeated now and then, so that there is something to count.
fn random_kinds(dice: &mut Dice) -> Vec<Kind> {
    let all: Vec<Kind> = Kind::all().collect();
    let num_objects = dice.one_of([2, 3, 3, 4, 4, 5]);
    let mut kinds: Vec<Kind> = Vec::with_capacity(num_objects);
    for _ in 0..num_objects {
        let repeat = if dice.chance(25) { dice.pick(&kinds) } else { None };
        kinds.push(repeat.unwrap_or_else(|| all[dice.below(all.len())]));
    }
    kinds
}

fn random_object(cell: u8, kind: Kind, dice: &mut Dice) -> Object {
    let size = dice.one_of([Size::Small, Size::Large]);
    Object {
        row: cell / BOARD,
        column: cell % BOARD,
        kind,
        size,
        tint: [dice.jitter(5), dice.jitter(5), dice.jitter(5)],
    }
}

#[cfg(test)]
mod tests;
