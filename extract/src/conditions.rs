//! What `extract subset --where` takes: a field of a sample, an operator, a value.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use shared::cache::SampleMeta;

/// A field of a sample as text or as a number.
enum Value<'a> {
    Text(&'a str),
    Owned(String),
    Number(u64),
}

/// Reads a field of a sample.
type Field = for<'a> fn(&'a SampleMeta) -> Value<'a>;

const FIELDS: [(&str, Field); 9] = [
    ("key", |meta| Value::Owned(meta.key.to_string())),
    ("row_id", |meta| Value::Text(meta.row_id.as_deref().unwrap_or_default())),
    ("source", |meta| Value::Text(&meta.source)),
    ("row", |meta| Value::Number(meta.row)),
    ("text", |meta| Value::Text(&meta.text)),
    ("num_tokens", |meta| Value::Number(meta.input_ids.len() as u64)),
    ("num_positions", |meta| Value::Number(meta.positions.len() as u64)),
    ("num_images", |meta| Value::Number(meta.images.len() as u64)),
    ("num_turns", |meta| Value::Number(meta.turns.len() as u64)),
];

/// Whether an operator holds for how a field compares with the value.
type Holds = fn(Ordering) -> bool;

/// The operators; longer ones come first.
const OPERATORS: [(&str, Holds); 7] = [
    ("<=", |order| order != Ordering::Greater),
    (">=", |order| order != Ordering::Less),
    ("!=", |order| order != Ordering::Equal),
    ("==", |order| order == Ordering::Equal),
    ("<", |order| order == Ordering::Less),
    (">", |order| order == Ordering::Greater),
    ("=", |order| order == Ordering::Equal),
];

/// One condition, such as `num_tokens<=1024`, `source=train.json` or `text~cube`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// As it was written.
    text: String,
    field: Field,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// How the field's number compares with this one.
    Number(Holds, u64),
    /// How the field's text compares with this one.
    Text(Holds, String),
    /// The text occurs in the field.
    Contains(String),
}

impl Condition {
    /// Whether the sample meets it.
    pub fn holds(&self, meta: &SampleMeta) -> bool {
        let value = (self.field)(meta);
        let text = match &value {
            Value::Text(text) => text,
            Value::Owned(text) => text.as_str(),
            Value::Number(number) => {
                return matches!(&self.test, Test::Number(holds, than) if holds(number.cmp(than)));
            }
        };
        match &self.test {
            Test::Text(holds, than) => holds(text.cmp(than)),
            Test::Contains(part) => text.contains(part),
            Test::Number(..) => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        let wrong = |why: &str| {
            let fields = names.join(", ");
            format!(
                "`{text}` is not a condition: {why}\nhint: write FIELD=VALUE, with one of = != < <= > >= ~ (contains); fields are {fields}"
            )
        };
        let end = text.find(|c| "<>=!~".contains(c)).ok_or_else(|| wrong("no operator"))?;
        let (name, rest) = (text[..end].trim(), &text[end..]);
        let found = FIELDS.iter().find(|(known, _)| *known == name);
        let field = found.ok_or_else(|| wrong(&format!("no field `{name}`")))?.1;
        let is_number = name.starts_with("num_") || name == "row";
        if let Some(part) = rest.strip_prefix('~') {
            return if is_number {
                Err(wrong("`~` is for text"))
            } else {
                Ok(Self { text: text.to_owned(), field, test: Test::Contains(part.trim().into()) })
            };
        }
        let found = OPERATORS.iter().find_map(|(name, holds)| Some((holds, rest.strip_prefix(name)?)));
        let (holds, value) = found.ok_or_else(|| wrong("no operator"))?;
        let value = value.trim();
        let test = match is_number {
            true => {
                Test::Number(*holds, value.parse().map_err(|_| wrong(&format!("`{value}` is not a number")))?)
            }
            false => Test::Text(*holds, value.to_owned()),
        };
        Ok(Self { text: text.to_owned(), field, test })
    }
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use shared::ids::SampleKey;

    use super::*;

    fn meta() -> SampleMeta {
        SampleMeta {
            key: SampleKey::from_bytes([0xab; 16]),
            row_id: None,
            source: "train.json".to_owned(),
            row: 7,
            messages: String::new(),
            text: "two red cubes".to_owned(),
            images: Vec::new(),
            input_ids: vec![1; 30],
            offsets: vec![(0, 0); 30],
            turns: Vec::new(),
            positions: vec![3],
        }
    }

    #[test]
    fn conditions_hold_as_they_read() {
        let holds = |text: &str| text.parse::<Condition>().unwrap().holds(&meta());
        for text in [
            "num_tokens=30",
            "num_tokens == 30",
            "source==train.json",
            "num_tokens <= 30",
            "num_tokens>29",
            "row!=8",
            "key>=abab",
            "text~red cube",
            "row_id=",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in
            ["num_tokens<30", "num_images>0", "source=test.json", "source~test", "text~blue", "row_id!="]
        {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_says_why() {
        for (text, says) in [
            ("num_tokens", "no operator"),
            ("colour=red", "no field `colour`"),
            ("num_tokens<many", "`many` is not a number"),
            ("row~7", "`~` is for text"),
            ("row!7", "no operator"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
