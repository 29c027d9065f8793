//! Which methods of `distill` could use a pair. The two programs do not know each other: a test that knows both holds
//! this table to theirs.

use serde::Serialize;

/// Whether a method could use a pair.
#[derive(Debug, Serialize)]
pub struct Usable {
    /// As `distill run --method` calls it.
    pub method: &'static str,
    /// Whether it could.
    pub usable: bool,
    /// Why, or why not.
    pub why: &'static str,
}

/// What a method asks of a pair.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    OneTokenizer,
    /// Each answer's text the same under both templates: seen sample by sample, of which others are left out.
    SameAnswers,
}

const METHODS: [(&str, Needs); 7] = [
    ("genrecal", Needs::Nothing),
    ("sft", Needs::Nothing),
    ("kd", Needs::OneTokenizer),
    ("uld", Needs::Nothing),
    ("multilevel_ot", Needs::Nothing),
    ("alm", Needs::SameAnswers),
    ("dskd", Needs::Nothing),
];

/// All methods, for a pair with one tokenizer or two.
pub(super) fn usable(one_tokenizer: bool) -> Vec<Usable> {
    let judge = |(method, needs): (&'static str, Needs)| {
        let why = match (needs, one_tokenizer) {
            (Needs::Nothing, _) => "takes any two models",
            (Needs::OneTokenizer, true) => "they have one tokenizer",
            (Needs::OneTokenizer, false) => "needs one tokenizer, and they have two",
            (Needs::SameAnswers, _) => "on samples whose answers both templates write alike",
        };
        Usable { method, usable: needs != Needs::OneTokenizer || one_tokenizer, why }
    };
    METHODS.map(judge).into()
}
