//! Questions about the whole picture: cell by cell, object by object, colour by colour, shape by shape.
//!
//! Their long answers say where to look for what, many times over: a model learns to see from them.

use super::{Asker, Exchange, place};
use crate::world::{BOARD, Colour, Object, Shape};

impl Asker<'_> {
    pub(super) fn describe(&mut self) -> Option<Exchange> {
        let text = self.dice.one_of(["What is in the picture?", "Describe the picture."]);
        let cells = (0..BOARD).flat_map(|row| (0..BOARD).map(move |column| (row, column)));
        let content = |(row, column)| {
            let name = self.scene.at(row, column).map(|object| object.full_name());
            format!("{} {}", place(row, column), name.as_deref().unwrap_or("empty"))
        };
        let short = joined(cells.map(content));
        let sentence = format!("Here: {short}.");
        Some((text.to_owned(), short, sentence))
    }

    pub(super) fn list(&mut self) -> Option<Exchange> {
        let (what, name): (&str, fn(&Object) -> String) = match self.dice.below(3) {
            0 => ("objects", |o| format!("{} {}", o.full_name(), place(o.row, o.column))),
            1 => ("colours", |o| o.kind.colour.word().to_owned()),
            _ => ("shapes", |o| o.kind.shape.word().to_owned()),
        };
        let text = match self.dice.below(2) {
            0 => format!("Which {what} are there?"),
            _ => format!("List the {what}."),
        };
        let short = joined(self.scene.objects.iter().map(name));
        let sentence = format!("There are: {short}.");
        Some((text, short, sentence))
    }

    pub(super) fn sort(&mut self) -> Option<Exchange> {
        let by_colour = self.dice.chance(50);
        let by = if by_colour { "colour" } else { "shape" };
        let text = match self.dice.below(2) {
            0 => format!("What is there of each {by}?"),
            _ => format!("Sort the objects by {by}."),
        };
        let short = if by_colour {
            let rest = |o: &Object| format!("{} {}", o.size.word(), o.kind.shape.word());
            joined(Colour::ALL.iter().map(|&c| self.group(c.word(), |o| o.kind.colour == c, rest)))
        } else {
            let rest = |o: &Object| format!("{} {}", o.size.word(), o.kind.colour.word());
            joined(Shape::ALL.iter().map(|&s| self.group(s.word(), |o| o.kind.shape == s, rest)))
        };
        let sentence = format!("Sorted: {short}.");
        Some((text, short, sentence))
    }

    /// "red large circle top left and small ring middle centre", or "red none".
    fn group(&self, word: &str, test: impl Fn(&Object) -> bool, rest: impl Fn(&Object) -> String) -> String {
        let fitting = self.scene.objects.iter().filter(|o| test(o));
        let named: Vec<String> = fitting.map(|o| format!("{} {}", rest(o), place(o.row, o.column))).collect();
        let all = if named.is_empty() { "none".to_owned() } else { named.join(" and ") };
        format!("{word} {all}")
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
