//! Questions about two pictures.

use super::nouns::Noun;
use super::{Asker, Exchange, NUMBERS, plural};
use crate::world::Scene;

/// Second pictures to try until one gives the answer that was drawn.
const TRIES: usize = 100;

/// The other picture of a question about two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// What it shows.
    pub scene: Scene,
    /// Whether it is the first of the two.
    pub comes_first: bool,
}

impl Asker<'_> {
    /// Which of two pictures has more of something. Each of the three answers is drawn as often; what is
    /// counted is something that an object is on which the question may turn.
    pub(super) fn twice(&mut self) -> Option<(Exchange, Beside)> {
        let level = self.scene.level?;
        let comes_first = self.dice.chance(50);
        let wanted = self.dice.one_of(["first", "second", "same"]);
        for _ in 0..TRIES {
            let kind = self.dice.pick(&self.targets(|_| true))?.kind;
            let noun = match self.dice.below(3) {
                0 => Noun::Colour(kind.colour),
                1 => Noun::Figure(kind.figure),
                _ => Noun::Class(kind.figure.class()),
            };
            let scene = Scene::of_level(level, self.dice);
            if scene.is_held_out() && !self.held_out {
                continue;
            }
            let (ours, theirs) = (self.scene.count(|o| noun.fits(o)), scene.count(|o| noun.fits(o)));
            let counts = if comes_first { [theirs, ours] } else { [ours, theirs] };
            if answer_to(counts) == wanted {
                return Some((self.which_has_more(noun, counts), Beside { scene, comes_first }));
            }
        }
        None
    }

    fn which_has_more(&mut self, noun: Noun, counts: [usize; 2]) -> Exchange {
        let (one, many) = (noun.name(), plural(&noun.name()));
        let text = match self.dice.below(2) {
            0 => format!("Which picture has more {many}, the first or the second?"),
            _ => format!("Are there more {many} in the first or the second picture?"),
        };
        let counted = counts.map(|count| match count {
            0 => format!("no {many}"),
            1 => format!("one {one}"),
            _ => format!("{} {many}", NUMBERS[count]),
        });
        let short = answer_to(counts);
        let end =
            if short == "same" { "both have the same".to_owned() } else { format!("the {short} has more") };
        let sentence = format!("The first has {}, the second has {}: {end}.", counted[0], counted[1]);
        (text, short.to_owned(), sentence)
    }
}

/// Which of two counts is the larger.
fn answer_to(counts: [usize; 2]) -> &'static str {
    match counts[0].cmp(&counts[1]) {
        std::cmp::Ordering::Greater => "first",
        std::cmp::Ordering::Less => "second",
        std::cmp::Ordering::Equal => "same",
    }
}
