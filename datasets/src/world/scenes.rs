//! Random scenes: the toy's, and those of the grown-up world by level.
//!
//! The toy's are drawn exactly as they were when its teacher was trained; what the grown-up world needs stands beside them.

use super::words::{Line, WORDS};
use super::{BOARD, Colour, Digit, Figure, Kind, Letter, Level, Object, Scene, Shape, Size};
use crate::dice::Dice;

/// The digits of a scene add up to no more.
pub const LARGEST_SUM: usize = 20;

/// How many in a hundred objects are shapes and how many are digits; the rest are letters.
type Mixture = (usize, usize);

/// A scene draws its mixture from these: some mostly shapes, some mostly digits, some of everything.
const MIXTURES: [Mixture; 4] = [(85, 10), (20, 70), (45, 35), (45, 35)];

impl Scene {
    /// A random scene: of a level, or of the toy without one. Without `held_out` nothing in it is in a place that
    /// training keeps from it; with it, something is.
    pub fn random(level: Option<Level>, held_out: bool, dice: &mut Dice) -> Self {
        // The average number of tries is below three.
        loop {
            let scene = match level {
                None => Self::of_toy(dice),
                Some(level) => Self::of_level(level, dice),
            };
            if scene.is_held_out() == held_out {
                return scene;
            }
        }
    }

    /// Two to five shapes.
    fn of_toy(dice: &mut Dice) -> Self {
        let kinds = toy_kinds(dice);
        let mut cells = shuffled_cells(kinds.len(), dice)[..kinds.len()].to_vec();
        cells.sort_unstable();
        let objects =
            cells.into_iter().zip(kinds).map(|(cell, kind)| random_object(cell, kind, dice)).collect();
        Self { objects, level: None }
    }

    /// Shapes, digits and letters, as many as the level says, sometimes a word among them.
    pub fn of_level(level: Level, dice: &mut Dice) -> Self {
        let mut wanted = match level {
            Level::One => dice.one_of([2, 3, 3]),
            Level::Two => dice.one_of([4, 5]),
            Level::Three => dice.one_of([6, 7, 8]),
        };
        let mut objects = Vec::with_capacity(wanted);
        let mut cells = shuffled_cells(usize::from(BOARD * BOARD), dice);
        if wanted >= 3 && dice.chance(30) {
            objects.extend(random_word(dice));
            cells.retain(|&cell| objects.iter().all(|o: &Object| o.row * BOARD + o.column != cell));
            wanted -= objects.len();
        }
        let kinds = random_kinds(wanted, dice);
        objects.extend(cells.into_iter().zip(kinds).map(|(cell, kind)| random_object(cell, kind, dice)));
        objects.sort_by_key(|o| (o.row, o.column));
        Self { objects, level: Some(level) }
    }
}

/// All cells, the first `wanted` of them in random order.
fn shuffled_cells(wanted: usize, dice: &mut Dice) -> Vec<u8> {
    let mut cells: Vec<u8> = (0..BOARD * BOARD).collect();
    for i in 0..wanted {
        let other = i + dice.below(cells.len() - i);
        cells.swap(i, other);
    }
    cells
}

/// The kinds of a toy scene's objects; a kind is repeated now and then, so that there is something to count.
fn toy_kinds(dice: &mut Dice) -> Vec<Kind> {
    let all: Vec<Kind> = Kind::of_toy().collect();
    let num_objects = dice.one_of([2, 3, 3, 4, 4, 5]);
    let mut kinds: Vec<Kind> = Vec::with_capacity(num_objects);
    for _ in 0..num_objects {
        let repeat = if dice.chance(25) { dice.pick(&kinds) } else { None };
        kinds.push(repeat.unwrap_or_else(|| all[dice.below(all.len())]));
    }
    kinds
}

/// The same for a level: kinds are repeated, colours alone more often, and a digit that would make the sum
/// too large is a shape instead.
fn random_kinds(wanted: usize, dice: &mut Dice) -> Vec<Kind> {
    let mixture = dice.one_of(MIXTURES);
    let mut kinds: Vec<Kind> = Vec::with_capacity(wanted);
    let mut sum = 0;
    for _ in 0..wanted {
        let kind = match dice.pick(&kinds).filter(|_| dice.chance(35)) {
            Some(kind) if dice.chance(40) => kind,
            Some(kind) => Kind { figure: random_figure(mixture, dice), ..kind },
            None => Kind { colour: any_of(Colour::ALL, dice), figure: random_figure(mixture, dice) },
        };
        let value = kind.figure.value().unwrap_or(0);
        let fits = sum + value <= LARGEST_SUM;
        sum += if fits { value } else { 0 };
        kinds.push(if fits { kind } else { Kind { figure: random_shape(dice), ..kind } });
    }
    kinds
}

fn random_figure((shapes, digits): Mixture, dice: &mut Dice) -> Figure {
    let rolled = dice.below(100);
    if rolled < shapes {
        random_shape(dice)
    } else if rolled < shapes + digits {
        Figure::Digit(any_of(Digit::ALL, dice))
    } else {
        Figure::Letter(any_of(Letter::ALL, dice))
    }
}

fn random_shape(dice: &mut Dice) -> Figure {
    Figure::Shape(any_of(Shape::ALL, dice))
}

/// A word of one colour and one size in a random line.
fn random_word(dice: &mut Dice) -> Vec<Object> {
    let lines: Vec<Line> = Line::all().collect();
    let (line, word, colour) = (any_of(&lines, dice), any_of(&WORDS, dice), any_of(Colour::ALL, dice));
    let size = any_of(Size::ALL, dice);
    let figures = word.chars().filter_map(|letter| {
        let known = Letter::ALL.iter().find(|known| known.letter().starts_with(letter));
        known.copied().map(Figure::Letter)
    });
    let placed = line.cells().into_iter().zip(figures);
    placed
        .map(|((row, column), figure)| {
            let kind = Kind { colour, figure };
            Object { size, ..random_object(row * BOARD + column, kind, dice) }
        })
        .collect()
}

/// One of a list that is never empty.
fn any_of<T: Copy>(items: &[T], dice: &mut Dice) -> T {
    items[dice.below(items.len())]
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
