//! From rows to questions.

use shared::agreement::{Metric, choose, letter};
use shared::dataset::{self, ImageSource, Record};
use shared::models::{Encoded, Processor};

use super::Prediction;
use super::benchmarks::{Grading, Item};

/// One assistant turn to be answered.
pub(super) struct Question {
    /// What is asked.
    asked: dataset::Question,
    /// What is known before the answer; the rest is filled in.
    prediction: Prediction,
    grading: Grading,
}

/// A question as the model takes it.
pub(super) struct Asked {
    pub(super) encoded: Encoded,
    prediction: Prediction,
    grading: Grading,
}

/// The question of a benchmark's row.
pub(super) fn of_benchmark(item: Item) -> Vec<Question> {
    let Item { record, kind, grading } = item;
    let one = |it: dataset::Question| {
        let prediction = Prediction { kind: kind.clone(), ..prediction(&record, 0, &it) };
        Question { asked: it, prediction, grading: grading.clone() }
    };
    record.questions().into_iter().take(1).map(one).collect()
}

/// The questions of a row; why there are none, otherwise.
pub(super) fn of(record: Record) -> Result<Vec<Question>, String> {
    let place = format!("`{}` row {}", record.source, record.row);
    let one = |(turn, asked): (usize, dataset::Question)| {
        let prediction = prediction(&record, turn, &asked);
        Question { asked, prediction, grading: Grading::Auto }
    };
    let questions: Vec<Question> = record.questions().into_iter().enumerate().map(one).collect();
    match questions.iter().find(|it| it.prediction.reference.is_empty()) {
        Some(_) => Err(format!("{place}: an answer is empty")),
        None if questions.is_empty() => Err(format!("{place}: no answer to compare with")),
        None => Ok(questions),
    }
}

/// What is known before the answer.
fn prediction(record: &Record, turn: usize, asked: &dataset::Question) -> Prediction {
    let paths = asked.images.iter().filter_map(|image| match image {
        ImageSource::Path(path) => Some(path.display().to_string()),
        ImageSource::Bytes(_) | ImageSource::Slice { .. } => None,
    });
    Prediction {
        id: record.id.clone(),
        source: record.source.clone(),
        row: record.row,
        turn,
        kind: record.id.as_deref().and_then(kind_of),
        question: asked.text(),
        images: paths.collect(),
        reference: asked.reference.clone(),
        prediction: String::new(),
        correct: false,
    }
}

/// The kind of question that an id names: what stands before its `/` or `:`, or before its number.
fn kind_of(id: &str) -> Option<String> {
    let kind = match id.split_once(['/', ':']) {
        Some((kind, _)) => kind,
        None => {
            id.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches(['-', '_', '.', '#'])
        }
    };
    (!kind.is_empty() && kind.len() < id.len()).then(|| kind.to_owned())
}

impl Question {
    /// The question as the model takes it; the reason why not, otherwise.
    pub(super) fn encode(self, processor: &Processor) -> Result<Asked, String> {
        let place = format!("`{}` row {}", self.prediction.source, self.prediction.row);
        let encoded = processor.encode_asked(&self.asked).map_err(|error| format!("{place}: {error}"))?;
        Ok(Asked { encoded, prediction: self.prediction, grading: self.grading })
    }
}

impl Asked {
    pub(super) fn num_tokens(&self) -> usize {
        self.encoded.prompt.input_ids.len()
    }

    /// Whether the answer is graded here, not elsewhere.
    pub(super) fn is_graded(&self) -> bool {
        self.grading != Grading::Elsewhere
    }

    /// The question with its answer, scored.
    pub(super) fn answered(self, answer: String, metric: Metric) -> Prediction {
        let reference = &self.prediction.reference;
        let correct = match (metric, &self.grading) {
            (_, Grading::Elsewhere) => false,
            (Metric::Auto, Grading::Options(options)) => {
                let chosen = choose(&answer, options).map(letter);
                chosen.is_some_and(|chosen| reference.trim() == chosen.to_string())
            }
            (Metric::Auto, Grading::AnyOf(references, metric)) => {
                references.iter().any(|reference| metric.accepts(&answer, reference))
            }
            (metric, _) => metric.accepts(&answer, reference),
        };
        Prediction { prediction: answer, correct, ..self.prediction }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use shared::dataset::{Message, Part, Role};

    use super::*;

    fn said(role: Role, text: &str) -> Message {
        Message::new(role, vec![Part::Text { text: text.into() }])
    }

    #[test]
    fn kinds_come_from_ids() {
        let kinds = ["count/0012", "count:a", "left_of-12", "color_change_7", "0012", "plain"].map(kind_of);
        let expected = [Some("count"), Some("count"), Some("left_of"), Some("color_change"), None, None];
        assert_eq!(kinds, expected.map(|it| it.map(str::to_owned)));
    }

    #[test]
    fn each_answer_is_a_question_with_what_came_before_it() {
        let mut first = said(Role::User, "one?");
        first.content.insert(0, Part::Image);
        let mut second = said(Role::User, "two?");
        second.content.push(Part::Image);
        let image = |name: &str| ImageSource::Path(name.into());
        let record = Record {
            source: "data.json".into(),
            row: 3,
            id: Some("pair/1".into()),
            messages: vec![first, said(Role::Assistant, "1"), second, said(Role::Assistant, "2")],
            images: vec![image("a.png"), image("b.png")],
        };
        let questions = of(record).unwrap();
        let shapes: Vec<_> =
            questions.iter().map(|it| (it.asked.messages.len(), it.asked.images.len())).collect();
        assert_eq!(shapes, [(1, 1), (3, 2)], "the answer itself and later images are not shown");
        assert_eq!(questions[1].prediction.question, "two?");
        assert_eq!(questions[1].prediction.reference, "2");
        assert_eq!(questions[1].prediction.images, ["a.png", "b.png"]);
        assert_eq!(questions[1].prediction.kind.as_deref(), Some("pair"));
    }

    #[test]
    fn a_row_without_an_answer_is_named() {
        let record = Record {
            source: "data.json".into(),
            row: 3,
            id: None,
            messages: vec![said(Role::User, "one?")],
            images: vec![],
        };
        assert_eq!(of(record).err().unwrap(), "`data.json` row 3: no answer to compare with");
    }
}
