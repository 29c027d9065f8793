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
//! | `messages` | the conversation as canonical JSON; an answer with `skip_loss` keeps no features of its own |
//! | `text` | the rendered prompt, each image placeholder expanded to its tokens |
//! | `images` | BLAKE3 digest of the encoded bytes, size in pixels, placeholder tokens, grid (temporal, height, width) |
//! | `input_ids` | the teacher's token ids |
//! | `offsets` | for each token the half-open range of characters (Unicode scalar values) of `text` it came from |
//! | `turns` | role, tokens of the turn, tokens of its answer (0 and 0 if it has none) |
//! | `positions` | the tokens that have features, strictly ascending |
//! | `image_files` | the encoded images, if they were embedded, with their digests as paths |
//! | `features` | one list per position of `width` floats: the token's last-layer vector after the final norm |
//!
//! Within a row group the features come first, which are written as they are made, then the small columns; where a column lies is
//! for the footer to say, and earlier writers of this version put the features last.
//!
//! Every page is a version 2 data page with a CRC32 of its content in its header; there are no
//! dictionaries and no statistics; offset indexes are present. A small column's page holds at most
//! 32 rows; text and character offsets are compressed with zstd, the other small columns not at all.
//! **Features have exactly one page per row**, found through the offset index:
//!
//! ```text
//! page header (Thrift) | repetition levels | definition levels | values
//!                        '----------------- CRC32 -----------------'
//! values = a zstd frame of plane 0 | plane 1 | plane 2 | plane 3      codecs `lossless` and `int8`: BYTE_STREAM_SPLIT
//!          (byte 0 of every value, then byte 1, ...)                  of float32, one block boundary at each plane's end
//!        | float32 after float32, little-endian                       codec `none`: PLAIN, UNCOMPRESSED
//! ```
//!
//! The leaf type is FLOAT whatever the teacher's type is, which every reader opens; `bf16` is
//! widened by 16 zero bits, `f16` bit by bit (a signalling NaN stays one), so that the teacher's
//! values come back exactly. The manifest's `features.dtype` says which it was.
//! Frames hold literals only, see `codec/lossless.rs`. A page is at most 2 GB of float32: 244,000 positions of
//! width 2048.
//!
//! # Codecs
//! The manifest's `features.codec` names one for the whole cache. Whichever it is, the column holds ordinary floats.
//!
//! | codec | values | size, of the teacher's bf16 |
//! |---|---|---|
//! | `lossless` | the teacher's, bit for bit | about 1.45 times smaller |
//! | `int8` | each the nearest whole number of steps, 127 on each side of zero; a step is a power of two, the smallest for which the largest of 64 neighbouring channels of one token is at most 127.5 steps. NaN and infinities as they are | 1.85 times smaller at width 128 (a trained toy teacher, 43 positions a page), 2.00 at width 1024 (a model trained for minutes, samples of 500 KB) |
//! | `none` | the teacher's, bit for bit | twice as large |
//!
//! An `int8` value has seven significant bits, so it is exact in every dtype, and `features_xxh3` covers the rounded value.
//! Its error is at most half a step, 1/127 of the largest of its 64 channels. What that costs is measured when rows are
//! extracted: at four positions of a sample, up to 2,048 of the cache, the head's probabilities for the teacher's vector are
//! compared with those for the rounded one, and the manifest's `lossy_error` keeps positions, mean and largest KL divergence in
//! nats and the share of equal first choices. Rows copied from another cache keep the error measured there, and rows that a
//! repair gives back are not measured twice.
//!
//! # Invariants
//! Checked before a row is written and after it is read:
//! `len(features) == len(positions) == num_positions`, every list of it `width` long ·
//! `len(input_ids) == len(offsets) == num_tokens` · positions strictly ascending and below
//! `num_tokens`, at least one · **the token before each answer is among the positions**: it predicts
//! the answer's first token · image, turn and answer spans inside the sample, answers inside their
//! turn and not at token 0 · offsets ordered and inside `text` · ids, spans and sizes below 2^31 ·
//! embedded images, if any, one for each image and with its digest · both checksums · no key twice.
//!
//! # Manifest
//! `manifest.json` is the single commit point: **a file it does not name does not exist**. Fields:
//! `format`, `format_version`, `complete`, `fingerprint` (what decides the features: weights, config,
//! tokenizer, template, image processor, norm state, kept positions, dtype, width, codec, format;
//! never paths, hosts, times, order or batch size) and its digest, `features` (dtype, width, codec),
//! `lossy_error` (of a lossy codec), `parts_done` (parts that have finished while others have not), `owed` (what a repair took
//! out and no run has given back: keys, the number of samples whose keys are unknown, whether the quarantine table was lost, and
//! whether the cache was unfinished before), `selected` (the conditions by which all samples were chosen from another cache),
//! `about` and `dataset`
//! (for people), `totals`, and for each file its name, length and BLAKE3; for
//! shards also counts, and the place and XXH3-64 of the tail after the last page. Its last member,
//! `digest`, is the BLAKE3 of all bytes before it, that is before `,\n  "digest"`. It also tells which bit has flipped, where
//! only one has: [`mend_manifest`] tries them. A manifest that is lost is made again by [`restore_manifest`], from the shards and from what
//! the caller says of the teacher, if the cache's own words confirm it.
//!
//! # Commits
//! A shard is committed when the manifest names it. Files are written aside, synced, renamed to
//! `<name>.next`; the manifest is replaced by rename; then the files get their names. Whoever opens
//! the cache next finishes what a killed process began; readers accept a committed file under
//! `<name>.next`, and a shard under its earlier name while a finishing run renames it.
//! Writers hold a lock on `.lock` (parts of one run share it and lock `.lock-I-of-N`), and change the
//! manifest under `.lock-manifest`. Readers take no lock and need no right to write.
//!
//! A sample belongs to part `k mod N`, where `k` is the first 8 bytes of its key, little-endian: parts never meet, whatever was
//! read before and however many there were then. A writer that is told to keep room on the disk commits and stops before there
//! is less. A Parquet file in `data/` that the manifest does not name is refused, and so is a directory that holds files but no
//! manifest: no file is written over that is not the cache's own. A writer whose cache was removed or exchanged meanwhile commits
//! nothing into what took its place. [`salvage()`] writes a damaged shard again
//! with the rows that are sound, under its own name and in one commit; the manifest owes the others until a run has extracted
//! them again, and the cache is not complete before.
//!
//! # Reading
//! [`CacheReader`] maps the shards and holds 52 bytes per sample, besides the page indexes of the
//! small columns (about 25 more). A file that is truncated while it is mapped ends the process, as it does
//! for every memory map; with [`Access::Plain`] it reads page by page instead. Everything else is an error that names file and row.
//! [`CacheReader::will_need`] has samples fetched ahead, [`CacheReader::block_shuffled`] is an order of the samples that is
//! random and yet reads the disk in long stretches. No number in a file decides how much memory is
//! taken before the bytes are there to justify it: besides the index, a damaged or hostile cache takes no more than 64 MiB and
//! the features of one sample, which a page bounds by 2 GB.
//!
//! # Compatibility
//! A reader of version 1 reads every cache of version 1, forever; `tests/fixtures/cache_v1` holds it
//! to that. Unknown manifest fields are ignored. A change of columns, bytes or invariants is a new version.

mod begin;
mod buffers;
mod card;
mod codec;
mod commit;
mod error;
mod feature_page;
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod identity;
mod index;
mod lossy;
mod manifest;
mod mend;
mod order;
mod packed;
mod page;
mod parquet_file;
mod reader;
mod restore;
mod salvage;
mod sample;
mod samples;
mod schema;
mod shard;
mod shard_file;
mod source;
mod space;
mod table;
mod thrift;
mod verify;
mod writer;
mod xxh3;

pub use codec::Codec;
pub use commit::Part;
pub use error::{CacheError, Result};
pub use feature_page::most_positions;
pub use head::{HeadFile, HeadTensor};
pub use identity::{CacheIdentity, WriterOptions};
pub use lossy::LossyError;
pub use manifest::{FeatureFormat, FileEntry, Manifest, Owed, ShardEntry, Totals};
pub use mend::mend_manifest;
pub use reader::{CacheReader, ReaderOptions};
pub use restore::restore_manifest;
pub use salvage::{Salvaged, salvage};
pub use sample::{CachedImage, CachedTurn, FeatureBlock, FeatureDtype, QuarantinedRow, Row, SampleMeta};
pub use schema::{QUARANTINE_SCHEMA, SHARD_SCHEMA};
pub use source::Access;
pub use space::free_bytes;
pub use verify::{VerifyReport, verify};
pub use writer::CacheWriter;

/// The version of everything this page specifies.
pub const FORMAT_VERSION: u32 = 1;

const MANIFEST: &str = "manifest.json";
const CARD: &str = "README.md";
const DATA: &str = "data";
const HEAD: &str = "head.safetensors";
const QUARANTINED: &str = "quarantine.parquet";
