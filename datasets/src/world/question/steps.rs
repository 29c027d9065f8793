//! Questions that take a step before the answer: find an object, then look beside it or along its line.

use super::{Asker, Exchange, NUMBERS, capitalised, place, with_article};
use crate::world::words::Line;
use crate::world::{BOARD, Colour, Object};

/// A direction in words, and where it leads as (rows, columns).
const DIRECTIONS: [(&str, (i8, i8)); 4] =
    [("left of", (0, -1)), ("right of", (0, 1)), ("above", (-1, 0)), ("below", (1, 0))];

/// A step from an object: where it leads, in words and on the board.
#[derive(Clone, Copy)]
struct Step {
    from: Object,
    direction: &'static str,
    row: u8,
    column: u8,
}

impl Asker<'_> {
    pub(super) fn hop(&mut self) -> Option<Exchange> {
        let scene = self.scene;
        let (filled, empty): (Vec<Step>, Vec<Step>) =
            self.steps().into_iter().partition(|step| scene.at(step.row, step.column).is_some());
        let filled_first = self.dice.chance(80);
        let [first, second] = if filled_first { [&filled, &empty] } else { [&empty, &filled] };
        let step = self.dice.pick(first).or_else(|| self.dice.pick(second))?;
        let (name, direction) = (step.from.kind.name(), step.direction);
        let text = match self.dice.below(3) {
            0 => format!("What is just {direction} the {name}?"),
            1 => format!("Which object is just {direction} the {name}?"),
            _ => format!("What lies just {direction} the {name}?"),
        };
        let found = scene.at(step.row, step.column);
        let short = found.map_or("nothing".to_owned(), |o| o.full_name());
        let thing = found.map_or("nothing".to_owned(), |o| with_article(&o.full_name()));
        let start = place(step.from.row, step.from.column);
        let end = place(step.row, step.column);
        let sentence =
            format!("The {name} is in the {start}. Just {direction} it, in the {end}, is {thing}.");
        Some((text, short, sentence))
    }

    /// The steps on the board from an object that its kind identifies. Held out is where it starts or what it leads to.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for from in self.scene.unique() {
            for (direction, (down, across)) in DIRECTIONS {
                let to = (from.row.checked_add_signed(down), from.column.checked_add_signed(across));
                let (Some(row), Some(column)) = to else { continue };
                let ends = self.scene.at(row, column);
                let turns = !self.held_out || from.is_held_out() || ends.is_some_and(|o| o.is_held_out());
                if row < BOARD && column < BOARD && turns {
                    steps.push(Step { from, direction, row, column });
                }
            }
        }
        steps
    }

    pub(super) fn line(&mut self) -> Option<Exchange> {
        let object = self.dice.pick(&self.scene.unique())?;
        let line = if self.dice.chance(50) {
            Line { is_row: true, index: object.row }
        } else {
            Line { is_row: false, index: object.column }
        };
        let shown: Vec<Object> =
            line.cells().into_iter().filter_map(|(row, column)| self.scene.at(row, column)).collect();
        if self.held_out && !shown.iter().any(Object::is_held_out) {
            return None;
        }
        let (name, noun) = (object.kind.name(), line.noun());
        let text = match self.dice.below(2) {
            0 => format!("How many objects are in the {noun} of the {name}?"),
            _ => format!("Count the objects in the {noun} of the {name}."),
        };
        let number = NUMBERS[shown.len()];
        let names: Vec<String> = shown.iter().map(|o| o.kind.name()).collect();
        let sentence =
            format!("The {name} is in the {}: {}. That makes {number}.", line.name(), names.join(", "));
        Some((text, number.to_owned(), sentence))
    }

    pub(super) fn most(&mut self) -> Option<Exchange> {
        let scene = self.scene;
        let counts = Colour::ALL.iter().map(|&colour| (scene.count(|o| o.kind.colour == colour), colour));
        let shown: Vec<(usize, Colour)> = counts.filter(|(count, _)| *count > 0).collect();
        let &(most, winner) = shown.iter().max_by_key(|(count, _)| *count)?;
        let is_clear = shown.len() > 1 && shown.iter().filter(|(count, _)| *count == most).count() == 1;
        if !is_clear || self.targets(|o| o.kind.colour == winner).is_empty() {
            return None;
        }
        let text = self.dice.one_of([
            "Which colour is there most of?",
            "Which colour do most objects have?",
            "What is the most common colour?",
        ]);
        let winner = winner.word();
        let counted: Vec<String> =
            shown.iter().map(|(count, colour)| format!("{} {}", NUMBERS[*count], colour.word())).collect();
        let sentence = format!("{}: most are {winner}.", capitalised(&counted.join(", ")));
        Some((text.to_owned(), winner.to_owned(), sentence))
    }
}
