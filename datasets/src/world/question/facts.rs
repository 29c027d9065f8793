//! Questions about single objects, kinds and cells.

use super::nouns::Noun;
use super::{Asker, Exchange, NUMBERS, place, plural, with_article};
use crate::world::{BOARD, Kind};

impl Asker<'_> {
    pub(super) fn colour(&mut self) -> Option<Exchange> {
        let sole = self.targets(|o| self.scene.count(|p| p.kind.figure == o.kind.figure) == 1);
        let kind = self.dice.pick(&sole)?.kind;
        let (colour, shape) = (kind.colour.word(), kind.figure.word());
        let text = match self.dice.below(3) {
            0 => format!("What colour is the {shape}?"),
            1 => format!("Which colour does the {shape} have?"),
            _ => format!("Tell me the colour of the {shape}."),
        };
        Some((text, colour.to_owned(), format!("The {shape} is {colour}.")))
    }

    pub(super) fn shape(&mut self) -> Option<Exchange> {
        let sole = self.targets(|o| self.scene.count(|p| p.kind.colour == o.kind.colour) == 1);
        let kind = self.dice.pick(&sole)?.kind;
        let (colour, shape) = (kind.colour.word(), kind.figure.word());
        let text = match self.dice.below(3) {
            0 => format!("What shape is the {colour} object?"),
            1 => format!("Which shape does the {colour} object have?"),
            _ => format!("Tell me the shape of the {colour} object."),
        };
        Some((text, shape.to_owned(), format!("The {colour} object is {}.", with_article(shape))))
    }

    pub(super) fn size(&mut self) -> Option<Exchange> {
        let (object, name) = self.referred()?;
        let size = object.size.word();
        let text = match self.dice.below(3) {
            0 => format!("What size is the {name}?"),
            1 => format!("Is the {name} small or large?"),
            _ => format!("Tell me the size of the {name}."),
        };
        Some((text, size.to_owned(), format!("The {name} is {size}.")))
    }

    pub(super) fn count(&mut self) -> Option<Exchange> {
        let (count, noun) = self.counted()?;
        let many = plural(&noun);
        let text = match self.dice.below(3) {
            0 => format!("How many {many} are there?"),
            1 => format!("Count the {many}."),
            _ => format!("What is the number of {many}?"),
        };
        let short = NUMBERS[count];
        let number = if count == 0 { "no" } else { short };
        let sentence = if count == 1 {
            format!("There is {number} {noun}.")
        } else {
            format!("There are {number} {many}.")
        };
        Some((text, short.to_owned(), sentence))
    }

    /// What to count, and how many there are. Mostly of what an object that the question may turn on is, else of
    /// anything.
    fn counted(&mut self) -> Option<(usize, String)> {
        let shown = self.dice.pick(&self.targets(|_| true)).filter(|_| self.dice.chance(70));
        let kind = shown.map(|o| o.kind).or_else(|| self.any_kind(|_| true))?;
        let noun = match self.dice.below(if self.scene.level.is_some() { 4 } else { 3 }) {
            0 => Noun::Kind(kind),
            1 => Noun::Colour(kind.colour),
            2 => Noun::Figure(kind.figure),
            _ => Noun::Class(kind.figure.class()),
        };
        Some((self.scene.count(|o| noun.fits(o)), noun.name()))
    }

    /// A random kind, shown or not. In the grown-up world, where kinds are many, one that is like something shown.
    fn any_kind(&mut self, test: impl Fn(Kind) -> bool) -> Option<Kind> {
        let scene = self.scene;
        let is_like = |kind: Kind| {
            let like = |o: &Kind| {
                o.figure == kind.figure || (o.colour, o.figure.class()) == (kind.colour, kind.figure.class())
            };
            scene.objects.iter().any(|o| like(&o.kind))
        };
        let kinds: Vec<Kind> = match scene.level {
            None => Kind::of_toy().filter(|&kind| test(kind)).collect(),
            Some(_) => Kind::all().filter(|&kind| is_like(kind) && test(kind)).collect(),
        };
        self.dice.pick(&kinds)
    }

    pub(super) fn exist(&mut self) -> Option<Exchange> {
        let scene = self.scene;
        let shown = |kind: Kind| scene.objects.iter().any(|o| o.kind == kind);
        let kind = match self.dice.pick(&self.targets(|_| true)) {
            Some(object) if self.dice.chance(50) => object.kind,
            _ => self.any_kind(|kind| !shown(kind))?,
        };
        let noun = with_article(&kind.name());
        let text = match self.dice.below(3) {
            0 => format!("Is there {noun}?"),
            1 => format!("Can you see {noun}?"),
            _ => format!("Does the picture show {noun}?"),
        };
        Some(if shown(kind) {
            (text, "yes".to_owned(), format!("Yes, there is {noun}."))
        } else {
            (text, "no".to_owned(), format!("No, there is not {noun}."))
        })
    }

    pub(super) fn locate(&mut self) -> Option<Exchange> {
        let (object, name) = self.referred()?;
        let place = place(object.row, object.column);
        let text = match self.dice.below(2) {
            0 => format!("Where is the {name}?"),
            _ => format!("Locate the {name}."),
        };
        let sentence = format!("The {name} is in the {place}.");
        Some((text, place, sentence))
    }

    pub(super) fn cell(&mut self) -> Option<Exchange> {
        let target = self.dice.pick(&self.targets(|_| true))?;
        let any = !self.held_out && self.dice.chance(15);
        let (row, column) = if any {
            (self.dice.below(usize::from(BOARD)) as u8, self.dice.below(usize::from(BOARD)) as u8)
        } else {
            (target.row, target.column)
        };
        let place = place(row, column);
        let text = match self.dice.below(2) {
            0 => format!("What is in the {place}?"),
            _ => format!("Which object is in the {place}?"),
        };
        Some(match self.scene.at(row, column) {
            None => (text, "nothing".to_owned(), "There is nothing.".to_owned()),
            Some(object) => {
                let name = object.full_name();
                let sentence = format!("There is {}.", with_article(&name));
                (text, name, sentence)
            }
        })
    }
}
