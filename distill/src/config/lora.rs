//! The keys of LoRA, a table of each stage that trains the student.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{PartName, above_zero};
use crate::cli::UsageError;

/// LoRA (arXiv 2106.09685) on linear layers of the student's body, whose own weights stay frozen. What a stage leaves, and
/// what is exported, has the product added to the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The product of the two is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Which layers, by the end of their name: patterns with `*` and `?`.
    pub linears: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, linears: vec!["*_proj".into()] }
    }
}

impl LoraConfig {
    /// What the product of A and B is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Refuses values that cannot work in the stage `name`, which trains the parts `train` as a whole.
    pub(super) fn validate(&self, name: &str, train: &[PartName]) -> Result<()> {
        let wrong = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if self.rank == 0 {
            return wrong(format!(
                "`{name}.lora.rank` must be at least 1\nhint: without the table `{name}.lora` there is no LoRA"
            ));
        }
        above_zero(&format!("{name}.lora"), &[("alpha", self.alpha)])?;
        if self.linears.is_empty() {
            return wrong(format!(
                "`{name}.lora.linears` names no layer\nhint: such as [\"q_proj\", \"v_proj\"], or [\"*_proj\"] for all"
            ));
        }
        if train.contains(&PartName::Body) {
            return wrong(format!(
                "`{name}.lora` is for a frozen body, and `{name}.train` trains it as a whole\n\
                 hint: leave `body` out of `{name}.train`, such as --set {name}.train=[]"
            ));
        }
        Ok(())
    }
}
