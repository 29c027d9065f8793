//! WebDataset: a tar archive in which neighbours with the same base name, up to the first dot, are one sample: images
//! with a `json` (a row of any format) or a `txt` (a caption). Everything else is left alone; nothing is executed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::ImageSource;
use super::container::{Opening, RawRow, Rows, RowsError};
use super::format::Content;
use super::tar::{Member, Tar};

const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether a file's first 512 bytes are a tar archive's.
pub(super) fn begins(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// Opens a shard.
pub(super) fn open(path: &Path, _: &Opening<'_>) -> Result<Box<dyn Rows>, RowsError> {
    Ok(Box::new(Samples {
        tar: Tar::open(path)?,
        shard: path.into(),
        next: None,
        keys: HashSet::new(),
        num_rows: 0,
        finished: false,
    }))
}

struct Samples {
    tar: Tar,
    shard: Arc<Path>,
    /// The first member of the sample after the last one.
    next: Option<Part>,
    /// Hashes of the keys so far: eight bytes for each sample of this shard.
    keys: HashSet<u64>,
    num_rows: u64,
    finished: bool,
}

/// A member as part of a sample.
struct Part {
    key: String,
    extension: String,
    data: Data,
}

enum Data {
    Text(Vec<u8>),
    Image(ImageSource),
    Other,
}

impl Samples {
    fn next_part(&mut self) -> Result<Option<Part>, RowsError> {
        while let Some(member) = self.tar.next_member()? {
            let names = split(&member.name);
            let data = match &names {
                Some((_, extension)) => self.data(extension, &member)?,
                None => Data::Other,
            };
            self.tar.skip(&member)?;
            if let Some((key, extension)) = names {
                return Ok(Some(Part { key, extension, data }));
            }
        }
        Ok(None)
    }

    fn data(&mut self, extension: &str, member: &Member) -> Result<Data, RowsError> {
        let kind = extension.rsplit('.').next().unwrap_or(extension);
        if matches!(extension, "json" | "txt") {
            return Ok(Data::Text(self.tar.read(member)?));
        }
        let is_image = IMAGE_EXTENSIONS.contains(&kind);
        let (path, start, num_bytes) = (self.shard.clone(), member.start, member.num_bytes);
        Ok(if is_image { Data::Image(ImageSource::Slice { path, start, num_bytes }) } else { Data::Other })
    }

    fn sample(&mut self) -> Result<Option<RawRow>, RowsError> {
        let Some(first) = self.next.take().map_or_else(|| self.next_part(), |part| Ok(Some(part)))? else {
            return Ok(None);
        };
        let key = first.key.clone();
        let mut parts = vec![first];
        while let Some(part) = self.next_part()? {
            if part.key != key {
                self.next = Some(part);
                break;
            }
            parts.push(part);
        }
        let is_new = self.keys.insert(xxh3_64(key.as_bytes()));
        let content =
            if is_new { content(parts) } else { Err("its members lie apart in the shard".to_owned()) };
        let index = self.num_rows;
        self.num_rows += 1;
        Ok(Some(RawRow { index, key: Some(key), content }))
    }
}

impl Rows for Samples {
    fn next_row(&mut self) -> Result<Option<RawRow>, RowsError> {
        if self.finished {
            return Ok(None);
        }
        let row = self.sample();
        self.finished = !matches!(row, Ok(Some(_)));
        row
    }

    fn bytes_read(&self) -> u64 {
        self.tar.at()
    }
}

/// Key and extension: a path up to the first dot of its file name, and the rest in lower case. Hidden files have no key.
fn split(name: &str) -> Option<(String, String)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    (dot > file).then(|| (name[..dot].to_owned(), name[dot + 1..].to_lowercase()))
}

fn content(parts: Vec<Part>) -> Result<Content, String> {
    let (mut json, mut caption, mut images) = (None, None, Vec::new());
    for part in parts {
        match (part.extension.as_str(), part.data) {
            ("json", Data::Text(text)) => json = Some(text),
            (_, Data::Text(text)) => {
                caption = Some(String::from_utf8(text).map_err(|_| "its `txt` is not UTF-8")?)
            }
            (_, Data::Image(image)) => images.push(image),
            (_, Data::Other) => {}
        }
    }
    let mut fields: Map<String, Value> = match &json {
        Some(text) => {
            serde_json::from_slice(text).map_err(|error| format!("its `json` is no object: {error}"))?
        }
        None => Map::new(),
    };
    if json.is_none() && caption.is_none() {
        return Err("has neither `json` nor `txt`".into());
    }
    if let Some(caption) = caption {
        fields.insert("txt".into(), caption.into());
    }
    let images = (!images.is_empty()).then_some(images);
    Ok(Content { fields: Value::Object(fields), images })
}
