//! What things are counted as.

use crate::world::{Class, Colour, Figure, Kind, Object};

/// A word for some of the objects of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noun {
    /// "red circle".
    Kind(Kind),
    /// "red object".
    Colour(Colour),
    /// "circle".
    Figure(Figure),
    /// "number".
    Class(Class),
}

impl Noun {
    /// Whether an object is called that.
    pub(super) fn fits(self, object: &Object) -> bool {
        match self {
            Self::Kind(kind) => object.kind == kind,
            Self::Colour(colour) => object.kind.colour == colour,
            Self::Figure(figure) => object.kind.figure == figure,
            Self::Class(class) => object.kind.figure.class() == class,
        }
    }

    /// The word, for one of them.
    pub(super) fn name(self) -> String {
        match self {
            Self::Kind(kind) => kind.name(),
            Self::Colour(colour) => format!("{} object", colour.word()),
            Self::Figure(figure) => figure.word().to_owned(),
            Self::Class(class) => class.word().to_owned(),
        }
    }
}
