//! What a world consists of, as `datasets/toy/toy.toml` and `datasets/replica/world.toml` say it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::world::Level;
use crate::world::question::Topic;

/// The manifest of a world: with it and this crate every byte of the world can be made again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The dataset's name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// Licence of the data and the checkpoints.
    pub licence: String,
    /// The seed of the world, from which each split and tokenizer derives its own stream.
    pub seed: u64,
    /// The splits, by name.
    pub split: BTreeMap<String, Split>,
    /// The tokenizers and untrained models, by name ("teacher", "student").
    pub model: BTreeMap<String, Model>,
}

/// One part of the dataset.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Rows, each one picture and a conversation about it.
    pub conversations: usize,
    /// Questions in a conversation; fewer where a scene does not allow so many.
    pub turns: usize,
    /// Whether pictures show, and questions turn on, objects in the places that training keeps from their kind.
    pub held_out: bool,
    /// Whether each question is a row of its own. In a conversation later answers can be copied from
    /// earlier turns; alone they have to be seen.
    #[serde(default)]
    pub separate: bool,
    /// What is asked about; everything, in conversations that end in an overview, when absent.
    pub topics: Option<Vec<Topic>>,
    /// The random stream the split is drawn from, when not its own: the name of the split to repeat.
    pub stream: Option<String>,
    /// The levels of the grown-up world that scenes are drawn from, each as often; the toy's scenes when absent.
    pub levels: Option<Vec<Level>>,
    /// Whether topics and levels take turns, so that each is asked about as often; one question a picture.
    #[serde(default)]
    pub balanced: bool,
    /// Whether questions have four options and their answers are letters; topics without options are left out.
    #[serde(default)]
    pub choices: bool,
    /// Whether every question wants the short answer, though none says so: what a dataset with answers of one word looks like.
    #[serde(default)]
    pub short_answers: bool,
    /// Percent of the answers that are another question's of the same topic, as wrong labels are.
    #[serde(default)]
    pub wrong_answers: usize,
}

impl Split {
    /// Whether the keys go together; the reason if not.
    fn check(&self) -> Result<()> {
        let topics = self.topics.as_deref().unwrap_or_default();
        if self.balanced && (topics.is_empty() || self.levels.is_none() || self.turns != 1) {
            bail!(
                "`balanced` takes turns with `topics` and `levels`, one question a picture\nhint: give both, and `turns = 1`"
            );
        }
        if self.topics.as_ref().is_some_and(Vec::is_empty) || self.levels.as_ref().is_some_and(Vec::is_empty)
        {
            bail!("`topics` or `levels` is an empty list\nhint: leave the key out");
        }
        if self.choices && self.short_answers {
            bail!("the answer to `choices` is a letter, never long\nhint: leave `short_answers` out");
        }
        let grown = topics.iter().find(|topic| !Topic::of_toy().contains(topic));
        if let (Some(topic), None) = (grown, &self.levels) {
            bail!("the topic `{}` needs the scenes of a level\nhint: give `levels`", topic.name());
        }
        if topics.contains(&Topic::Twice) && self.turns > 1 && !self.separate {
            bail!(
                "a question about two pictures stands in a row of its own\nhint: `separate = true` or `turns = 1`"
            );
        }
        Ok(())
    }
}

/// A model and the tokenizer it goes with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The seed of the random weights.
    pub seed: u64,
    /// Entries of the tokenizer, special ones included.
    pub vocab_size: usize,
    /// Shape of the decoder.
    pub text: TextShape,
    /// Shape of the vision encoder.
    pub vision: VisionShape,
    /// The family, which decides layout, tokenizer kind and template.
    pub family: Family,
}

/// Which family a toy checkpoint belongs to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Qwen2-VL, with a byte-level BPE.
    Qwen2Vl,
    /// InternVL in the layout of the `-hf` checkpoints, with a Unigram.
    Internvl,
}

/// Shape of a Qwen2 decoder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextShape {
    /// D.
    pub hidden_size: usize,
    /// Width of the gated feed-forward.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
}

/// Shape of a vision encoder with patches of 14 pixels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionShape {
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward, over `hidden_size`.
    pub mlp_ratio: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Attention heads of a block.
    pub num_heads: usize,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When the file cannot be read or does not say what a manifest says; the message names the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let is_none = || format!("`{}` is not a manifest of a world", path.display());
        let manifest: Self = toml::from_str(&text).with_context(is_none)?;
        for (name, split) in &manifest.split {
            split.check().with_context(|| format!("split `{name}`")).with_context(is_none)?;
        }
        Ok(manifest)
    }

    /// A split by its name.
    ///
    /// # Errors
    /// When there is none; the message lists those that there are.
    pub fn split_called(&self, name: &str) -> Result<&Split> {
        let known = || self.split.keys().cloned().collect::<Vec<_>>().join(", ");
        let split = self.split.get(name);
        split.with_context(|| format!("no split `{name}` in the manifest\nhint: there are {}", known()))
    }
}
