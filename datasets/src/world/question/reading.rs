//! Questions that are read off the picture: digits, sums, words.

use super::{Asker, Exchange, NUMBERS, capitalised, place};
use crate::world::words::Spelled;
use crate::world::{Class, Colour, Object};

impl Asker<'_> {
    pub(super) fn read(&mut self) -> Option<Exchange> {
        let object = self.dice.pick(&self.targets(is_number))?;
        let number = object.kind.figure.word();
        let colour = object.kind.colour;
        if self.only_number(colour).is_some() && self.dice.chance(50) {
            let colour = colour.word();
            let text = match self.dice.below(3) {
                0 => format!("What number is {colour}?"),
                1 => format!("Which number is {colour}?"),
                _ => format!("Read the {colour} number."),
            };
            return Some((text, number.to_owned(), format!("The {colour} number is {number}.")));
        }
        let place = place(object.row, object.column);
        let text = match self.dice.below(3) {
            0 => format!("What number is in the {place}?"),
            1 => format!("Which number is in the {place}?"),
            _ => format!("Read the number in the {place}."),
        };
        Some((text, number.to_owned(), format!("The number in the {place} is {number}.")))
    }

    /// The one digit of a colour, if there is one alone.
    fn only_number(&self, colour: Colour) -> Option<Object> {
        let mut fitting = self.scene.objects.iter().filter(|o| is_number(o) && o.kind.colour == colour);
        fitting.next().filter(|_| fitting.next().is_none()).copied()
    }

    pub(super) fn sum(&mut self) -> Option<Exchange> {
        if self.targets(is_number).is_empty() {
            return None;
        }
        let values: Vec<usize> = self.scene.objects.iter().filter_map(|o| o.kind.figure.value()).collect();
        let (&first, rest) = values.split_first()?;
        if rest.is_empty() {
            return None;
        }
        let text = self.dice.one_of([
            "What do the numbers add up to?",
            "What is the sum of the numbers?",
            "Add up the numbers.",
        ]);
        let (mut sum, mut steps) = (first, Vec::with_capacity(rest.len()));
        for &value in rest {
            steps.push(format!("{} plus {} is {}", NUMBERS[sum], NUMBERS[value], NUMBERS[sum + value]));
            sum += value;
        }
        Some((text.to_owned(), NUMBERS[sum].to_owned(), capitalised(&format!("{}.", steps.join(", ")))))
    }

    pub(super) fn larger(&mut self) -> Option<Exchange> {
        let alone: Vec<Object> = Colour::ALL.iter().filter_map(|&colour| self.only_number(colour)).collect();
        let may_turn = |o: &Object| !self.held_out || o.is_held_out();
        let turning: Vec<Object> = alone.iter().filter(|o| may_turn(o)).copied().collect();
        let one = self.dice.pick(&turning)?;
        let value = |o: &Object| o.kind.figure.value();
        let others: Vec<Object> = alone.into_iter().filter(|o| value(o) != value(&one)).collect();
        let other = self.dice.pick(&others)?;
        let (one, other) = if self.dice.chance(50) { (one, other) } else { (other, one) };
        let adjective = self.dice.one_of(["larger", "smaller"]);
        let wins = (value(&one) > value(&other)) == (adjective == "larger");
        let winner = if wins { one } else { other }.kind.colour.word();
        let [(a, x), (b, y)] = [one, other].map(|o| (o.kind.colour.word(), o.kind.figure.word()));
        let text = match self.dice.below(2) {
            0 => format!("Which number is {adjective}, the {a} or the {b}?"),
            _ => format!("Is the {a} or the {b} number {adjective}?"),
        };
        let sentence = format!("The {a} is {x}, the {b} is {y}: the {winner} is {adjective}.");
        Some((text, winner.to_owned(), sentence))
    }

    pub(super) fn word(&mut self) -> Option<Exchange> {
        let scene = self.scene;
        let turns = |cells: [(u8, u8); 3]| {
            cells.into_iter().filter_map(|(row, column)| scene.at(row, column)).any(|o| o.is_held_out())
        };
        let allowed =
            |spelled: &Spelled| !self.held_out || spelled.is_held_out() || turns(spelled.line.cells());
        let words: Vec<_> = scene.words().into_iter().filter(allowed).collect();
        let spelled = self.dice.pick(&words)?;
        let (line, word) = (spelled.line.name(), spelled.word());
        let text = match self.dice.below(3) {
            0 => format!("Which word is in the {line}?"),
            1 => format!("Read the word in the {line}."),
            _ => format!("What does the {line} spell?"),
        };
        let letters: Vec<String> = word.chars().map(String::from).collect();
        Some((text, word.to_owned(), format!("The letters are {}: {word}.", letters.join(", "))))
    }
}

fn is_number(object: &Object) -> bool {
    object.kind.figure.class() == Class::Number
}
