//! LLaMA-Factory's `dataset_info.json`: for each dataset a file and the names of its columns and roles. Rows are brought
//! into the LLaVA format under those names.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::DatasetError;
use super::format::{Content, is_empty};

/// The file that names datasets.
pub(super) const FILE_NAME: &str = "dataset_info.json";

const HINT: &str =
    "name one of its datasets as `dataset_info.json#NAME`; each needs a `file_name` that is here";

#[derive(Deserialize)]
struct Entry {
    file_name: Option<String>,
    #[serde(default)]
    formatting: Formatting,
    #[serde(default)]
    columns: Map<String, Value>,
    #[serde(default)]
    tags: Map<String, Value>,
    #[serde(default)]
    ranking: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Formatting {
    #[default]
    Alpaca,
    Sharegpt,
    /// ShareGPT with other tags.
    Openai,
}

/// What the columns and roles of one dataset are called.
pub(super) struct Mapping {
    formatting: Formatting,
    columns: Map<String, Value>,
    tags: Map<String, Value>,
}

/// The data file and the names of the dataset `name`, or of the only one.
pub(super) fn load(path: &Path, name: Option<&str>) -> Result<(PathBuf, Mapping), DatasetError> {
    let malformed = |reason: String| DatasetError::Malformed { path: path.to_owned(), reason, hint: HINT };
    let text = std::fs::read(path).map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    let entries: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|error| malformed(format!("is no list of datasets: {error}")))?;
    let name = match (name, entries.len()) {
        (Some(name), _) => name,
        (None, 1) => entries.keys().next().map_or("", String::as_str),
        (None, _) => {
            let names: Vec<_> = entries.keys().map(String::as_str).take(20).collect();
            return Err(malformed(format!("names {} datasets: {}", entries.len(), names.join(", "))));
        }
    };
    let entry = entries.get(name).ok_or_else(|| malformed(format!("has no dataset `{name}`")))?;
    let entry =
        Entry::deserialize(entry).map_err(|error| malformed(format!("its dataset `{name}`: {error}")))?;
    if entry.ranking {
        return Err(malformed(format!("its dataset `{name}` ranks answers instead of giving one")));
    }
    let file =
        entry.file_name.ok_or_else(|| malformed(format!("its dataset `{name}` is not a local file")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let Entry { formatting, columns, tags, .. } = entry;
    Ok((folder.join(file), Mapping { formatting, columns, tags }))
}

impl Mapping {
    /// The column for `meaning`, if the dataset has one; some have a name unless another is given.
    fn column(&self, meaning: &str) -> Option<&str> {
        let default = match (self.formatting, meaning) {
            (Formatting::Alpaca, "prompt") => Some("instruction"),
            (Formatting::Alpaca, "query") => Some("input"),
            (Formatting::Alpaca, "response") => Some("output"),
            (Formatting::Sharegpt | Formatting::Openai, "messages") => Some("conversations"),
            _ => None,
        };
        self.columns.get(meaning).and_then(Value::as_str).or(default)
    }

    fn tag<'a>(&'a self, meaning: &str, default: &'a str) -> &'a str {
        self.tags.get(meaning).and_then(Value::as_str).unwrap_or(default)
    }

    /// The column of images, if there is one.
    pub(super) fn image_columns(&self) -> Vec<String> {
        self.column("images").map(str::to_owned).into_iter().collect()
    }

    /// All other columns that mean something.
    pub(super) fn columns(&self) -> Vec<String> {
        let meanings =
            ["messages", "system", "prompt", "query", "response", "history", "tools", "videos", "audios"];
        let named = meanings.iter().filter_map(|meaning| self.column(meaning));
        named.chain(["id"]).map(str::to_owned).collect()
    }

    /// The row under LLaVA's names.
    ///
    /// # Errors
    /// The reason, when the row lacks what its format needs or has what is not supported.
    pub(super) fn apply(&self, content: Content) -> Result<Content, String> {
        let row = &content.fields;
        let cell = |meaning: &str| row.get(self.column(meaning)?).filter(|value| !is_empty(value));
        for unsupported in ["tools", "videos", "audios"] {
            if cell(unsupported).is_some() {
                return Err(format!("has {unsupported}"));
            }
        }
        let mut turns: Vec<Value> = Vec::new();
        if let Some(system) = cell("system") {
            turns.push(json!({ "from": "system", "value": system }));
        }
        match self.formatting {
            Formatting::Alpaca => self.exchanges(&cell, &mut turns)?,
            Formatting::Sharegpt | Formatting::Openai => self.messages(cell("messages"), &mut turns)?,
        }
        let mut fields = Map::from_iter([("conversations".to_owned(), Value::Array(turns))]);
        let id = row.get("id").map(|id| ("id".to_owned(), id.clone()));
        let images = cell("images").map(|images| ("images".to_owned(), images.clone()));
        fields.extend(id.into_iter().chain(images));
        Ok(Content { fields: Value::Object(fields), images: content.images })
    }

    /// Earlier exchanges, then the prompt with its query on a line of its own, and the response.
    fn exchanges<'a>(
        &self,
        cell: &impl Fn(&str) -> Option<&'a Value>,
        turns: &mut Vec<Value>,
    ) -> Result<(), String> {
        let mut exchange = |question: &str, answer: &str| {
            turns.push(json!({ "from": "human", "value": question }));
            turns.push(json!({ "from": "gpt", "value": answer }));
        };
        for past in cell("history").and_then(Value::as_array).into_iter().flatten() {
            let [question, answer] = [0, 1].map(|place| past.get(place).and_then(Value::as_str));
            let (Some(question), Some(answer)) = (question, answer) else {
                return Err("its history is no list of pairs".into());
            };
            exchange(question, answer);
        }
        let text = |meaning: &str| cell(meaning).and_then(Value::as_str);
        let asked: Vec<&str> = ["prompt", "query"].into_iter().filter_map(text).collect();
        exchange(&asked.join("\n"), text("response").unwrap_or_default());
        Ok(())
    }

    fn messages(&self, messages: Option<&Value>, turns: &mut Vec<Value>) -> Result<(), String> {
        let messages = messages.and_then(Value::as_array).ok_or("has no list of messages")?;
        let names = [("user_tag", "human"), ("assistant_tag", "gpt"), ("system_tag", "system")];
        for (index, message) in messages.iter().enumerate() {
            let field = |tag: &str, default| message.get(self.tag(tag, default)).and_then(Value::as_str);
            let (Some(role), Some(text)) = (field("role_tag", "from"), field("content_tag", "value")) else {
                return Err(format!("turn {index} has no role or no text under the names of `{FILE_NAME}`"));
            };
            let known = names.iter().find(|(tag, default)| self.tag(tag, default) == role);
            let (_, name) = known.ok_or_else(|| format!("turn {index} is from `{role}`"))?;
            turns.push(json!({ "from": name, "value": text }));
        }
        // LLaVA's format drops a first answer that nothing asked for; LLaMA-Factory calls the row broken.
        let first = turns.iter().find(|turn| turn["from"] != "system");
        if first.is_some_and(|turn| turn["from"] == "gpt") {
            return Err("begins with an answer".into());
        }
        Ok(())
    }
}
