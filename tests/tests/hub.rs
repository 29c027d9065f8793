//! Checkouts by name: the programs against a server on this machine that speaks the hub's paths, redirects and ranges.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use e2e::programs::{Finished, finished, program};
use e2e::rows::fixture;

const COMMIT: &str = "0f3c9a17b2d84e5566778899aabbccddeeff0011";

/// A hub of one model, `tiny/qwen`, in two shards; `tiny/gated` is for others.
struct Hub {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Path and where the range began, of every request.
    requests: Mutex<Vec<(String, u64)>>,
    /// Cut the next long answer off in the middle.
    breaks_off: AtomicBool,
}

impl Hub {
    fn start() -> Hub {
        Hub::with(|config| config)
    }

    /// Its config.json edited.
    fn with(edit: impl Fn(String) -> String) -> Hub {
        let mut files = BTreeMap::new();
        for folder in [fixture("qwen2_vl"), fixture("qwen2_vl").join("sharded_bf16")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_file() && name != "model.safetensors" {
                    files.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        let config = String::from_utf8(files["config.json"].clone()).unwrap();
        files.insert("config.json".into(), edit(config).into_bytes());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State { files, ..State::default() });
        let (shared, own) = (state.clone(), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that hangs up is no error of the server.
                let _ = shared.answer(stream.unwrap(), &own);
            }
        });
        Hub { address, state }
    }

    fn requests(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

impl State {
    fn answer(&self, mut stream: TcpStream, address: &str) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap()?;
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let mut range = None;
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            if name.eq_ignore_ascii_case("range") {
                let (start, end) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                range = Some((start.parse::<u64>().unwrap(), end.parse::<u64>().ok()));
            }
        }
        self.requests.lock().unwrap().push((path.clone(), range.map_or(0, |(start, _)| start)));
        let plain = |status: &str, headers: &str, body: &[u8], stream: &mut TcpStream| {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            )?;
            stream.write_all(body)
        };
        if path.starts_with("/api/models/tiny/gated/") {
            return plain("401 Unauthorized", "", b"", &mut stream);
        }
        if path == "/api/models/tiny/qwen/revision/main" || path == "/api/models/tiny/qwen/revision/v1" {
            let siblings = self.files.keys().map(|name| format!(r#"{{"rfilename":"{name}"}}"#));
            // Others' files, which nobody asked for.
            let siblings = siblings
                .chain([r#"{"rfilename":"onnx/model.onnx"}"#.into(), r#"{"rfilename":"../x.json"}"#.into()]);
            let body =
                format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.collect::<Vec<_>>().join(","));
            return plain("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), &mut stream);
        }
        let etag = |name: &str| {
            format!("{:016x}", name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte)))
        };
        let resolved = path.strip_prefix(&format!("/tiny/qwen/resolve/{COMMIT}/"));
        if let Some(name) = resolved.filter(|name| name.ends_with(".safetensors")) {
            // Large files lie elsewhere, under their hash.
            let headers = format!(
                "Location: {address}/large/{name}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nETag: \"other\"\r\n",
                etag(name)
            );
            return plain("302 Found", &headers, b"", &mut stream);
        }
        let found =
            resolved.or(path.strip_prefix("/large/")).and_then(|name| Some((name, self.files.get(name)?)));
        let Some((name, bytes)) = found else { return plain("404 Not Found", "", b"", &mut stream) };
        let (start, end) = range.unwrap_or((0, None));
        let end = end.map_or(bytes.len(), |end| (end as usize + 1).min(bytes.len()));
        let part = &bytes[start as usize..end];
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n\
             ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n\r\n",
            part.len(),
            end - 1,
            bytes.len(),
            etag(name)
        )?;
        let breaks_off = part.len() > 10_000 && self.breaks_off.swap(false, Ordering::Relaxed);
        stream.write_all(if breaks_off { &part[..part.len() / 2] } else { part })
    }
}

fn pair(endpoint: &str, home: &Path, teacher: &str) -> Finished {
    let student = fixture("internvl").display().to_string();
    let args = ["pair", "--json", "--image-size", "16x16", "--teacher", teacher, "--student", &student];
    let mut command = program("extract").unwrap();
    command
        .args(args)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .env_remove("HF_TOKEN")
        .env("NO_PROXY", "127.0.0.1");
    finished(command.output().unwrap()).unwrap()
}

#[test]
fn a_name_is_fetched_resumed_and_then_needs_no_network() {
    let (hub, home) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.state.breaks_off.store(true, Ordering::Relaxed);
    let broken = pair(&hub.address, home.path(), "tiny/qwen@v1");
    assert_eq!(broken.code, Some(1), "{}", broken.stderr);
    assert!(
        broken.stderr.contains("hint: the same command goes on where the download stopped"),
        "{}",
        broken.stderr
    );
    assert!(hub.requests().iter().all(|(_, start)| *start == 0));

    let done = pair(&hub.address, home.path(), "tiny/qwen@v1");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let requests = hub.requests().into_iter();
    // The name's own address sends on to where the bytes lie.
    let resumed: Vec<_> =
        requests.filter(|(path, start)| path.starts_with("/large/") && *start > 0).collect();
    assert_eq!(resumed.len(), 1, "one file had been broken off: {resumed:?}");
    let folder = home.path().join("hub/models--tiny--qwen/snapshots").join(COMMIT);
    for (name, bytes) in &hub.state.files {
        assert!(std::fs::read(folder.join(name)).unwrap() == *bytes, "{name} differs");
    }
    assert!(!folder.join("onnx").exists() && !folder.join("../x.json").exists());

    // No server listens there.
    let offline = pair("http://127.0.0.1:9", home.path(), "tiny/qwen@v1");
    assert_eq!((offline.code, offline.stdout), (Some(0), done.stdout));
    assert!(hub.requests().is_empty());
    let by_commit = pair("http://127.0.0.1:9", home.path(), &format!("tiny/qwen@{COMMIT}"));
    assert_eq!(by_commit.code, Some(0), "{}", by_commit.stderr);
}

#[test]
fn weights_of_a_model_that_is_not_supported_are_not_fetched() {
    let home = tempfile::tempdir().unwrap();
    let hub =
        Hub::with(|config| config.replacen('{', r#"{"quantization_config": {"quant_method": "awq"}, "#, 1));
    let refused = pair(&hub.address, home.path(), "tiny/qwen");
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("quantised by `awq`"), "{}", refused.stderr);
    let requests = hub.requests();
    assert!(requests.iter().any(|(path, _)| path.ends_with("config.json")));
    assert!(requests.iter().all(|(path, _)| !path.ends_with(".safetensors")), "{requests:?}");
}

#[test]
fn what_the_hub_does_not_give_is_explained() {
    let (hub, home) = (Hub::start(), tempfile::tempdir().unwrap());
    let cases = [
        (hub.address.as_str(), "tiny/gated", "hint: check the name; for a gated model accept its conditions"),
        (&hub.address, "tiny/none", "the hub has no such model, revision or file"),
        (&hub.address, "tiny/qwen@v2", "the hub has no such model, revision or file"),
        ("http://127.0.0.1:9", "tiny/qwen", "cannot be fetched from the hub"),
    ];
    for (endpoint, name, expected) in cases {
        let refused = pair(endpoint, home.path(), name);
        assert_eq!(refused.code, Some(1), "{name}");
        assert!(
            refused.stderr.contains(expected) && refused.stderr.contains("is no folder here"),
            "{}",
            refused.stderr
        );
    }
}
