//! Which parts of a model train, and the parameters that do.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Result, Tensor, Var};

/// A part of a vision-language model that is trained or frozen as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelPart {
    /// The vision encoder.
    Vision,
    /// What maps vision features into the body's width.
    Projector,
    /// The decoder with its input embeddings and final norm.
    Body,
    /// The output projection. A tied head is the body's input embedding: it trains when either part does.
    Head,
}

impl ModelPart {
    /// All of them.
    pub const ALL: [ModelPart; 4] = [Self::Vision, Self::Projector, Self::Body, Self::Head];
}

/// The parts that train; the others are frozen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainableParts(BTreeSet<ModelPart>);

impl TrainableParts {
    /// Everything frozen: a teacher.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything trains.
    pub fn all() -> Self {
        Self::of(&ModelPart::ALL)
    }

    /// These train.
    pub fn of(parts: &[ModelPart]) -> Self {
        Self(parts.iter().copied().collect())
    }

    /// Does this part train?
    pub fn contains(&self, part: ModelPart) -> bool {
        self.0.contains(&part)
    }
}

/// One trainable weight.
#[derive(Clone, Debug)]
pub struct Param {
    /// The float32 master; forward passes cast it to the compute dtype.
    pub var: Var,
    /// Where it belongs.
    pub part: ModelPart,
}

/// The trainable weights by hub name, in an order that never changes.
#[derive(Clone, Debug, Default)]
pub struct ParamSet(BTreeMap<String, Param>);

impl ParamSet {
    /// Adds a weight; the last one of a name stays.
    pub fn insert(&mut self, name: impl Into<String>, var: Var, part: ModelPart) {
        self.0.insert(name.into(), Param { var, part });
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.0.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// The weight of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.get(name)
    }

    /// How many weights.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing trains.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers.
    pub fn num_elements(&self) -> usize {
        self.0.values().map(|param| param.var.elem_count()).sum()
    }

    /// The Vars in name order.
    pub fn vars(&self) -> Vec<Var> {
        self.0.values().map(|param| param.var.clone()).collect()
    }

    /// The weights without their gradients, sharing storage with the Vars: to be written out before the next update.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0.iter().map(|(name, param)| Ok((name.clone(), param.var.as_detached_tensor()))).collect()
    }
}
