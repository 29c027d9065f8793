//! Expected values are those of transformers and tokenizers in Python: `tests/fixtures/make_inputs.py` and
//! `make_families.py` wrote them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::dataset::{Message, Part};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

#[derive(Deserialize)]
struct TokenizerGolden {
    texts: Vec<String>,
    tokenizers: BTreeMap<String, Vec<Encoding>>,
}

#[derive(Deserialize)]
struct Encoding {
    with_special: Vec<u32>,
    ids: Vec<u32>,
    offsets: Vec<(u32, u32)>,
    decoded: String,
}

#[test]
fn three_kinds_of_tokenizer_give_pythons_ids_offsets_and_texts() {
    let golden = fs::read(fixtures().join("inputs/tokenizers.json")).unwrap();
    let golden: TokenizerGolden = serde_json::from_slice(&golden).unwrap();
    assert_eq!(golden.tokenizers.len(), 3);
    for (name, encodings) in &golden.tokenizers {
        let tokenizer = TextTokenizer::load(&fixtures().join("inputs/tokenizers").join(name)).unwrap();
        for (text, expected) in golden.texts.iter().zip(encodings) {
            let tokens = tokenizer.encode_with(text, false).unwrap();
            assert_eq!(tokens.ids, expected.ids, "{name}: {text:?}");
            assert_eq!(tokens.offsets, expected.offsets, "{name}: {text:?}");
            assert_eq!(
                tokenizer.encode_with(text, true).unwrap().ids,
                expected.with_special,
                "{name}: {text:?}"
            );
            assert_eq!(tokenizer.decode(&tokens.ids).unwrap(), expected.decoded, "{name}: {text:?}");
        }
    }
}

#[derive(Deserialize)]
struct TemplateGolden {
    conversations: BTreeMap<String, Vec<Message>>,
    templates: BTreeMap<String, String>,
    rendered: BTreeMap<String, BTreeMap<String, [String; 2]>>,
}

#[test]
fn templates_render_as_in_transformers() {
    let golden = fs::read(fixtures().join("inputs/templates.json")).unwrap();
    let golden: TemplateGolden = serde_json::from_slice(&golden).unwrap();
    for (title, source) in &golden.templates {
        let template = ChatTemplate::compile(source, "<s>", "</s>").unwrap();
        for (name, [whole, question]) in &golden.rendered[title] {
            let messages = &golden.conversations[name];
            assert_eq!(&template.render(messages, false).unwrap(), whole, "{title}: {name}");
            assert_eq!(&template.render(messages, true).unwrap(), question, "{title}: {name}");
        }
    }
    assert!(golden.templates.len() >= 6);
}

fn text(text: &str) -> Part {
    Part::Text { text: text.into() }
}

fn message(role: Role, content: Vec<Part>) -> Message {
    Message::new(role, content)
}

#[test]
fn a_template_may_refuse_a_conversation() {
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}";
    let template = ChatTemplate::compile(source, "", "").unwrap();
    let error = template.render(&[message(Role::System, vec![])], false).unwrap_err().to_string();
    assert!(error.contains("no system turns") && error.contains("hint:"), "{error}");
}

#[test]
fn the_template_is_found_where_a_checkpoint_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let render = || ChatTemplate::load(dir.path()).unwrap().render(&[], false).unwrap();
    let missing = ChatTemplate::load(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("has no chat template") && missing.contains("hint:"), "{missing}");
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "E"}, "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "c{{ eos_token }}"}]}"#,
    );
    assert_eq!(render(), "cE");
    write("chat_template.json", r#"{"chat_template": "b{{ eos_token }}"}"#);
    assert_eq!(render(), "bE");
    write("chat_template.jinja", "a{{ eos_token }}");
    assert_eq!(render(), "aE");
    write("chat_template.jinja", "{% if %}");
    let broken = ChatTemplate::load(dir.path()).unwrap_err().to_string();
    assert!(broken.contains("chat_template.jinja") && broken.contains("does not compile"), "{broken}");
}

fn conversation() -> Vec<Message> {
    vec![
        message(Role::System, vec![text("You are a careful observer.")]),
        message(Role::User, vec![Part::Image, text("What\nis 你?")]),
        message(Role::Assistant, vec![text("  Two, é 🎉 \n")]),
        message(Role::User, vec![text("And"), Part::Image, text("?")]),
        message(Role::Assistant, vec![text("Yes")]),
    ]
}

/// Placeholder, image id and end-of-turn id of each fixture family.
fn families() -> [(&'static str, &'static str); 2] {
    [("qwen2_vl", "<|image_pad|>"), ("internvl", "<IMG_CONTEXT>")]
}

fn prompt(
    family: &str,
    placeholder: &str,
    messages: &[Message],
    generation: bool,
) -> (TextTokenizer, Prompt) {
    let dir = fixtures().join(family);
    let tokenizer = TextTokenizer::load(&dir).unwrap();
    let template = ChatTemplate::load(&dir).unwrap();
    let id = tokenizer.token_id(placeholder).unwrap();
    let eos = tokenizer.token_id("<|im_end|>").unwrap();
    let expand = |n: usize| Expansion { text: placeholder.repeat(n), num_tokens: n, grid: [1, 1, n] };
    let images: Vec<_> = [3, 2].map(expand).into_iter().take(num_images(messages)).collect();
    let layout = layout(&template, messages, generation).unwrap();
    let placeholder = Placeholder { text: placeholder.to_owned(), id };
    let prompt = layout.into_prompt(&tokenizer, Some(&placeholder), &images, &[eos]).unwrap();
    (tokenizer, prompt)
}

fn num_images(messages: &[Message]) -> usize {
    messages.iter().flat_map(|message| &message.content).filter(|part| **part == Part::Image).count()
}

/// The characters that a range of tokens came from.
fn slice(prompt: &Prompt, tokens: std::ops::Range<usize>) -> String {
    let start = prompt.offsets[tokens.start].0 as usize;
    let end = prompt.offsets[tokens.end - 1].1 as usize;
    prompt.text.chars().skip(start).take(end - start).collect()
}

#[test]
fn turns_tile_the_prompt_and_answers_come_back_through_offsets() {
    for (family, placeholder) in families() {
        let messages = conversation();
        let (_, prompt) = prompt(family, placeholder, &messages, false);
        assert_eq!(prompt.turns.len(), messages.len());
        let mut next = 0;
        for (turn, message) in prompt.turns.iter().zip(&messages) {
            assert_eq!((turn.tokens.start, turn.role), (next, message.role), "{family}");
            next = turn.tokens.end;
        }
        assert_eq!(next, prompt.input_ids.len(), "{family}");
        let answers: Vec<_> = prompt.turns.iter().filter_map(|turn| turn.answer.clone()).collect();
        let written: Vec<_> = answers.into_iter().map(|answer| slice(&prompt, answer)).collect();
        assert_eq!(written, ["  Two, é 🎉 \n<|im_end|>", "Yes<|im_end|>"], "{family}");
    }
}

#[test]
fn an_answer_that_is_not_learnt_is_a_turn_without_an_answer() {
    let (family, placeholder) = families()[0];
    let mut messages = conversation();
    messages[2].skip_loss = true;
    let (_, prompt) = prompt(family, placeholder, &messages, false);
    let answers: Vec<bool> = prompt.turns.iter().map(|turn| turn.answer.is_some()).collect();
    assert_eq!(answers, [false, false, false, false, true]);
}

#[test]
fn images_are_found_in_order() {
    for (family, placeholder) in families() {
        let (tokenizer, prompt) = prompt(family, placeholder, &conversation(), false);
        let image_id = tokenizer.token_id(placeholder).unwrap();
        let lengths: Vec<_> = prompt.images.iter().map(|image| image.tokens.len()).collect();
        assert_eq!(lengths, [3, 2], "{family}");
        let tokens: Vec<_> = prompt.images.iter().flat_map(|image| image.tokens.clone()).collect();
        let expected: Vec<_> =
            (0..prompt.input_ids.len()).filter(|&t| prompt.input_ids[t] == image_id).collect();
        assert_eq!(tokens, expected, "{family}");
        assert!(prompt.images[0].tokens.start >= prompt.turns[1].tokens.start);
        assert!(prompt.images[1].tokens.end <= prompt.turns[3].tokens.end);
    }
}

#[test]
fn a_question_is_the_beginning_of_its_conversation() {
    for (family, placeholder) in families() {
        let messages = conversation();
        let (_, whole) = prompt(family, placeholder, &messages, false);
        let (_, question) = prompt(family, placeholder, &messages[..4], true);
        let answer = whole.turns[4].answer.clone().unwrap();
        assert_eq!(question.input_ids, whole.input_ids[..answer.start], "{family}");
        assert!(question.turns.iter().all(|turn| turn.tokens.end <= question.input_ids.len()));
        assert_eq!(question.turns[3].answer, None);
    }
}

#[test]
fn an_answer_without_an_end_token_ends_with_its_text() {
    // LLaVA-1.5 without its end token: the last answer is followed by white space only.
    let source = "{% for m in messages %}{{ m.role | upper }}: {{ m.content[0].text }} {% endfor %}{{ 'ASSISTANT:' if add_generation_prompt }}";
    let template = ChatTemplate::compile(source, "", "").unwrap();
    let tokenizer = TextTokenizer::load(&fixtures().join("qwen2_vl")).unwrap();
    let messages =
        [message(Role::User, vec![text("one?")]), message(Role::Assistant, vec![text("two three")])];
    let layout = layout(&template, &messages, false).unwrap();
    let prompt = layout.into_prompt(&tokenizer, None, &[], &[]).unwrap();
    assert_eq!(slice(&prompt, prompt.turns[1].answer.clone().unwrap()).trim_start(), "two three");
}

#[test]
fn an_end_token_that_an_answer_says_does_not_end_it() {
    let messages = [
        message(Role::User, vec![text("how does a turn end?")]),
        message(Role::Assistant, vec![text("with <|im_end|> and a line")]),
    ];
    let plain = "{% for m in messages %}{{ m.role | upper }}: {{ m.content[0].text }} {% endfor %}{{ 'ASSISTANT: ' if add_generation_prompt }}";
    assert_eq!(turns_and_answers(plain, &messages).1, ["with <|im_end|> and a line"]);
    let chat = "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content[0].text | trim + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}";
    assert_eq!(turns_and_answers(chat, &messages).1, ["with <|im_end|> and a line<|im_end|>"]);
}

#[test]
fn an_end_token_that_the_tokenizer_appends_ends_the_last_answer() {
    let file = fs::read(fixtures().join("qwen2_vl/tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let eos = added.iter().find(|token| token["content"] == "<|im_end|>").unwrap()["id"].clone();
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [eos], "tokens": ["<|im_end|>"]}},
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = TextTokenizer::load(dir.path()).unwrap();
    let template =
        ChatTemplate::compile("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", "", "").unwrap();
    let messages =
        [message(Role::User, vec![text("two?")]), message(Role::Assistant, vec![text(" Two, by far")])];
    let layout = layout(&template, &messages, false).unwrap();
    let prompt = layout.into_prompt(&tokenizer, None, &[], &[eos.as_u64().unwrap() as u32]).unwrap();
    assert_eq!(prompt.turns[1].answer.clone().unwrap().end, prompt.input_ids.len());
    assert_eq!(u64::from(*prompt.input_ids.last().unwrap()), eos.as_u64().unwrap());
}

#[test]
fn templates_that_take_text_get_text() {
    // Qwen2.5's way to write a turn; a list of parts would be printed as a list.
    let joined = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}";
    // Qwen3's: what is not a string is left out.
    let skipping = "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% endif %}{% endfor %}";
    let parts = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text if p.type == 'text' else '[IMG]' }}{% endfor %}{% endfor %}";
    let messages = [message(Role::User, vec![Part::Image, text("how"), text(" many?")])];
    for (source, expected) in
        [(joined, "<user>#how many?"), (skipping, "<user>#how many?"), (parts, "<user>[IMG]how many?")]
    {
        let template = ChatTemplate::compile(source, "", "").unwrap().with_image_text("#".into());
        assert_eq!(template.render(&messages, false).unwrap(), expected);
    }
}

/// The turns and answers of a conversation as texts.
fn turns_and_answers(source: &str, messages: &[Message]) -> (Vec<String>, Vec<String>) {
    let template = ChatTemplate::compile(source, "<s>", "</s>").unwrap();
    let tokenizer = TextTokenizer::load(&fixtures().join("qwen2_vl")).unwrap();
    let eos = tokenizer.token_id("<|im_end|>").unwrap();
    let prompt =
        layout(&template, messages, false).unwrap().into_prompt(&tokenizer, None, &[], &[eos]).unwrap();
    let turns = prompt.turns.iter().filter(|turn| !turn.tokens.is_empty());
    let turns = turns.map(|turn| slice(&prompt, turn.tokens.clone())).collect();
    let answers = prompt.turns.iter().filter_map(|turn| turn.answer.clone());
    (turns, answers.map(|answer| slice(&prompt, answer)).collect())
}

#[test]
fn a_template_may_write_an_answer_otherwise_once_another_turn_follows() {
    // Qwen3 writes the place for reasoning in the last answer alone.
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content[0].text + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let messages = [
        message(Role::User, vec![text("a?")]),
        message(Role::Assistant, vec![text("a")]),
        message(Role::User, vec![text("b?")]),
        message(Role::Assistant, vec![text("b")]),
    ];
    let (turns, answers) = turns_and_answers(source, &messages);
    assert_eq!(answers, ["a<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"]);
    assert_eq!(turns[1], "<|im_start|>assistant\na<|im_end|>\n");
    assert_eq!(turns[2], "<|im_start|>user\nb?<|im_end|>\n");
}

#[test]
fn a_template_may_move_a_system_turn_to_the_last_question() {
    // As Pixtral's does, which fails on a list there: with an answer behind it the last turn is no question, and nothing is moved.
    let source = "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST]{% if loop.last and messages[0].role == 'system' %}{{ '' + messages[0].content }}{% endif %}{{ m.content[0].text }}[/INST]{% else %}{{ m.content[0].text }}<|im_end|>{% endif %}{% endfor %}";
    let messages = [
        message(Role::System, vec![text("Be brief.")]),
        message(Role::User, vec![text("is a a?")]),
        message(Role::Assistant, vec![text("a")]),
    ];
    let (turns, answers) = turns_and_answers(source, &messages);
    assert_eq!(answers, ["a<|im_end|>"]);
    assert_eq!(turns.concat(), "[INST]is a a?[/INST]a<|im_end|>");
}

#[test]
fn a_template_that_does_not_write_an_answer_as_it_is_is_refused() {
    let source = "{% for m in messages %}{{ m.role }}{{ '' if loop.last else '!' }}{{ m.content[0].text | upper }}{% endfor %}";
    let template = ChatTemplate::compile(source, "", "").unwrap();
    let messages = [message(Role::User, vec![text("q")]), message(Role::Assistant, vec![text("a")])];
    let error = layout(&template, &messages, false).unwrap_err();
    assert!(matches!(error, TextError::NotPrefix { turn: 0 }), "{error}");
}

#[test]
fn templates_have_what_transformers_gives_them() {
    // Rendered by transformers 5.24's `apply_chat_template` but for the date, which is that of the day there.
    let cases = [
        ("{% if tools is not none %}tools{% endif %}{{ documents is none }}", "True"),
        ("{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }}", "2024-07-26 26 Jul 2024"),
        (
            "{{ {'a': [1, none, true], 'b': \"<é & 'q'>\"} | tojson }}",
            r#"{"a": [1, null, true], "b": "<é & 'q'>"}"#,
        ),
        ("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"),
        ("{% if true %}\r\na\r\n{% endif %}\r\nb\r\n", "a\nb"),
    ];
    for (source, expected) in cases {
        let template = ChatTemplate::compile(source, "", "").unwrap();
        assert_eq!(template.render(&[], false).unwrap(), expected, "{source:?}");
    }
    let no_date = ChatTemplate::compile("{{ strftime_now('%Q') }}", "", "").unwrap();
    assert!(no_date.render(&[], false).unwrap_err().to_string().contains("no format of a date"));
}

#[test]
fn a_failing_engine_is_an_error_of_the_conversation() {
    // minijinja 2.24 panics; should it no longer, the template renders to nothing and neither test nor guard is needed.
    let template = ChatTemplate::compile("{{ messages[1:][::-1] | join }}", "", "").unwrap();
    let error = template.render(&[message(Role::User, vec![text("q")])], false).unwrap_err().to_string();
    assert!(error.contains("the template engine failed"), "{error}");
}

#[test]
fn templates_know_every_token_that_the_tokenizer_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    write("chat_template.jinja", "{{ pad_token }}{{ image_token }}{{ unk_token is defined }}");
    write(
        "tokenizer_config.json",
        r#"{"pad_token": {"content": "P"}, "unk_token": null, "add_bos_token": true, "extra_special_tokens": {"image_token": "I"}}"#,
    );
    assert_eq!(ChatTemplate::load(dir.path()).unwrap().render(&[], false).unwrap(), "PIFalse");
}

#[test]
fn a_placeholder_in_the_text_is_refused() {
    let dir = fixtures().join("qwen2_vl");
    let (tokenizer, template) = (TextTokenizer::load(&dir).unwrap(), ChatTemplate::load(&dir).unwrap());
    let messages = [message(Role::User, vec![text("what does <|image_pad|> mean?")])];
    let layout = layout(&template, &messages, true).unwrap();
    let image_pad = Placeholder { text: "<|image_pad|>".into(), id: 1 };
    let error = layout.into_prompt(&tokenizer, Some(&image_pad), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("1 `<|image_pad|>` for 0 image(s)") && error.contains("hint:"), "{error}");
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = TextTokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("hint:"), "{error}");
}
