//! Questions about two objects.

use super::{Asker, Exchange};
use crate::world::{Class, Object};

impl Asker<'_> {
    /// Two objects, each the only one of its kind, in random order; a question may turn on at least
    /// one of them. `test` says which second object fits the first.
    fn pair(&mut self, test: impl Fn(&Object, &Object) -> bool) -> Option<(Object, Object)> {
        let first = self.dice.pick(&self.unique_targets())?;
        let fits = |o: &Object| *o != first && test(&first, o);
        let others: Vec<Object> = self.scene.unique().into_iter().filter(fits).collect();
        let second = self.dice.pick(&others)?;
        Some(if self.dice.chance(50) { (first, second) } else { (second, first) })
    }

    pub(super) fn relation(&mut self) -> Option<Exchange> {
        let sideways = self.dice.chance(50);
        let coordinate = |o: &Object| if sideways { o.column } else { o.row };
        let (one, other) = self.pair(|a, b| coordinate(a) != coordinate(b))?;
        let (before, after) = if sideways { ("left of", "right of") } else { ("above", "below") };
        let truth = if coordinate(&one) < coordinate(&other) { before } else { after };
        let asked = self.dice.one_of([before, after]);
        let (one, other) = (one.kind.name(), other.kind.name());
        let text = match self.dice.below(2) {
            0 => format!("Is the {one} {asked} the {other}?"),
            _ => format!("Does the {one} lie {asked} the {other}?"),
        };
        let (short, start) = if asked == truth { ("yes", "Yes") } else { ("no", "No") };
        Some((text, short.to_owned(), format!("{start}, it is {truth} the {other}.")))
    }

    pub(super) fn compare(&mut self) -> Option<Exchange> {
        // Of two digits the larger would be the one that is worth more.
        let is_digit = |o: &Object| o.kind.figure.class() == Class::Number;
        let (one, other) = self.pair(|a, b| a.size != b.size && !(is_digit(a) && is_digit(b)))?;
        let (larger, smaller) = if one.size > other.size { (one, other) } else { (other, one) };
        let (adjective, winner) = self.dice.one_of([("larger", larger), ("smaller", smaller)]);
        let (one, other, winner) = (one.kind.name(), other.kind.name(), winner.kind.name());
        let text = match self.dice.below(2) {
            0 => format!("Which is {adjective}, the {one} or the {other}?"),
            _ => format!("Which one is {adjective}: the {one} or the {other}?"),
        };
        let sentence = format!("The {winner} is {adjective}.");
        Some((text, winner, sentence))
    }
}
