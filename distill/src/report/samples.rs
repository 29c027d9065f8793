//! Where the models differ: how often, and some questions with each one's answer, those first on which not all agree.

use std::collections::HashMap;
use std::fmt::Write;

use super::html::{escape, table};
use super::run::Evaluation;
use crate::eval::Prediction;

/// Questions shown.
const NUM_SAMPLES: usize = 8;
/// Pictures larger than this stay out of the page.
const MAX_IMAGE_BYTES: u64 = 400_000;

/// The section, empty without predictions.
pub(super) fn section(evaluations: &[Evaluation]) -> String {
    let Some(first) = evaluations.iter().find(|it| !it.predictions.is_empty()) else { return String::new() };
    let tables: Vec<_> =
        evaluations.iter().map(|it| (it.name.as_str(), by_question(&it.predictions))).collect();
    let mut questions: Vec<(usize, &Prediction)> = first.predictions.iter().enumerate().collect();
    questions.sort_by_key(|(index, question)| (agreement(question, &tables), spread(*index)));
    let mut html = format!(
        "<h2>Questions and answers</h2>\n{}<p>Some of the evaluation, those first on which the models differ.</p>\n\
         <div class=\"samples\">\n",
        differences(&tables)
    );
    let shown: Vec<&Prediction> =
        questions.into_iter().take(NUM_SAMPLES).map(|(_, question)| question).collect();
    for question in &shown {
        html += &sample(question, &tables);
    }
    html + "</div>\n" + &missing(&shown)
}

/// How often each model is right where the first one is, and where it is not; empty for a single model.
fn differences(tables: &[(&str, Answers)]) -> String {
    let Some(((first, theirs), others)) = tables.split_first().filter(|(_, others)| !others.is_empty())
    else {
        return String::new();
    };
    let row = |(name, answers): &(&str, Answers)| {
        let both = answers.iter().filter_map(|(at, mine)| Some((theirs.get(at)?.correct, mine.correct)));
        let mut counts = [0_usize; 4];
        both.for_each(|(theirs, mine)| counts[2 * usize::from(!theirs) + usize::from(!mine)] += 1);
        std::iter::once(escape(name)).chain(counts.map(|it| it.to_string())).collect::<Vec<_>>()
    };
    let only = format!("only {}", escape(first));
    let head = ["model", "both right", &only, "only this one", "neither"].map(str::to_owned);
    let rows: Vec<_> = others.iter().map(row).collect();
    table(&format!("Questions by who answers them rightly, each model beside {first}"), &head, &rows)
}

type Answers<'a> = HashMap<(&'a str, u64, usize), &'a Prediction>;

fn place(question: &Prediction) -> (&str, u64, usize) {
    (&question.source, question.row, question.turn)
}

fn by_question(predictions: &[Prediction]) -> Answers<'_> {
    predictions.iter().map(|it| (place(it), it)).collect()
}

/// 0 where some models are right and some wrong, 1 where all are alike.
fn agreement(question: &Prediction, tables: &[(&str, Answers)]) -> u8 {
    let mut right = tables.iter().filter_map(|(_, answers)| Some(answers.get(&place(question))?.correct));
    let first = right.next();
    u8::from(right.all(|it| Some(it) == first))
}

/// An order that looks random and never changes: neighbours in a dataset are often alike.
fn spread(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn sample(question: &Prediction, tables: &[(&str, Answers)]) -> String {
    let mut html = String::from("<article class=\"sample\">");
    let pictures: Vec<String> = question.images.iter().filter_map(|path| embedded(path)).collect();
    if !pictures.is_empty() {
        html += "<div class=\"pictures\">";
        for (index, picture) in pictures.iter().enumerate() {
            let which =
                if pictures.len() == 1 { "the picture".to_owned() } else { format!("picture {}", index + 1) };
            let _ = write!(html, "<img src=\"{picture}\" alt=\"{which} the question is about\">");
        }
        html += "</div>";
    }
    let _ = write!(
        html,
        "<div><q>{}</q><dl><dt>reference</dt><dd>{}</dd>",
        escape(&question.question),
        escape(&question.reference)
    );
    for (name, answers) in tables {
        let Some(answer) = answers.get(&place(question)) else { continue };
        let (class, mark) = if answer.correct { ("yes", "✓ right") } else { ("no", "✗ wrong") };
        let _ = write!(
            html,
            "<dt>{}</dt><dd>{} <span class=\"{class}\">{mark}</span></dd>",
            escape(name),
            escape(&answer.prediction)
        );
    }
    html + "</dl></div></article>\n"
}

/// How many of the pictures the page could not take in, and what to do about it; empty when it has them all.
fn missing(shown: &[&Prediction]) -> String {
    let paths = shown.iter().flat_map(|question| &question.images);
    match paths.filter(|path| embedded(path).is_none()).count() {
        0 => String::new(),
        count => format!(
            "<p class=\"note\">Not shown of the pictures: {count}. They are larger than {} kB, of a type that browsers do \
             not know, or not there: their paths are relative to where <code>distill eval</code> ran, and so must be the report's.</p>\n",
            MAX_IMAGE_BYTES / 1000
        ),
    }
}

/// An image file as part of the page; none where it is gone, large, or of a type that browsers do not show.
fn embedded(path: &str) -> Option<String> {
    if std::fs::metadata(path).ok()?.len() > MAX_IMAGE_BYTES {
        return None;
    }
    shared::html::data_uri(&std::fs::read(path).ok()?)
}
