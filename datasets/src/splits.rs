//! The world on disk: for each split a folder of PNG files and a LLaVA JSON, one row per picture.
//!
//! A row with one question has its topic in its id (`count-00012`), and its level where it has one (`count-2-00012`), by
//! which `distill eval` tells results apart. A question about two pictures has both in its row.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use serde_json::{Value, json};

use crate::choices::{Choice, OPTIONS};
use crate::dice::Dice;
use crate::manifest::{Manifest, Split};
use crate::world::Scene;
use crate::world::question::{Asker, BRIEF, Question, Topic};
use crate::world::render::render;

/// A scene and what is asked about it.
pub struct Conversation {
    /// The picture's content.
    pub scene: Scene,
    /// Questions and answers, as they are written.
    pub turns: Vec<Turn>,
}

/// A question and the answer it wants.
pub struct Turn {
    /// The question this is a form of.
    pub question: Question,
    /// Whether the short answer is wanted.
    is_short: bool,
    /// Whether the question says so.
    says_brief: bool,
    /// A wrong answer in place of the true one.
    instead: Option<String>,
    /// The options, where the answer is a letter.
    pub choice: Option<Choice>,
}

impl Turn {
    /// A question of a split; none where it should have options and cannot.
    fn new(question: Question, scene: &Scene, split: &Split, dice: &mut Dice) -> Option<Self> {
        let choice = if split.choices {
            let choice = Choice::of(scene, &question, dice)?;
            Some(choice.with_answer_at(dice.below(OPTIONS)))
        } else {
            None
        };
        let is_brief = choice.is_none() && dice.chance(50);
        Some(Self {
            question,
            is_short: is_brief || split.short_answers,
            says_brief: is_brief && !split.short_answers,
            instead: None,
            choice,
        })
    }

    /// The question as it is asked.
    pub fn asked(&self) -> String {
        match &self.choice {
            Some(choice) => choice.asked(&self.question.text),
            None => format!("{}{}", self.question.text, if self.says_brief { BRIEF } else { "" }),
        }
    }

    /// The answer that is written to it: the one it wants, or a wrong one.
    pub fn answer(&self) -> &str {
        if let Some(wrong) = &self.instead {
            return wrong;
        }
        match &self.choice {
            Some(choice) => choice.letter(),
            None if self.is_short => &self.question.short,
            None => &self.question.sentence,
        }
    }
}

/// The conversations of a split, without end; the split takes as many as it needs.
pub fn conversations(seed: u64, name: &str, split: &Split) -> impl Iterator<Item = Conversation> {
    let mut dice = Dice::new(seed, name);
    let split = split.clone();
    let mut turn = 0;
    std::iter::repeat_with(move || {
        let (scene, questions) = if split.balanced {
            turn += 1;
            balanced(turn - 1, &split, &mut dice)
        } else {
            free(&split, &mut dice)
        };
        let turn = |question| Turn::new(question, &scene, &split, &mut dice);
        let turns = questions.into_iter().filter_map(turn).collect();
        Conversation { scene, turns }
    })
    .filter(|conversation| !conversation.turns.is_empty())
}

/// A random scene, and what it allows to ask.
fn free(split: &Split, dice: &mut Dice) -> (Scene, Vec<Question>) {
    let level = split.levels.as_ref().and_then(|levels| dice.pick(levels));
    let scene = Scene::random(level, split.held_out, dice);
    let mut asker = Asker::new(&scene, split.held_out, dice);
    let questions = match &split.topics {
        Some(topics) => asker.about(topics, split.turns),
        None => asker.several(split.turns),
    };
    (scene, questions)
}

/// A scene that allows to ask about the topic whose turn it is, of the level whose turn it is.
fn balanced(turn: usize, split: &Split, dice: &mut Dice) -> (Scene, Vec<Question>) {
    let topics = split.topics.as_deref().unwrap_or(Topic::of_toy());
    let levels = split.levels.as_deref().unwrap_or_default();
    let topic = topics[turn % topics.len()];
    let level = levels.get(turn / topics.len() % levels.len().max(1)).copied();
    loop {
        let scene = Scene::random(level, split.held_out, dice);
        if let Some(question) = Asker::new(&scene, split.held_out, dice).ask(topic) {
            return (scene, vec![question]);
        }
    }
}

/// Writes the named splits of the manifest under `out`: `NAME.json` beside a folder `NAME`.
///
/// # Errors
/// When a split is not in the manifest or a file cannot be written.
pub fn write(manifest: &Manifest, names: &[String], out: &Path) -> Result<()> {
    for name in names {
        let split = manifest.split_called(name)?;
        write_split(manifest.seed, name, split, out)
            .with_context(|| format!("cannot write split `{name}`"))?;
    }
    Ok(())
}

fn write_split(seed: u64, name: &str, split: &Split, out: &Path) -> Result<()> {
    fs::create_dir_all(out.join(name))?;
    let mut rows = Vec::with_capacity(split.conversations);
    let stream = split.stream.as_deref().unwrap_or(name);
    let mut errors = Errors::new(seed, split);
    for (i, mut conversation) in conversations(seed, stream, split).take(split.conversations).enumerate() {
        conversation.turns.iter_mut().for_each(|turn| errors.make(turn));
        fs::write(out.join(format!("{name}/{i:05}.png")), png(&render(&conversation.scene))?)?;
        for (k, turn) in conversation.turns.iter().enumerate() {
            if let Some(beside) = &turn.question.beside {
                fs::write(out.join(format!("{name}/{i:05}-{k}.png")), png(&render(&beside.scene))?)?;
            }
        }
        let apart = if split.separate { 1 } else { conversation.turns.len() };
        let chunks = conversation.turns.chunks(apart).enumerate();
        rows.extend(chunks.map(|(k, turns)| row(name, (i, k), &conversation.scene, turns).to_string()));
    }
    // One row on a line: the file can be searched and compared with ordinary tools.
    fs::write(out.join(format!("{name}.json")), format!("[\n{}\n]\n", rows.join(",\n")))?;
    Ok(())
}

/// Wrong answers, each the last one that was true of another question of the topic and the form: plausible, and false.
struct Errors {
    percent: usize,
    dice: Dice,
    last: BTreeMap<(&'static str, bool), String>,
}

impl Errors {
    fn new(seed: u64, split: &Split) -> Self {
        Self { percent: split.wrong_answers, dice: Dice::new(seed, "wrong answers"), last: BTreeMap::new() }
    }

    fn make(&mut self, turn: &mut Turn) {
        if self.percent == 0 {
            return;
        }
        let answer = turn.answer().to_owned();
        let last = self.last.insert((turn.question.topic.name(), turn.is_short), answer.clone());
        if self.dice.chance(self.percent) {
            turn.instead = last.filter(|other| *other != answer);
        }
    }
}

/// "hop-2-00012": what a row is about, its level where it has one, and its number.
pub(crate) fn row_id(start: &str, scene: &Scene, i: usize) -> String {
    match scene.level {
        Some(level) => format!("{start}-{}-{i:05}", level as u8),
        None => format!("{start}-{i:05}"),
    }
}

/// The row of turns `asked` of conversation `i`, of which they are the `k`-th part.
fn row(name: &str, (i, k): (usize, usize), scene: &Scene, asked: &[Turn]) -> Value {
    let id = match asked {
        [only] => row_id(only.question.topic.name(), scene, i),
        _ => row_id(name, scene, i),
    };
    let mut images = vec![format!("{name}/{i:05}.png")];
    if let Some(beside) = asked.first().and_then(|turn| turn.question.beside.as_ref()) {
        images.insert(usize::from(!beside.comes_first), format!("{name}/{i:05}-{k}.png"));
    }
    let mut turns = Vec::with_capacity(2 * asked.len());
    for (k, turn) in asked.iter().enumerate() {
        let placeholders = if k == 0 { "<image>\n".repeat(images.len()) } else { String::new() };
        turns.push(json!({"from": "human", "value": format!("{placeholders}{}", turn.asked())}));
        turns.push(json!({"from": "gpt", "value": turn.answer()}));
    }
    let image = if images.len() == 1 { json!(images[0]) } else { json!(images) };
    json!({"id": id, "image": image, "conversations": turns})
}

/// The picture's file.
pub(crate) fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::NoFilter).write_image(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
