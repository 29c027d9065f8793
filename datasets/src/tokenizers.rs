//! Two tokenizers of different kinds, trained on the world's own conversations.
//!
//! The teacher's is a byte-level BPE, as in Qwen2-VL, large enough to give each word one token; the
//! student's is a Unigram over words marked with `▁`, too small for that, so that it cuts some words in pieces.
//! The same text therefore has other tokens, other counts and other ids under each.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::manifest::{Family, Manifest, Split};
use crate::splits::conversations;

/// Conversations that a tokenizer is trained on.
const CONVERSATIONS: usize = 2000;

/// The special tokens of a family, in the order of their ids.
pub fn special_tokens(family: Family) -> &'static [&'static str] {
    match family {
        Family::Qwen2Vl => &[
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ],
        Family::Internvl => &[
            "<|endoftext|>",
            "<unk>",
            "<|im_start|>",
            "<|im_end|>",
            "<img>",
            "</img>",
            "<IMG_CONTEXT>",
            "<video>",
        ],
    }
}

/// The id of a special token.
///
/// # Errors
/// When the family has no such token.
pub fn special_id(family: Family, token: &str) -> Result<usize> {
    let found = special_tokens(family).iter().position(|&t| t == token);
    found.ok_or_else(|| anyhow!("the {family:?} tokenizer has no special token `{token}`"))
}

/// A trained tokenizer, as `tokenizer.json` has it; the same bytes for the same manifest.
///
/// # Errors
/// When training fails, as with a vocabulary smaller than the alphabet.
pub fn train(manifest: &Manifest, family: Family, vocab_size: usize) -> Result<String> {
    let special: Vec<AddedToken> =
        special_tokens(family).iter().map(|&token| AddedToken::from(token, true)).collect();
    let (skeleton, mut trainer) = match family {
        Family::Qwen2Vl => (bpe_skeleton(), bpe_trainer(vocab_size, special)),
        Family::Internvl => (unigram_skeleton(), unigram_trainer(vocab_size, special)?),
    };
    let mut tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&skeleton)?).map_err(|e| anyhow!(e))?;
    let mut lines = text(manifest);
    if family == Family::Internvl {
        lines.extend(repeated_words(&lines));
    }
    tokenizer.train(&mut trainer, lines.into_iter()).map_err(|e| anyhow!(e))?;
    let mut trained: Value = serde_json::from_str(&tokenizer.to_string(false).map_err(|e| anyhow!(e))?)?;
    if family == Family::Internvl {
        settle_scores(&mut trained, special_tokens(family).len());
    }
    Ok(serde_json::to_string_pretty(&trained)? + "\n")
}

/// What the tokenizers learn from: turns as the chat templates write them, markers aside. A grown-up world asks about all
/// topics of its splits on all of their levels, each as often.
fn text(manifest: &Manifest) -> Vec<String> {
    let levels: BTreeSet<_> =
        manifest.split.values().flat_map(|s| s.levels.iter().flatten().copied()).collect();
    let topics: BTreeSet<_> =
        manifest.split.values().flat_map(|s| s.topics.iter().flatten().copied()).collect();
    let is_grown = !levels.is_empty();
    let split = Split {
        conversations: CONVERSATIONS,
        turns: 6,
        held_out: true,
        separate: is_grown,
        topics: is_grown.then(|| topics.into_iter().collect()),
        stream: None,
        levels: is_grown.then(|| levels.into_iter().collect()),
        balanced: false,
        choices: false,
        short_answers: false,
        wrong_answers: 0,
    };
    conversations(manifest.seed, "tokenizer", &split)
        .take(CONVERSATIONS)
        .flat_map(|c| c.turns)
        .flat_map(|turn| [format!("user\n{}", turn.asked()), format!("assistant\n{}", turn.answer())])
        .collect()
}

/// Each word once more on its own and before a comma. The trainer considers as pieces only what
/// occurs in two different words, marks included: without this no whole word would be among them.
fn repeated_words(lines: &[String]) -> Vec<String> {
    let words = lines.iter().flat_map(|line| line.split(|c: char| !c.is_alphabetic()));
    let words: BTreeSet<&str> = words.filter(|word| !word.is_empty()).collect();
    words.into_iter().map(|word| format!("{word} {word},")).collect()
}

fn bpe_skeleton() -> Value {
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    json!({
        "version": "1.0",
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    })
}

fn bpe_trainer(vocab_size: usize, special: Vec<AddedToken>) -> TrainerWrapper {
    BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build()
        .into()
}

/// Lines apart, so that an answer's first word is marked as any other word is; words apart, with the
/// punctuation that follows them.
fn unigram_skeleton() -> Value {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let lines =
        json!({"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0",
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [lines, metaspace]},
        "post_processor": null,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": null, "vocab": []},
    })
}

fn unigram_trainer(vocab_size: usize, special: Vec<AddedToken>) -> Result<TrainerWrapper> {
    let trainer = UnigramTrainer::builder()
        .vocab_size(vocab_size as u32)
        .special_tokens(special)
        .unk_token(Some("<unk>".to_owned()))
        .initial_alphabet((' '..='~').filter(|c| *c != ' ').collect())
        .show_progress(false)
        .build()?;
    Ok(trainer.into())
}

/// Makes a trained Unigram reproducible: the trainer walks hash maps, so equal pieces come in any
/// order, scores differ in their last digits from run to run, and characters that the text never
/// needs are set apart by ten thousandths in random order. Scores are rounded, those characters
/// share the lowest, and pieces are ordered by score, then by spelling.
fn settle_scores(tokenizer: &mut Value, num_special: usize) {
    let Some(vocab) = tokenizer["model"]["vocab"].as_array_mut() else { return };
    let special = vocab[..num_special].to_vec();
    let mut scores: BTreeMap<String, i64> = BTreeMap::new();
    for piece in &vocab[num_special..] {
        if let (Some(text), Some(score)) = (piece[0].as_str(), piece[1].as_f64()) {
            scores.insert(text.to_owned(), (score * 1000.0).round() as i64);
        }
    }
    let lowest = scores.values().copied().min().unwrap_or(0);
    for (text, score) in &mut scores {
        // A hundred characters apart by a ten thousandth each, after rounding.
        if text.chars().count() == 1 && *score <= lowest + 10 {
            *score = lowest;
        }
    }
    let mut pieces: Vec<(i64, String)> = scores.into_iter().map(|(text, score)| (-score, text)).collect();
    pieces.sort();
    let pieces = pieces.into_iter().map(|(score, text)| json!([text, -score as f64 / 1000.0]));
    *vocab = special.into_iter().chain(pieces).collect();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

    use std::path::Path;

    use super::*;

    const TEXT: &str = "assistant\nThe purple object is a circle.";

    fn trained(family: Family) -> (String, Tokenizer) {
        let manifest = Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("toy/toy.toml")).unwrap();
        let model = manifest.model.values().find(|model| model.family == family).unwrap();
        let file = train(&manifest, family, model.vocab_size).unwrap();
        let tokenizer = Tokenizer::from_bytes(&file).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), model.vocab_size);
        (file, tokenizer)
    }

    #[test]
    fn training_again_gives_the_same_file() {
        for family in [Family::Qwen2Vl, Family::Internvl] {
            assert_eq!(trained(family).0, trained(family).0);
        }
    }

    #[test]
    fn both_give_the_text_back_and_cut_it_differently() {
        let (_, bpe) = trained(Family::Qwen2Vl);
        let (_, unigram) = trained(Family::Internvl);
        let (a, b) = (bpe.encode(TEXT, false).unwrap(), unigram.encode(TEXT, false).unwrap());
        assert_eq!(bpe.decode(a.get_ids(), true).unwrap(), TEXT);
        // The Unigram marks the word after a line break too, and its decoder shows that as a space.
        assert_eq!(unigram.decode(b.get_ids(), true).unwrap(), TEXT.replace('\n', " \n "));
        assert_ne!(a.len(), b.len());
        assert!(b.get_ids().iter().all(|&id| id as usize != special_id(Family::Internvl, "<unk>").unwrap()));
    }

    #[test]
    fn special_tokens_have_the_ids_of_their_order() {
        for family in [Family::Qwen2Vl, Family::Internvl] {
            let (_, tokenizer) = trained(family);
            for (id, token) in special_tokens(family).iter().enumerate() {
                assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
            }
        }
    }

    /// Every word that the replica's world asks or answers with has a token of its own in the teachers' tokenizer, which
    /// all models of a family share; the students' cuts some in pieces.
    #[test]
    fn the_ladder_has_two_tokenizers_of_which_one_has_a_token_for_each_word() {
        let manifest =
            Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("replica/world.toml")).unwrap();
        let sizes = |family| -> BTreeSet<usize> {
            manifest.model.values().filter(|m| m.family == family).map(|m| m.vocab_size).collect()
        };
        let of = |family| {
            let sizes = sizes(family);
            assert_eq!(sizes.len(), 1, "one tokenizer for {family:?}");
            let size = *sizes.first().unwrap();
            let tokenizer = Tokenizer::from_bytes(train(&manifest, family, size).unwrap()).unwrap();
            assert_eq!(tokenizer.get_vocab_size(true), size);
            tokenizer
        };
        let (bpe, unigram) = (of(Family::Qwen2Vl), of(Family::Internvl));
        let mut words = BTreeSet::new();
        for line in text(&manifest) {
            // As a byte-level BPE cuts a text before anything else: a word with the space before it.
            let starts = line.match_indices(|c: char| c.is_alphabetic()).filter_map(|(i, _)| {
                let before = line[..i].chars().next_back();
                (!before.is_some_and(char::is_alphabetic)).then_some(if before == Some(' ') {
                    i - 1
                } else {
                    i
                })
            });
            words.extend(starts.map(|i| {
                let rest = &line[i + 1..];
                let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
                line[i..i + 1 + end].to_owned()
            }));
        }
        let tokens = |tokenizer: &Tokenizer, word: &str| tokenizer.encode(word, false).unwrap().len();
        let cut: Vec<&String> = words.iter().filter(|word| tokens(&bpe, word) > 1).collect();
        assert!(words.len() > 200 && cut.is_empty(), "{cut:?} of {}", words.len());
        let cut = words.iter().filter(|word| tokens(&unigram, word.trim()) > 1).count();
        assert!(cut > 50 && cut < words.len() / 2, "{cut} of {}", words.len());
    }
}
