//! Whether a method can serve this teacher and this student, asked before the first step.

use anyhow::{Result, bail};
use shared::cache::CacheReader;

use super::Distillation;
use crate::config::Method;
use crate::data::source::Source;
use crate::data::teacher_sample::TeacherNeed;

/// Samples that are tried.
const TRIED: usize = 32;

/// The fingerprint field that both tokenizers have.
const TOKENIZER: &str = "tokenizer";

/// Refuses a pair that the method cannot serve.
///
/// # Errors
/// The reason, and what serves the pair instead.
pub fn check(name: Method, method: &dyn Distillation, cache: &CacheReader, source: &Source) -> Result<()> {
    let refuse = |reason: &str| -> Result<()> {
        bail!(
            "method {} cannot serve this teacher and this student: {reason}\n\
             hint: --method genrecal, uld, multilevel_ot or dskd take any two vocabularies",
            name.as_str()
        )
    };
    if method.needs_one_vocabulary() {
        let student = source.processor().identity().remove(TOKENIZER);
        let teacher = cache.manifest().fingerprint.fields.get(TOKENIZER);
        if student.as_ref() != teacher {
            return refuse("it needs one vocabulary, and they have different tokenizers");
        }
    }
    let tried = source.num_train().min(TRIED);
    let mut reason = None;
    for index in 0..tried {
        match source.sample(index, TeacherNeed::Answers) {
            Ok(_) => return Ok(()),
            Err(skipped) => reason = Some(skipped.reason),
        }
    }
    refuse(&format!("of {tried} samples none can be used: {}", reason.unwrap_or_default()))
}
