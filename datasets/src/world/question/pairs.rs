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
    /// How many of what is asked about the first and the second show.
    pub counts: [usize; 2],
    /// What that is.
    noun: Noun,
}

impl Beside {
    /// The sentence answer, if the pictures showed so many.
    pub fn sentence(&self, counts: [usize; 2]) -> String {
        let (one, many) = (self.noun.name(), plural(&self.noun.name()));
        let [first, second] = counts.map(|count| match count {
            0 => format!("no {many}"),
            1 => format!("one {one}"),
            _ => format!("{} {many}", NUMBERS[count]),
        });
        let end = match answer_to(counts) {
            "same" => "both have the same".to_owned(),
            more => format!("the {more} has more"),
        };
        format!("The first has {first}, the second has {second}: {end}.")
    }
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
                let beside = Beside { scene, comes_first, counts, noun };
                return Some((self.which_has_more(&beside), beside));
            }
        }
        None
    }

    fn which_has_more(&mut self, beside: &Beside) -> Exchange {
        let many = plural(&beside.noun.name());
        let text = match self.dice.below(2) {
            0 => format!("Which picture has more {many}, the first or the second?"),
            _ => format!("Are there more {many} in the first or the second picture?"),
        };
        (text, answer_to(beside.counts).to_owned(), beside.sentence(beside.counts))
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
