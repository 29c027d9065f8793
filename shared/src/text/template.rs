//! A checkpoint's chat template: Jinja as transformers runs it (`trim_blocks`, `lstrip_blocks`, Python's string methods).

use std::fmt::Write as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use chrono::DateTime;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::TextError;
use super::error::{read_json, read_optional};
use super::tokenizer::token_text;
use crate::dataset::{Message, Part, Role};
use crate::ids::Digest;

const NAME: &str = "chat_template";

/// The day that templates are told it is, 26 July 2024 as in Llama's for programs without a clock: prompts that changed
/// from day to day would make a cache that cannot be continued.
const TODAY: i64 = 1_721_952_000;

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    digest: Digest,
    /// The template takes a message's content as one text, not as a list of parts.
    takes_text: bool,
    /// What stands for an image in such a text.
    image_text: String,
}

impl ChatTemplate {
    /// Loads the template of the checkpoint in `dir`: `chat_template.jinja`, `chat_template.json` or the
    /// `chat_template` of `tokenizer_config.json`, the first there is, as transformers does.
    ///
    /// # Errors
    /// When there is none, or it does not compile.
    pub fn load(dir: &Path) -> Result<Self, TextError> {
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Json::Null);
        let (file, source) = match read_optional(&dir.join("chat_template.jinja"))? {
            Some(source) => ("chat_template.jinja", Some(source)),
            None => match read_json(&dir.join("chat_template.json"))? {
                Some(json) => ("chat_template.json", named_template(&json)),
                None => ("tokenizer_config.json", named_template(&config)),
            },
        };
        let path = dir.join(file);
        let hint = "copy chat_template.jinja or chat_template.json from the original checkpoint";
        let source = source.ok_or_else(|| TextError::invalid(&path, "has no chat template", hint))?;
        let special = |name: &str| config.get(name).and_then(token_text).unwrap_or_default().to_owned();
        let mut template = Self::compile(&source, &special("bos_token"), &special("eos_token"))
            .map_err(|error| TextError::invalid(&path, format!("does not compile: {error:#}"), hint))?;
        for (name, token) in special_tokens(&config) {
            template.environment.add_global(name.to_owned(), token.to_owned());
        }
        Ok(template)
    }

    /// Compiles a template's source; `bos_token` and `eos_token` are variables it may use.
    ///
    /// # Errors
    /// When the source is not a template.
    pub fn compile(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_global("bos_token", bos_token);
        environment.add_global("eos_token", eos_token);
        // As transformers gives them to every template; a name without a value would be undefined, which is not none.
        environment.add_global("tools", ());
        environment.add_global("documents", ());
        // Jinja has one kind of line end.
        let lines = source.replace("\r\n", "\n").replace('\r', "\n");
        environment.add_template_owned(NAME, without_generation_blocks(&lines))?;
        let digest = Digest::of(source.as_bytes());
        let mut template = Self { environment, digest, takes_text: false, image_text: String::new() };
        template.takes_text = template.wants_text();
        Ok(template)
    }

    /// Sets what stands for an image where the template takes a message's content as one text.
    pub fn with_image_text(self, image_text: String) -> Self {
        Self { image_text, ..self }
    }

    /// Whether a message comes out with its text when its content is one text, and not when it is a list of parts:
    /// then there is the list's notation, an error, or nothing.
    fn wants_text(&self) -> bool {
        const PROBE: &str = "probe";
        let shows = |content: Value| {
            let message = context! { role => Value::from_serialize(Role::User), content };
            let rendered = self.render_any(&[message], false).unwrap_or_default();
            rendered.contains(PROBE) && !rendered.contains("\"text\"") && !rendered.contains("'text'")
        };
        let part = Part::Text { text: PROBE.to_owned() };
        !shows(Value::from_serialize([part])) && shows(PROBE.into())
    }

    /// The conversation as one text; with `add_generation_prompt`, up to where the next answer begins.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        match self.takes_text {
            false => self.render_any(messages, add_generation_prompt),
            true => {
                let messages: Value = messages.iter().map(|message| self.as_text(message)).collect();
                self.render_any(&messages, add_generation_prompt)
            }
        }
    }

    /// The message with its content as one text.
    fn as_text(&self, message: &Message) -> Value {
        let parts = message.content.iter().map(|part| match part {
            Part::Text { text } => text.as_str(),
            Part::Image => &self.image_text,
        });
        context! { role => Value::from_serialize(message.role), content => parts.collect::<String>() }
    }

    /// As [`render`](Self::render), for messages in any shape the template takes.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn render_any(
        &self,
        messages: &(impl serde::Serialize + ?Sized),
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let messages = Value::from_serialize(messages);
        let template = self.environment.get_template(NAME);
        let render = || template?.render(context! { messages, add_generation_prompt });
        // minijinja panics where a template turns an empty list round; nothing but this call's own state is touched.
        let rendered = catch_unwind(AssertUnwindSafe(render));
        let rendered = rendered.map_err(|_| TextError::Render("the template engine failed".to_owned()))?;
        rendered.map_err(|error| TextError::Render(format!("{error:#}")))
    }

    /// Digest of the template's source.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// What a template calls to refuse a conversation.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// What a template calls for the date.
fn strftime_now(format: &str) -> Result<String, Error> {
    let invalid = || Error::new(ErrorKind::InvalidOperation, format!("`{format}` is no format of a date"));
    let today = DateTime::from_timestamp(TODAY, 0).ok_or_else(invalid)?;
    let mut text = String::new();
    write!(text, "{}", today.format(format)).map_err(|_| invalid())?;
    Ok(text)
}

/// JSON as Python writes it, where minijinja's own filter escapes it for HTML and leaves out blanks.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let mut json = Vec::new();
    let written = match options.get::<Option<usize>>("indent")? {
        Some(width) => {
            let indent = " ".repeat(width);
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, OnOneLine)),
    };
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    written.map_err(|error| failed(&error))?;
    String::from_utf8(json).map_err(|error| failed(&error))
}

/// Python's separators.
struct OnOneLine;

impl Formatter for OnOneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The tokens that `tokenizer_config.json` names: `pad_token`, `image_token` and whatever else there is.
fn special_tokens(config: &Json) -> impl Iterator<Item = (&str, &str)> {
    let named = [Some(config), config.get("extra_special_tokens")].into_iter().flatten();
    let fields = named.filter_map(Json::as_object).flatten();
    let tokens = fields.filter(|(name, _)| name.ends_with("_token"));
    tokens.filter_map(|(name, token)| Some((name.as_str(), token_text(token)?)))
}

/// The template under `chat_template`: a text, or a list of named ones of which `default` is meant.
fn named_template(json: &Json) -> Option<String> {
    let template = json.get("chat_template")?;
    let named = |list: &Json| {
        let default = list.as_array()?.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str().map(ToOwned::to_owned)
    };
    template.as_str().map(ToOwned::to_owned).or_else(|| named(template))
}

/// `{% generation %}` marks answers for transformers' own masks and is no Jinja. A block that is always true takes its place, so that
/// what it says about white space still holds.
fn without_generation_blocks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        let replacement = match tag[2..].trim_matches(['-', '+', ' ', '\t', '\n']) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        result.push_str(&rest[..start]);
        result.push_str(&replacement);
        rest = &rest[start + length..];
    }
    result + rest
}
