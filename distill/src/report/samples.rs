//! Some questions with each model's answer, those first on which the models differ.

use std::collections::HashMap;
use std::fmt::Write;

use super::html::escape;
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
    let mut html = String::from(
        "<h2>Questions and answers</h2>\n<p>Some of the evaluation, those first on which the models differ.</p>\n\
         <div class=\"samples\">\n",
    );
    for (_, question) in questions.into_iter().take(NUM_SAMPLES) {
        html += &sample(question, &tables);
    }
    html + "</div>\n"
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
    if let Some(image) = question.images.first().and_then(|path| embedded(path)) {
        let _ = write!(html, "<img src=\"{image}\" alt=\"the picture the question is about\">");
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

/// An image file as part of the page; none where it is gone, large, or of a type that browsers do not show.
fn embedded(path: &str) -> Option<String> {
    if std::fs::metadata(path).ok()?.len() > MAX_IMAGE_BYTES {
        return None;
    }
    shared::html::data_uri(&std::fs::read(path).ok()?)
}
