//! Where a row's images are: beside its fields (Parquet cells, tar members), or named in `image` or `images` by path,
//! as a `data:` URI, or as an object of `bytes` and `path`.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::ImageSource;
use super::base64::decode_base64;
use super::format::Content;

/// The images of a row, in its own order. Paths start from `image_root`.
pub(super) fn listed(content: &Content, image_root: &Path) -> Result<Vec<ImageSource>, String> {
    if let Some(images) = &content.images {
        return Ok(images.clone());
    }
    // One schema for all rows leaves lists without images.
    let is_given = |value: &&Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    let field = |name: &str| content.fields.get(name).filter(is_given);
    let given = match (field("image"), field("images")) {
        (Some(_), Some(_)) => return Err("has both `image` and `images`".into()),
        (Some(given), None) | (None, Some(given)) => given,
        (None, None) => return Ok(Vec::new()),
    };
    match given {
        Value::Array(images) => images.iter().map(|image| source(image, image_root)).collect(),
        image => Ok(vec![source(image, image_root)?]),
    }
}

/// One image as JSON names it.
pub(super) fn source(value: &Value, image_root: &Path) -> Result<ImageSource, String> {
    match value {
        Value::String(location) => locate(location, image_root),
        // As `datasets`, ms-swift and OpenAI write it: the bytes, and only without them the path.
        Value::Object(object) => {
            if let Some(encoded) = object.get("bytes").and_then(Value::as_str) {
                let bytes = decode_base64(encoded).ok_or("an image's `bytes` are not base64")?;
                return Ok(ImageSource::Bytes(bytes.into()));
            }
            let location = ["path", "url"].iter().find_map(|name| object.get(*name)?.as_str());
            locate(location.ok_or("an image has neither `bytes` nor `path` nor `url`")?, image_root)
        }
        _ => Err("an image is neither a path nor an object".into()),
    }
}

/// The image behind a path or a `data:` URI. Nothing is fetched from a network: what a run reads must not change.
pub(super) fn locate(location: &str, image_root: &Path) -> Result<ImageSource, String> {
    if let Some(data) = location.strip_prefix("data:") {
        let encoded = data.split_once(',').filter(|(kind, _)| kind.ends_with(";base64"));
        let bytes = encoded.and_then(|(_, text)| decode_base64(text));
        return Ok(ImageSource::Bytes(bytes.ok_or("an image's `data:` URI is not base64")?.into()));
    }
    if location.starts_with("http://") || location.starts_with("https://") {
        return Err(format!("the image `{location}` is elsewhere: download it, nothing is fetched"));
    }
    let path = location.strip_prefix("file://").unwrap_or(location);
    resolve(path, image_root).map(ImageSource::Path)
}

/// A dataset is foreign input: its paths may name files under the image root and nothing else.
fn resolve(path: &str, image_root: &Path) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("an image path is empty".into());
    }
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let given = Path::new(path);
    // The dot: the folder of a file in the working directory has no name.
    let absolute_root = std::path::absolute(image_root.join("."));
    let beneath = absolute_root.iter().find_map(|root| given.strip_prefix(root).ok());
    let relative = beneath.or_else(|| given.strip_prefix(image_root).ok()).unwrap_or(given);
    if !relative.components().all(inside) {
        return Err(format!(
            "the image path `{path}` leaves the image root: `--image-root` names a folder above it"
        ));
    }
    Ok(image_root.join(relative))
}
