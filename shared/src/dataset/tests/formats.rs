//! The files that pyarrow, datasets, polars and Python's tarfile wrote (tests/fixtures/make_datasets.py), which also says
//! what each row holds.

use serde_json::{Value, json};

use super::*;
use crate::ids::Digest;

fn datasets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/datasets")
}

fn fixture(name: &str) -> String {
    datasets().join(name).display().to_string()
}

/// A record in the terms of `expected.json`, but for the images, which are their bytes' hash.
fn summary(record: &Record) -> (Value, Vec<Digest>) {
    let part = |part: &Part| match part {
        Part::Text { text } => json!(text),
        Part::Image => Value::Null,
    };
    let turn = |message: &Message| json!([message.role, message.content.iter().map(part).collect::<Value>()]);
    let images = record.images.iter().map(|image| Digest::of(&image.read().unwrap()));
    (record.messages.iter().map(turn).collect(), images.collect())
}

/// What the script says of the row `id`.
fn expected(id: &str) -> (Value, Vec<Digest>) {
    let rows: Value = serde_json::from_slice(&fs::read(datasets().join("expected.json")).unwrap()).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
    let names = [
        ("one", vec!["a.png"]),
        ("two", vec!["b.png", "c d é.png"]),
        ("text", vec![]),
        ("system", vec!["a.png"]),
    ];
    let (_, names) = names.into_iter().find(|(name, _)| *name == id).unwrap();
    let digests = names.iter().map(|name| Digest::of(&fs::read(datasets().join(name)).unwrap()));
    (row["turns"].clone(), digests.collect())
}

const ALL: [&str; 4] = ["one", "two", "text", "system"];

fn records(source: &str) -> Vec<Record> {
    read(&fixture(source), &DatasetOptions::default()).into_iter().map(Result::unwrap).collect()
}

/// The reasons of bad rows; nothing for a good one.
fn reasons(source: &str) -> Vec<String> {
    let rows = read(&fixture(source), &DatasetOptions::default());
    rows.into_iter().map(|row| row.err().map_or(String::new(), |bad| bad.reason)).collect()
}

#[test]
fn every_format_holds_the_same_conversations() {
    let sources = [
        "hub_llava.parquet",
        "hub_messages.parquet",
        "polars.parquet",
        "swift.jsonl",
        "openai.jsonl",
        "anthropic.jsonl",
        "llama_factory/dataset_info.json#alpaca",
        "llama_factory/dataset_info.json#chat",
        "llama_factory/dataset_info.json#sharegpt",
    ];
    for source in sources {
        let records = records(source);
        assert_eq!(records.len(), 4, "{source}");
        for (record, id) in records.iter().zip(ALL) {
            assert_eq!(record.id.as_deref(), Some(id), "{source}");
            assert_eq!(summary(record), expected(id), "{source} row `{id}`");
        }
    }
}

#[test]
fn shards_are_read_in_the_order_of_their_range() {
    let records = records("shards/{00000..00001}.tar");
    assert_eq!(records.len(), 4);
    for (record, id) in records.iter().zip(ALL) {
        assert_eq!(summary(record), expected(id), "`{id}`");
    }
    assert!(records[1].images.iter().all(|image| matches!(image, ImageSource::Slice { .. })));
    let missing = open(&[fixture("shards/{00000..00002}.tar")], &DatasetOptions::default()).err().unwrap();
    assert!(missing.to_string().contains("00002.tar"), "a gap in a range is no smaller dataset: {missing}");
    let folder = read(&fixture("shards"), &DatasetOptions::default());
    assert_eq!(folder.len(), 4);
}

#[test]
fn captions_answer_the_image_alone() {
    let records = records("captions.tar");
    let keys: Vec<_> = records.iter().map(|record| record.id.as_deref().unwrap()).collect();
    assert_eq!(keys, ["000000001", "000000002"], "a member's name is the row's id where it has no other");
    assert_eq!(summary(&records[0]).0, json!([["user", [null]], ["assistant", ["A cup."]]]));
    assert_eq!(summary(&records[1]).1, [Digest::of(&fs::read(datasets().join("b.png")).unwrap())]);
}

#[test]
fn members_that_lie_apart_are_no_sample_and_code_is_left_alone() {
    let reasons = reasons("traps.tar");
    let expected = [
        "",
        "has neither `json` nor `txt`",
        "its members lie apart in the shard",
        "its members lie apart in the shard",
        "has neither `json` nor `txt`",
        "",
    ];
    assert_eq!(reasons, expected);
    let last = read(&fixture("traps.tar"), &DatasetOptions::default()).pop().unwrap().unwrap();
    assert_eq!(last.id.as_deref(), Some("folder.a/x.y/last"), "only the file's own name is cut at a dot");
}

#[test]
fn a_shard_that_was_cut_off_ends_in_an_error_behind_its_whole_samples() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(datasets().join("shards/00000.tar")).unwrap();
    let mark = whole.chunks(512).rposition(|block| block.iter().any(|&byte| byte != 0)).unwrap() + 1;
    // Inside a member, at the end of one, and without the mark of the end.
    for (length, good) in [(3000, 0), (512 * 3 + 100, 0), (512 * mark, 1)] {
        let path = dir.path().join(format!("{length}.tar"));
        fs::write(&path, &whole[..length]).unwrap();
        let rows = open(
            &[path.display().to_string()],
            &DatasetOptions { format: Some(Format::Llava), ..Default::default() },
        );
        let rows: Vec<_> = rows.unwrap().take(10).collect();
        assert_eq!(rows.len(), good + 1, "{length} bytes");
        let error = rows[good].as_ref().unwrap_err().to_string();
        assert!(error.contains("is cut off") && error.contains("hint:"), "{error}");
    }
    let mut damaged = whole;
    damaged[3] ^= 1;
    let path = dir.path().join("damaged.tar");
    fs::write(&path, damaged).unwrap();
    let error = open(&[path.display().to_string()], &DatasetOptions::default()).err().unwrap();
    assert!(error.to_string().contains("damaged header at byte 512"), "{error}");
}

#[test]
fn images_without_places_come_first_where_the_format_says_so() {
    let records = records("cauldron.parquet");
    assert_eq!(records.len(), 3);
    for (record, id) in records.iter().zip(ALL) {
        assert_eq!(summary(record), expected(id), "`{id}`");
        assert_eq!(record.id, None);
    }
}

#[test]
fn a_cell_without_bytes_names_a_file_under_the_image_root() {
    let records = records("paths.parquet");
    let ids: Vec<_> = records.iter().map(|record| record.id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["one", "text", "system"]);
    for record in &records {
        assert_eq!(summary(record), expected(record.id.as_deref().unwrap()));
    }
    assert_eq!(records[0].images, [ImageSource::Path(datasets().join("a.png"))]);
}

#[test]
fn bad_cells_are_bad_rows() {
    let expected = [
        "",
        "`images`: image 0 is null",
        "`images`: an image has neither bytes nor a path",
        "1 `<image>` placeholder(s) and 0 image(s)",
        "`images`: the image path `../a.png` leaves the image root: `--image-root` names a folder above it",
        "",
    ];
    assert_eq!(reasons("bad_rows.parquet"), expected);
}

#[test]
fn a_damaged_row_group_ends_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(datasets().join("groups.parquet")).unwrap();
    // The last eight bytes: the length of the footer behind the row groups, and the mark.
    let mark = bytes.len() - 8;
    let footer_bytes = u32::from_le_bytes(bytes[mark..mark + 4].try_into().unwrap()) as usize;
    let middle = (mark - footer_bytes) / 2;
    bytes[middle..middle + 100].fill(0xff);
    let path = dir.path().join("groups.parquet");
    fs::write(&path, bytes).unwrap();
    // An error that comes again and again would fill all thousand.
    let rows: Vec<_> =
        open(&[path.display().to_string()], &DatasetOptions::default()).unwrap().take(1000).collect();
    let num_errors = rows.iter().filter(|row| row.is_err()).count();
    assert!(rows.len() > 8 && rows.len() < 80, "{} rows", rows.len());
    assert_eq!(num_errors, 1);
    assert!(rows.last().unwrap().is_err());
}

#[test]
fn an_answer_that_is_not_to_be_learnt_says_so_in_the_cache() {
    let turns = json!([
        { "role": "user", "content": "a" }, { "role": "assistant", "content": "b", "loss": false },
        { "role": "user", "content": "c", "loss": false }, { "role": "assistant", "content": "d", "loss": true },
        // As OpenAI's fine-tuning says it.
        { "role": "user", "content": "e" }, { "role": "assistant", "content": "f", "weight": 0 },
    ]);
    let dir = tempfile::tempdir().unwrap();
    let source = write(dir.path(), "rows.jsonl", &json!({ "messages": turns }).to_string());
    let row = read(&source, &DatasetOptions::default()).remove(0).unwrap();
    let learnt: Vec<bool> = row.messages.iter().map(Message::is_learnt).collect();
    assert_eq!(learnt, [false, false, false, true, false, false]);
    assert_eq!(row.questions().len(), 1);
    let json = canonical_json(&row.messages);
    assert_eq!(json.matches(r#""skip_loss":true"#).count(), 2, "{json}");
    assert_eq!(parse_canonical(&json).unwrap(), row.messages);
}

#[test]
fn rows_of_messages_that_cannot_be_used_say_why() {
    let asked = |content: Value| json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]});
    let answer = |answer: Value| json!({"messages": [{"role": "user", "content": "?"}, answer]});
    let with = |name: &str, value: Value| {
        let mut row = asked(json!("?"));
        row[name] = value;
        row
    };
    let listed = with("images", json!(["a.png"]));
    let cases = [
        (
            answer(json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]})),
            "turn 1 is a tool call",
        ),
        (answer(json!({"role": "assistant", "content": null})), "turn 1 has no content"),
        (answer(json!({"role": "tool", "content": "7"})), "turn 1 is a tool call or its result"),
        (answer(json!({"role": "assistant", "content": "  "})), "turn 1 is an empty answer"),
        (answer(json!({"role": "assistant", "content": [{"type": "image"}]})), "images belong to questions"),
        (json!({"messages": [{"role": "assistant", "content": "x"}]}), "does not follow"),
        (asked(json!([{"type": "image"}])), "1 `<image>` placeholder(s) and 0 image(s)"),
        (asked(json!([{"type": "video", "video": "v.mp4"}])), "a part of type `video`"),
        (
            asked(json!([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])),
            "nothing is fetched",
        ),
        (
            asked(json!([{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}])),
            "is not base64",
        ),
        (asked(json!([{"type": "image", "image": "../a.png"}])), "leaves the image root"),
        (listed, "`--prepend-image`"),
        (json!({"messages": "none"}), "`messages` is no list"),
        // What texts and images are not all of must not become a row of them.
        (with("videos", json!(["v.mp4"])), "has `videos`, which is not read"),
        (with("tools", json!([{"type": "function"}])), "has `tools`, which is not read"),
        (with("image", json!({"bytes": "no base64!"})), "an image's `bytes` are not base64"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (row, expected) in cases {
        let source = write(dir.path(), "rows.jsonl", &format!("{}\n{row}", asked(json!("fine"))));
        let rows = read(&source, &DatasetOptions::default());
        let reason = &rows[1].as_ref().unwrap_err().reason;
        assert!(reason.contains(expected), "{row} gave `{reason}`, expected `{expected}`");
    }
}

#[test]
fn parts_bring_their_images_or_take_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let content = json!([{"type": "image"}, {"type": "image", "image": "own.png"}, {"type": "text", "text": "and <image>\n?"}]);
    let row = json!({"images": ["first.png", {"path": "second.png", "bytes": null}], "messages": [
        {"role": "developer", "content": "s"}, {"role": "user", "content": content}, {"role": "assistant", "content": "x"}]});
    let source = write(dir.path(), "rows.jsonl", &row.to_string());
    let record = read(&source, &DatasetOptions::default()).remove(0).unwrap();
    let names = ["first.png", "own.png", "second.png"].map(|name| ImageSource::Path(dir.path().join(name)));
    assert_eq!(record.images, names);
    assert_eq!(record.messages[1].content, [Part::Image, Part::Image, text("and "), Part::Image, text("?")]);
}

#[test]
fn a_system_turn_may_stand_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
    let rows = json!([{"conversations": turns, "system": "s"}, {"conversations": turns, "system": ""}]);
    let source = write(dir.path(), "rows.json", &rows.to_string());
    let records = read(&source, &DatasetOptions::default());
    let first = records.iter().map(|record| record.as_ref().unwrap().messages[0].clone()).collect::<Vec<_>>();
    let expected = [Message::new(Role::System, vec![text("s")]), Message::new(Role::User, vec![text("q")])];
    assert_eq!(first, expected);
}

#[test]
fn images_may_be_base64_in_an_object_and_the_other_field_an_empty_list() {
    let dir = tempfile::tempdir().unwrap();
    let turns = json!([{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]);
    // RFC 4648, section 10.
    let image = json!({"bytes": "Zm9v", "path": "elsewhere.png"});
    let row = json!({"conversations": turns, "image": image, "images": [], "tools": [], "video": null});
    let source = write(dir.path(), "rows.jsonl", &row.to_string());
    let record = read(&source, &DatasetOptions::default()).remove(0).unwrap();
    assert_eq!(record.images, [ImageSource::Bytes((*b"foo").into())]);
}

#[test]
fn an_absolute_path_may_name_a_file_beneath_a_relative_image_root() {
    for root in ["some/images", ""].map(PathBuf::from) {
        let options = DatasetOptions { image_root: Some(root.clone()), ..DatasetOptions::default() };
        let image = std::env::current_dir().unwrap().join(&root).join("a.png");
        let dir = tempfile::tempdir().unwrap();
        let source = write(dir.path(), "rows.jsonl", &row(image.to_str().unwrap(), "<image>", "x"));
        let record = read(&source, &options).remove(0).unwrap();
        assert_eq!(record.images, [ImageSource::Path(root.join("a.png"))]);
    }
}

#[test]
fn a_table_that_is_compressed_otherwise_says_how() {
    // pyarrow wrote it with gzip (make_datasets.py).
    let error = open(&[fixture("gzip.parquet")], &DatasetOptions::default()).err().unwrap().to_string();
    assert!(error.contains("is compressed with GZIP: write it again with Snappy or Zstandard"), "{error}");
}

#[test]
fn llama_factory_names_its_datasets_and_their_traps() {
    let expected = [
        "2 `<image>` placeholder(s) and 1 image(s)",
        "begins with an answer",
        "turn 1 is from `function_call`",
        "has videos",
    ];
    assert_eq!(reasons("llama_factory/dataset_info.json#traps"), expected);
    let refused =
        |source: &str| open(&[fixture(source)], &DatasetOptions::default()).err().unwrap().to_string();
    for source in ["llama_factory/dataset_info.json", "llama_factory"] {
        assert!(refused(source).contains("names 6 datasets: alpaca, chat, sharegpt"), "{}", refused(source));
    }
    assert!(refused("llama_factory/dataset_info.json#none").contains("has no dataset `none`"));
    assert!(refused("llama_factory/dataset_info.json#elsewhere").contains("is not a local file"));
    assert!(refused("llama_factory/dataset_info.json#preferences").contains("ranks answers"));
}

#[test]
fn a_compressed_file_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard.tar.gz");
    fs::write(&path, b"\x1f\x8b\x08\x00rest").unwrap();
    let error = open(&[path.display().to_string()], &DatasetOptions::default()).err().unwrap();
    assert!(error.to_string().contains("compressed with gzip"), "{error}");
}
