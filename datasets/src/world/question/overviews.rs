//! Questions about the whole picture: cell by cell, object by object, colour by colour, shape by shape.
//!
//! Their long answers say where to look for what, many times over: a model learns to see from them.

use super::{Asker, Exchange, place, plural};
use crate::world::{BOARD, Class, Colour, Figure, Object, Shape};

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
        let with_place: fn(&Object) -> String = |o| format!("{} {}", o.full_name(), place(o.row, o.column));
        let colour: fn(&Object) -> String = |o| o.kind.colour.word().to_owned();
        let figure: fn(&Object) -> String = |o| o.kind.figure.word().to_owned();
        let (what, name) = match self.dice.below(3) {
            0 => ("objects".to_owned(), with_place),
            1 => ("colours".to_owned(), colour),
            _ if self.scene.level.is_none() => ("shapes".to_owned(), figure),
            _ => (plural(self.dice.pick(&self.scene.objects)?.kind.figure.class().word()), figure),
        };
        let text = match self.dice.below(2) {
            0 => format!("Which {what} are there?"),
            _ => format!("List the {what}."),
        };
        let class = Class::ALL.iter().find(|class| plural(class.word()) == what);
        let asked =
            self.scene.objects.iter().filter(|o| class.is_none_or(|&class| o.kind.figure.class() == class));
        let short = joined(asked.map(name));
        let sentence = format!("There are: {short}.");
        Some((text, short, sentence))
    }

    pub(super) fn sort(&mut self) -> Option<Exchange> {
        let by_colour = self.dice.chance(50);
        let by = match (by_colour, self.scene.level) {
            (true, _) => "colour",
            (false, None) => "shape",
            (false, Some(_)) => "kind",
        };
        let text = match self.dice.below(2) {
            0 => format!("What is there of each {by}?"),
            _ => format!("Sort the objects by {by}."),
        };
        let sized = |o: &Object, word: &str| format!("{} {word}", o.size.word());
        let short = match by {
            "colour" => {
                let rest = |o: &Object| sized(o, o.kind.figure.word());
                joined(Colour::ALL.iter().map(|&c| self.group(c.word(), |o| o.kind.colour == c, rest)))
            }
            "shape" => {
                let rest = |o: &Object| sized(o, o.kind.colour.word());
                let is = |o: &Object, shape| o.kind.figure == Figure::Shape(shape);
                joined(Shape::ALL.iter().map(|&s| self.group(s.word(), |o| is(o, s), rest)))
            }
            _ => joined(Class::ALL.iter().map(|&class| {
                self.group(&plural(class.word()), |o| o.kind.figure.class() == class, Object::full_name)
            })),
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
