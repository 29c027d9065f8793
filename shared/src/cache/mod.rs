//! The feature cache: a teacher's last-layer features on disk, exact, identified, readable by everyone.
//!
//! This page is the specification of format version 1. A cache is a directory laid out like a
//! dataset repository:
//!
//! ```text
//! CACHE/
//!   manifest.json                          what the cache is, and which files belong to it
//!   README.md                              dataset card (once complete)
//!   data/train-00000-of-00002.parquet      shards; `train-00000.parquet` until the cache is complete
//!   data/train-00001-of-00002.parquet
//!   head.safetensors                       the teacher's head, `lm_head.weight` (V, D), dtype as it was
//!   quarantine.parquet                     rows that could not become samples, with the reason
//!   .lock*                                 advisory locks of writers, without content
//! ```
//!
//! # Shards
//! A shard is a plain Parquet file, one row per sample, with these columns:
//!
//! ```text
#![doc = include_str!("schema.parquet")]
//! ```
//!
//! | column | holds |
//! |---|---|
//! | `key` | 128-bit content hash of the canonical messages and the image bytes, in hexadecimal; unique in a cache |
//! | `num_tokens`, `num_positions` | lengths of `input_ids` and of `positions` |
//! | `features_xxh3` | XXH3-64 of the features in the teacher's own number type, little-endian, row by row |
//! | `sample_xxh3` | XXH3-64 of the row's other columns: for each leaf column in schema order, without this one, `image_files` and `features`: the number of values (u64), then the values (INT32, INT64, or byte length as u64 and bytes), all little-endian |
//! | `row_id`, `source`, `row` | the dataset row's own id, its file and its place there |
//! | `messages` | the conversation as canonical JSON |
//! | `text` | the rendered prompt, each image placeholder expanded to its tokens |
//! | `images` | BLAKE3 digest of the encoded bytes, size in pixels, placeholder tokens, grid (temporal, height, width) |
//! | `input_ids` | the teacher's token ids |
//! | `offsets` | for each token the half-open range of characters (Unicode scalar values) of `text` it came from |
//! | `turns` | role, tokens of the turn, tokens of its answer (0 and 0 if it has none) |
//! | `positions` | the tokens that have features, strictly ascending |
//! | `image_files` | the encoded images, if they were embedded, with their digests as paths |
//! | `features` | one list per position of `width` floats: the token's last-layer vector after the final norm |
//!
//! Every page is a version 2 data page with a CRC32 of its content in its header; there are no
//! dictionaries and no statistics; offset indexes are present. A small column's page holds at most
//! 32 rows; text and character offsets are compressed with zstd, the other small columns not at all.
//! **Features have exactly one page per row**, found through the offset index:
//!
//! ```text
//! page header (Thrift) | repetition levels | definition levels | zstd frame
//!                        '------------------- CRC32 -------------------'
//! zstd frame = plane 0 | plane 1 | plane 2 | plane 3      BYTE_STREAM_SPLIT of float32
//!              (byte 0 of every value, then byte 1, ...)  one block boundary at each plane's end
//! ```
//!
//! The leaf type is FLOAT whatever the teacher's type is, which every reader opens; `bf16` is
//! widened by 16 zero bits, `f16` bit by bit (a signalling NaN stays one), so that the teacher's
//! values come back exactly. The manifest's `features.dtype` says which it was.
//! Frames hold literals only, see `codec/lossless.rs`. A page is at most 2 GB of float32: 244,000 positions of
//! width 2048.
//!
//! # Invariants
//! Checked before a row is written and after it is read:
//! `len(features) == len(positions) == num_positions`, every list of it `width` long ·
//! `len(input_ids) == len(offsets) == num_tokens` · positions strictly ascending and below
//! `num_tokens`, at least one · **the token before each answer is among the positions**: it predicts
//! the answer's first token · image, turn and answer spans inside the sample, answers inside their
//! turn and not at token 0 · offsets ordered and inside `text` · ids, spans and sizes below 2^31 ·
//! both checksums · no key twice.
//!
//! # Manifest
//! `manifest.json` is the single commit point: **a file it does not name does not exist**. Fields:
//! `format`, `format_version`, `complete`, `fingerprint` (what decides the features: weights, config,
//! tokenizer, template, image processor, norm state, kept positions, dtype, width, codec, format;
//! never paths, hosts, times, order or batch size) and its digest, `features` (dtype, width, codec),
//! `about` and `dataset` (for people), `totals`, and for each file its name, length and BLAKE3; for
//! shards also counts, and the place and XXH3-64 of the tail after the last page. Its last member,
//! `digest`, is the BLAKE3 of all bytes before it, that is before `,\n  "digest"`.
//!
//! # Commits
//! A shard is committed when the manifest names it. Files are written aside, synced, renamed to
//! `<name>.next`; the manifest is replaced by rename; then the files get their names. Whoever opens
//! the cache next finishes what a killed process began; readers accept a committed file under
//! `<name>.next`, and a shard under its earlier name while a finishing run renames it.
//! Writers hold a lock on `.lock` (parts of one run share it and lock `.lock-I-of-N`), and change the
//! manifest under `.lock-manifest`. Readers take no lock and need no right to write.
//!
//! # Reading
//! [`CacheReader`] maps the shards and holds 60 bytes per sample, besides the page indexes of the
//! shards (about 60 more). A file that is truncated while it is mapped ends the process, as it does
//! for every memory map; everything else is an error that names file and row.
//!
//! # Compatibility
//! A reader of version 1 reads every cache of version 1, forever; `tests/fixtures/cache_v1` holds it
//! to that. Unknown manifest fields are ignored. A change of columns, bytes or invariants is a new version.

mod begin;
mod card;
mod codec;
mod commit;
mod error;
mod feature_page;
mod head;
mod index;
mod lossy;
mod manifest;
mod page;
mod reader;
mod salvage;
mod sample;
mod samples;
mod schema;
mod shard;
mod space;
mod table;
mod verify;
mod writer;

pub use codec::Codec;
pub use commit::Part;
pub use error::{CacheError, Result};
pub use head::{HeadFile, HeadTensor};
pub use lossy::LossyError;
pub use manifest::{FeatureFormat, FileEntry, Manifest, ShardEntry, Totals};
pub use reader::{CacheReader, ReaderOptions};
pub use salvage::{Salvaged, salvage};
pub use sample::{CachedImage, CachedTurn, FeatureBlock, FeatureDtype, QuarantinedRow, Row, SampleMeta};
pub use schema::{QUARANTINE_SCHEMA, SHARD_SCHEMA};
pub use space::free_bytes;
pub use verify::{VerifyReport, verify};
pub use writer::{CacheIdentity, CacheWriter, WriterOptions};

/// The version of everything this page specifies.
pub const FORMAT_VERSION: u32 = 1;

const MANIFEST: &str = "manifest.json";
const CARD: &str = "README.md";
const DATA: &str = "data";
const HEAD: &str = "head.safetensors";
const QUARANTINED: &str = "quarantine.parquet";
