//! Against what transformers makes of the same files: `tests/fixtures/make_families.py` wrote it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::*;
use crate::dataset::{Part, Role};
use crate::image::decode;

const FAMILIES: &[&str] =
    &["qwen2_vl", "internvl", "qwen2_5_vl", "qwen3_vl", "internvl_chat", "pixtral", "mistral3"];
const TEXT_FAMILIES: &[&str] = &["qwen2_text", "qwen3_text", "llama_text"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// One sample of `samples.json`.
struct Sample {
    messages: Vec<Message>,
    images: Vec<RgbImage>,
    stored: Value,
    tensors: Vec<u8>,
}

fn samples(family: &str) -> BTreeMap<String, Sample> {
    let dir = fixtures().join(family).join("ref");
    let stored: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(dir.join("samples.json")).unwrap()).unwrap();
    let sample = |(name, stored): (String, Value)| {
        let image = |file: &Value| fs::read(fixtures().join("images").join(file.as_str().unwrap())).unwrap();
        let images = stored["images"].as_array().unwrap().iter();
        let images = images.map(|file| decode(&image(file)).unwrap()).collect();
        let tensors = fs::read(dir.join(format!("{name}.safetensors"))).unwrap();
        (name, Sample { messages: messages(&stored["messages"]), images, stored, tensors })
    };
    stored.into_iter().map(sample).collect()
}

fn messages(stored: &Value) -> Vec<Message> {
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Part::Text { text: text.to_owned() },
        None => Part::Image,
    };
    let message = |message: &Value| {
        let role = serde_json::from_value(message["role"].clone()).unwrap();
        Message::new(role, message["content"].as_array().unwrap().iter().map(part).collect())
    };
    stored.as_array().unwrap().iter().map(message).collect()
}

fn numbers<T, const N: usize>(
    tensors: &SafeTensors<'_>,
    name: &str,
    read: fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let tensor = tensors.tensor(name).ok()?;
    Some(tensor.data().chunks_exact(N).map(|bytes| read(bytes.try_into().unwrap())).collect())
}

#[test]
fn ids_pixels_grids_and_positions_equal_transformers_bit_for_bit() {
    for family in FAMILIES.iter().chain(TEXT_FAMILIES) {
        let processor = Processor::load(&fixtures().join(family)).unwrap();
        for (name, sample) in samples(family) {
            let encoded = processor.encode(&sample.messages, &sample.images).unwrap();
            let tensors = SafeTensors::deserialize(&sample.tensors).unwrap();
            let ids = numbers(&tensors, "in.input_ids", i64::from_le_bytes).unwrap();
            let ours: Vec<i64> = encoded.prompt.input_ids.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(ours, ids, "{family} {name}: ids");
            let pixels: Vec<f32> = encoded.images.iter().flat_map(|image| image.pixels.clone()).collect();
            let expected = numbers(&tensors, "in.pixel_values", f32::from_le_bytes).unwrap_or_default();
            // Pixtral's are padded to a common size: tests/tests/parity.rs compares what is not padding.
            let is_padded = tensors.tensor("in.image_sizes").is_ok();
            assert!(is_padded || pixels == expected, "{family} {name}: pixels differ");
            if let Some(grids) = numbers(&tensors, "in.image_grid_thw", i64::from_le_bytes) {
                let ours: Vec<i64> =
                    encoded.images.iter().flat_map(|image| image.grid.map(|n| n as i64)).collect();
                assert_eq!(ours, grids, "{family} {name}: grids");
            }
            let num_tokens = ids.len();
            let straight = || (0..3 * num_tokens).map(|at| (at % num_tokens) as i64).collect();
            let expected = numbers(&tensors, "position_ids", i64::from_le_bytes).unwrap_or_else(straight);
            let axis = |axis: usize| encoded.positions.iter().map(move |position| i64::from(position[axis]));
            let ours: Vec<i64> = (0..3).flat_map(axis).collect();
            assert_eq!(ours, expected, "{family} {name}: positions");
        }
    }
}

#[test]
fn answers_are_where_transformers_puts_them() {
    for family in FAMILIES.iter().chain(TEXT_FAMILIES) {
        let processor = Processor::load(&fixtures().join(family)).unwrap();
        for (name, sample) in samples(family) {
            let rendered: Vec<char> = sample.stored["rendered"].as_str().unwrap().chars().collect();
            let spans: Vec<[usize; 2]> =
                serde_json::from_value(sample.stored["assistant_char_spans_in_rendered"].clone()).unwrap();
            // Theirs reach to the end of the turn, ours to its end token: the newline after it is no answer.
            let text = |[start, end]: &[usize; 2]| rendered[*start..*end].iter().collect::<String>();
            let expected: Vec<_> = spans.iter().map(|span| text(span).trim_end().to_owned()).collect();
            let prompt = processor.encode(&sample.messages, &sample.images).unwrap().prompt;
            let answers = prompt.turns.iter().filter_map(|turn| turn.answer.clone());
            let characters = |answer: std::ops::Range<usize>| {
                let (start, end) = (prompt.offsets[answer.start].0, prompt.offsets[answer.end - 1].1);
                prompt.text.chars().skip(start as usize).take((end - start) as usize).collect::<String>()
            };
            assert_eq!(answers.map(characters).collect::<Vec<_>>(), expected, "{family} {name}");
            let answers: Vec<_> = prompt.turns.iter().filter_map(|turn| turn.answer.clone()).collect();
            for answer in answers {
                assert!(processor.eos_ids().contains(&prompt.input_ids[answer.end - 1]), "{family} {name}");
            }
        }
    }
}

#[test]
fn answers_are_found_though_the_generation_prompt_differs() {
    // LLaVA-OneVision's template writes a space before its answers' line that the generation prompt lacks.
    let processor = Processor::load(&fixtures().join("llava_onevision")).unwrap();
    let sample = &samples("llava_onevision")["one"];
    let prompt = processor.encode(&sample.messages, &sample.images).unwrap().prompt;
    let answer = prompt.turns[1].answer.clone().unwrap();
    let (start, end) = (prompt.offsets[answer.start].0, prompt.offsets[answer.end - 1].1);
    let text: String = prompt.text.chars().skip(start as usize).take((end - start) as usize).collect();
    assert_eq!(text, "There are two, naïve — 你好 🎉<|im_end|>");
}

#[test]
fn paligemma_takes_one_question_with_images_and_its_answer() {
    let processor = Processor::load(&fixtures().join("paligemma")).unwrap();
    let sample = &samples("paligemma")["two"];
    let prompt = processor.encode(&sample.messages, &sample.images).unwrap().prompt;
    assert!(prompt.text.ends_with("<bos>First then ?\nWhich is larger?\nThe second\tone, by  far.<eos>"));
    let answer = prompt.turns[1].answer.clone().unwrap();
    assert_eq!(answer.end, prompt.input_ids.len());
    let question = processor.encode_question(&sample.messages[..1], &sample.images).unwrap();
    assert_eq!(question.prompt.input_ids, prompt.input_ids[..answer.start]);
    let text = |text: &str| vec![Part::Text { text: text.to_owned() }];
    let again = Message::new(Role::User, text("And now?"));
    let turns = [&sample.messages[..], &[again]].concat();
    let error = processor.encode_question(&turns, &sample.images).unwrap_err().to_string();
    assert!(error.contains("one question and one answer"), "{error}");
    let blind = Message::new(Role::User, text("What?"));
    let error = processor.encode_question(&[blind], &[]).unwrap_err().to_string();
    assert!(error.contains("without an image"), "{error}");
}

#[test]
fn several_images_are_one_tile_each_where_a_single_one_is_cut() {
    let processor = Processor::load(&fixtures().join("llava_onevision")).unwrap();
    let samples = samples("llava_onevision");
    let tiles = |name: &str| -> Vec<usize> {
        let encoded = processor.encode(&samples[name].messages, &samples[name].images).unwrap();
        encoded.images.iter().map(|image| image.shape[0]).collect()
    };
    assert_eq!((tiles("one"), tiles("two")), (vec![7], vec![1, 1]));
}

#[test]
fn a_question_stops_where_its_answer_begins() {
    for family in FAMILIES {
        let processor = Processor::load(&fixtures().join(family)).unwrap();
        let samples = samples(family);
        let sample = &samples["one"];
        let whole = processor.encode(&sample.messages, &sample.images).unwrap();
        let question = processor.encode_question(&sample.messages[..1], &sample.images).unwrap();
        let start = whole.prompt.turns[1].answer.clone().unwrap().start;
        assert_eq!(question.prompt.input_ids, whole.prompt.input_ids[..start], "{family}");
        assert_eq!(question.positions, whole.positions[..start], "{family}");
    }
}

#[test]
fn sizes_that_the_family_refuses_name_the_image() {
    let processor = Processor::load(&fixtures().join("qwen2_vl")).unwrap();
    let question = Message::new(Role::User, vec![Part::Image, Part::Image]);
    let image = |width: u32| RgbImage { width, height: 1, data: vec![0; 3 * width as usize] };
    let error = processor.encode_question(&[question], &[image(9), image(201)]).unwrap_err().to_string();
    assert!(error.contains("image 1 of the sample") && error.contains("201 x 1"), "{error}");
    // transformers 5.24's PixtralImageProcessor: "Size must contain 'height' and 'width' keys", the height being 0.
    let processor = Processor::load(&fixtures().join("pixtral")).unwrap();
    let question = || Message::new(Role::User, vec![Part::Image]);
    let edge = longest_edge("pixtral");
    assert!(processor.encode_question(&[question()], &[image(edge)]).is_ok());
    let error = processor.encode_question(&[question()], &[image(edge + 1)]).unwrap_err().to_string();
    assert!(error.contains(&format!("the ratio of its sides is over {edge}")), "{error}");
}

fn longest_edge(family: &str) -> u32 {
    let settings = fs::read(fixtures().join(family).join("preprocessor_config.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
    settings["size"]["longest_edge"].as_u64().unwrap() as u32
}

#[test]
fn a_text_model_says_that_it_takes_no_images() {
    let processor = Processor::load(&fixtures().join("qwen2_text")).unwrap();
    let question = Message::new(Role::User, vec![Part::Image]);
    let image = RgbImage { width: 1, height: 1, data: vec![0; 3] };
    let error = processor.encode_question(&[question], &[image]).unwrap_err().to_string();
    assert!(error.contains("image 0 of the sample: the model takes no images"), "{error}");
    assert_eq!(processor.image_token_id(), None);
}

#[test]
fn an_original_internvl_ends_turns_whatever_its_tokenizer_says() {
    // InternLM2's tokenizer names `</s>`; the conversations end turns with `<|im_end|>`.
    let dir = copy("internvl_chat");
    let edit = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = dir.path().join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
    };
    edit("tokenizer_config.json", &|json| json["eos_token"] = "<|endoftext|>".into());
    edit("config.json", &|json| json["llm_config"]["eos_token_id"] = Value::Null);
    let processor = Processor::load(dir.path()).unwrap();
    let id = |token: &str| processor.tokenizer().token_id(token).unwrap();
    let mut expected = [id("<|endoftext|>"), id("<|im_end|>")];
    expected.sort_unstable();
    assert_eq!(processor.eos_ids(), expected);
}

#[test]
fn more_images_than_placeholders_are_an_error() {
    for family in FAMILIES {
        let processor = Processor::load(&fixtures().join(family)).unwrap();
        let sample = &samples(family)["one"];
        let twice = [sample.images[0].clone(), sample.images[0].clone()];
        let error = processor.encode(&sample.messages, &twice).unwrap_err().to_string();
        assert!(error.contains("1 `") && error.contains("for 2 image(s)"), "{error}");
    }
}

/// A copy of a fixture checkpoint's small files, to break one of them.
fn copy(family: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join(family)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_some_and(|extension| extension != "safetensors") {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

#[test]
fn identity_tells_processors_apart_by_what_they_do() {
    let original = copy("qwen2_vl");
    let identity = |dir: &Path| Processor::load(dir).unwrap().identity();
    let path = original.path().join("preprocessor_config.json");
    let before = identity(original.path());
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // The newer spelling of the same bounds is the same processor ...
    json["size"] =
        serde_json::json!({"shortest_edge": json["min_pixels"], "longest_edge": json["max_pixels"]});
    json.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_pixels"));
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(identity(original.path()), before);
    // ... and so is the same under processor_config.json, where transformers 5 writes it.
    fs::remove_file(&path).unwrap();
    let nested = original.path().join("processor_config.json");
    fs::write(&nested, serde_json::json!({ "image_processor": json }).to_string()).unwrap();
    assert_eq!(identity(original.path()), before);
    json["size"]["longest_edge"] = 1024.into();
    fs::write(&nested, serde_json::json!({ "image_processor": json }).to_string()).unwrap();
    let after = identity(original.path());
    let changed: Vec<_> = before.keys().filter(|field| before[*field] != after[*field]).collect();
    assert_eq!(changed, ["image_processor"]);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["chat_template", "image_processor", "tokenizer"]);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let fails = |family: &str, file: &str, change: &dyn Fn(&str) -> Option<String>| {
        let dir = copy(family);
        let path = dir.path().join(file);
        match change(&fs::read_to_string(&path).unwrap()) {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = Processor::load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("hint:"), "{error}");
        error
    };
    let gone = |_: &str| None;
    let error = fails("qwen2_vl", "preprocessor_config.json", &gone);
    assert!(error.contains("preprocessor_config.json`: is missing"), "{error}");
    let error = fails("internvl", "chat_template.jinja", &gone);
    assert!(error.contains("has no chat template"), "{error}");
    let error = fails("internvl", "tokenizer.json", &|text| Some(text.replace("<IMG_CONTEXT>", "<OTHER>")));
    assert!(error.contains("no image placeholder token `<IMG_CONTEXT>`"), "{error}");
    let error = fails("qwen2_vl", "tokenizer.json", &|text| {
        Some(
            text.replace("<|image_pad|>", "\u{1}")
                .replace("<|video_pad|>", "<|image_pad|>")
                .replace('\u{1}', "<|video_pad|>"),
        )
    });
    assert!(error.contains("but config.json says"), "{error}");
    let resample = |text: &str| Some(text.replacen('{', "{\"resample\": 4,", 1));
    let error = fails("qwen2_vl", "preprocessor_config.json", &resample);
    assert!(error.contains("`resample` 4 is not supported"), "{error}");
}

/// Every count follows by hand from the picture of 64 x 48 pixels and the two files.
#[test]
fn a_processor_of_another_checkpoint_is_refused() {
    let refusal = |family: &str, pointer: &str, value: Value| {
        let dir = copy(family);
        let path = dir.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        fs::write(&path, json.to_string()).unwrap();
        let error =
            Processor::load(dir.path()).err().unwrap_or_else(|| panic!("{family} {pointer}")).to_string();
        assert!(error.contains("_config.json`: of a picture of 64 x 48 pixels"), "{error}");
        assert!(error.contains("hint: copy preprocessor_config.json"), "{error}");
        error
    };
    // (image tokens of the processor, rows of the vision encoder)
    let counts = [
        // 16 x 24 pixels in patches of 4, 2 x 2 of them merged.
        ("qwen2_vl", "/vision_config/spatial_merge_size", 1.into(), [6, 24]),
        ("qwen3_vl", "/vision_config/spatial_merge_size", 1.into(), [6, 24]),
        ("internvl", "/downsample_ratio", 0.25.into(), [20, 5]),
        ("idefics3", "/scale_factor", 1.into(), [20, 80]),
        ("llava", "/vision_config/patch_size", 8.into(), [16, 4]),
        ("llava", "/vision_feature_select_strategy", "full".into(), [16, 17]),
        ("gemma3", "/mm_tokens_per_image", 16.into(), [4, 16]),
        ("paligemma", "/vision_config/patch_size", 6.into(), [9, 4]),
        // 20 x 15 pixels are five by four patches.
        ("pixtral", "/vision_config/patch_size", 2.into(), [20, 80]),
        ("mistral3", "/spatial_merge_size", 1.into(), [12, 48]),
    ];
    for (family, pointer, value, [tokens, rows]) in counts {
        let error = refusal(family, pointer, value);
        let expected = format!("makes {tokens} image tokens, the vision encoder of config.json {rows} rows");
        assert!(error.contains(&expected), "{family} {pointer}: {error}");
    }
    let images = [
        ("qwen2_5_vl", "/vision_config/temporal_patch_size", 1.into(), "does not fit patches of 48 numbers"),
        ("qwen2_5_vl", "/vision_config/in_channels", 1.into(), "does not fit patches of 32 numbers"),
        (
            "qwen2_vl",
            "/vision_config/spatial_merge_size",
            3.into(),
            "does not fit patches of 96 numbers, 3 x 3",
        ),
        ("pixtral", "/vision_config/patch_size", 3.into(), "does not fit 3 channels of patches of 3 pixels"),
        ("mistral3", "/spatial_merge_size", 4.into(), "6 x 8 patches cannot be merged 4 x 4"),
        ("smolvlm", "/vision_config/image_size", 8.into(), "is not made of tiles of [3, 8, 8]"),
        ("internvl", "/vision_config/image_size", [8, 8].into(), "is not made of tiles of [3, 8, 8]"),
        ("llava_next", "/image_grid_pinpoints", serde_json::json!([[16, 32]]), "of config.json want 3"),
        ("llava_onevision", "/image_grid_pinpoints", serde_json::json!([[12, 12]]), "of config.json want 2"),
    ];
    for (family, pointer, value, expected) in images {
        let error = refusal(family, pointer, value);
        assert!(error.contains(expected), "{family} {pointer}: {error}");
    }
}
