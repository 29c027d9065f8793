//! The columns of a shard, and the way from a sample to its cells and back.
//!
//! A *cell* is what one leaf column holds for one row: one value for a plain column, none or one
//! for an optional one, any number for a list. Levels, pages and checksums work on cells alone, so
//! that adding a column means one line in the schema and one in each direction here.

use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor};

use super::sample::{CachedImage, CachedTurn, QuarantinedRow, Row, SampleMeta};
use super::xxh3::Xxh3;
use crate::ids::{Digest, SampleKey};

/// The Parquet schema of a shard, as text.
pub const SHARD_SCHEMA: &str = include_str!("schema.parquet");

/// The Parquet schema of `quarantine.parquet`, as text.
pub const QUARANTINE_SCHEMA: &str = "message quarantined {
  REQUIRED BYTE_ARRAY source (STRING);
  REQUIRED INT64 row;
  OPTIONAL BYTE_ARRAY id (STRING);
  OPTIONAL BYTE_ARRAY key (STRING);
  REQUIRED BYTE_ARRAY reason (STRING);
}";

/// Leaf columns before the features.
pub(super) const NUM_CELLS: usize = 29;
/// The reader's index is built from the leaves `KEY..SAMPLE_XXH3`: `key`, `num_tokens`,
/// `num_positions`, `features_xxh3`.
pub(super) const KEY: usize = 0;
/// The checksum over a row's other cells.
pub(super) const SAMPLE_XXH3: usize = 4;
/// The first leaf of the embedded images, the largest of the small columns: read only when asked for.
pub(super) const IMAGE_FILES: usize = 27;
/// The features' own leaf.
pub(super) const FEATURES: usize = NUM_CELLS;

/// The parsed schema of a shard.
pub(super) static SHARD: LazyLock<SchemaDescPtr> = LazyLock::new(|| parse(SHARD_SCHEMA));
/// The parsed schema of the quarantine table.
pub(super) static QUARANTINE: LazyLock<SchemaDescPtr> = LazyLock::new(|| parse(QUARANTINE_SCHEMA));

#[allow(clippy::expect_used, reason = "the text is a constant of this file, parsed by a test")]
fn parse(text: &str) -> SchemaDescPtr {
    Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(text).expect("a constant schema"))))
}

/// What one leaf column holds for one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    I32(Vec<i32>),
    I64(Vec<i64>),
    Bytes(Vec<Vec<u8>>),
}

/// A row does not decode: the reason, for a message that names file and row.
pub(super) type Decoded<T> = Result<T, String>;

impl Cell {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    fn text<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Bytes(texts.into_iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    /// Values below 2^31: [`SampleMeta::check`] sees to it before a row is written.
    fn counts(values: impl IntoIterator<Item = u32>) -> Self {
        Self::I32(values.into_iter().map(|value| value as i32).collect())
    }

    fn big(value: u64) -> Self {
        Self::I64(vec![value as i64])
    }

    fn hash_into(&self, hasher: &mut Xxh3) {
        hasher.update(&(self.len() as u64).to_le_bytes());
        match self {
            Self::I32(values) => values.iter().for_each(|value| hasher.update(&value.to_le_bytes())),
            Self::I64(values) => values.iter().for_each(|value| hasher.update(&value.to_le_bytes())),
            Self::Bytes(values) => values.iter().for_each(|value| {
                hasher.update(&(value.len() as u64).to_le_bytes());
                hasher.update(value);
            }),
        }
    }
}

/// XXH3-64 over a row's cells in column order, without this checksum itself and without the
/// embedded images, whose digests are among the cells: each cell as its number of values (u64 LE)
/// and its values (LE; byte strings with their own u64 length first).
pub(super) fn sample_xxh3(cells: &[Cell]) -> u64 {
    let mut hasher = Xxh3::new();
    let hashed = cells[..IMAGE_FILES].iter().enumerate().filter(|(i, _)| *i != SAMPLE_XXH3);
    hashed.for_each(|(_, cell)| cell.hash_into(&mut hasher));
    hasher.digest()
}

/// The cells of a row in column order, without the features.
pub(super) fn row_to_cells(row: &Row, features_xxh3: u64) -> Vec<Cell> {
    let meta = &row.meta;
    let images = |field: fn(&CachedImage) -> u32| Cell::counts(meta.images.iter().map(field));
    let turns = |field: fn(&CachedTurn) -> u32| Cell::counts(meta.turns.iter().map(field));
    let digests: Vec<String> = meta.images.iter().map(|image| image.digest.to_string()).collect();
    let embedded = row.image_files.iter().zip(&digests);
    let mut cells = vec![
        Cell::text([meta.key.to_string().as_str()]),
        Cell::counts([meta.input_ids.len() as u32]),
        Cell::counts([meta.positions.len() as u32]),
        Cell::big(features_xxh3),
        Cell::big(0),
        Cell::text(meta.row_id.as_deref()),
        Cell::text([meta.source.as_str()]),
        Cell::big(meta.row),
        Cell::text([meta.messages.as_str()]),
        Cell::text([meta.text.as_str()]),
        Cell::text(digests.iter().map(String::as_str)),
        images(|image| image.width),
        images(|image| image.height),
        images(|image| image.token_start),
        images(|image| image.num_tokens),
        images(|image| image.grid[0]),
        images(|image| image.grid[1]),
        images(|image| image.grid[2]),
        Cell::counts(meta.input_ids.iter().copied()),
        Cell::counts(meta.offsets.iter().map(|span| span.0)),
        Cell::counts(meta.offsets.iter().map(|span| span.1)),
        Cell::text(meta.turns.iter().map(|turn| turn.role.as_str())),
        turns(|turn| turn.token_start),
        turns(|turn| turn.num_tokens),
        turns(|turn| turn.answer_start),
        turns(|turn| turn.num_answer_tokens),
        Cell::counts(meta.positions.iter().copied()),
        Cell::Bytes(row.image_files.clone()),
        Cell::text(embedded.map(|(_, digest)| digest.as_str())),
    ];
    cells[SAMPLE_XXH3] = Cell::big(sample_xxh3(&cells));
    cells
}

/// The sample of a row's first [`IMAGE_FILES`] cells; its checksum and its own invariants hold.
pub(super) fn cells_to_meta(cells: Vec<Cell>) -> Decoded<SampleMeta> {
    let actual = sample_xxh3(&cells);
    let mut take = Take(cells.into_iter());
    let key = take.parsed::<SampleKey>()?;
    let (num_tokens, num_positions) = (take.count()? as usize, take.count()? as usize);
    let (_, stored) = (take.big()?, take.big()?);
    if stored != actual {
        return Err(format!("sample checksum {actual:016x}, expected {stored:016x}"));
    }
    let meta = SampleMeta {
        key,
        row_id: take.texts()?.pop(),
        source: take.text()?,
        row: take.big()?,
        messages: take.text()?,
        text: take.text()?,
        images: take.images()?,
        input_ids: take.counts()?,
        offsets: std::iter::zip(take.counts()?, take.counts()?).collect(),
        turns: take.turns()?,
        positions: take.counts()?,
    };
    if (meta.input_ids.len(), meta.positions.len()) != (num_tokens, num_positions) {
        return Err(format!("{num_tokens} tokens and {num_positions} positions were announced, not found"));
    }
    meta.check().map_err(|error| error.to_string())?;
    Ok(meta)
}

/// The cells of one row of the quarantine table.
pub(super) fn quarantined_to_cells(row: &QuarantinedRow) -> Vec<Cell> {
    let key = row.key.map(|key| key.to_string());
    vec![
        Cell::text([row.source.as_str()]),
        Cell::big(row.row),
        Cell::text(row.id.as_deref()),
        Cell::text(key.as_deref()),
        Cell::text([row.reason.as_str()]),
    ]
}

/// The quarantined row of its cells.
pub(super) fn cells_to_quarantined(cells: Vec<Cell>) -> Decoded<QuarantinedRow> {
    let mut take = Take(cells.into_iter());
    Ok(QuarantinedRow {
        source: take.text()?,
        row: take.big()?,
        id: take.texts()?.pop(),
        key: take.texts()?.pop().map(|text| text.parse()).transpose().map_err(|_| "not a sample key")?,
        reason: take.text()?,
    })
}

/// Takes cells in column order as the types that were written.
pub(super) struct Take(pub(super) std::vec::IntoIter<Cell>);

impl Take {
    pub(super) fn bytes(&mut self) -> Decoded<Vec<Vec<u8>>> {
        match self.0.next() {
            Some(Cell::Bytes(values)) => Ok(values),
            other => Err(format!("expected a column of bytes, found {other:?}")),
        }
    }

    pub(super) fn texts(&mut self) -> Decoded<Vec<String>> {
        let parse = |bytes| String::from_utf8(bytes).map_err(|_| "text is not UTF-8".to_string());
        self.bytes()?.into_iter().map(parse).collect()
    }

    fn text(&mut self) -> Decoded<String> {
        self.texts()?.pop().ok_or_else(|| "a required text is absent".into())
    }

    pub(super) fn parsed<T: FromStr>(&mut self) -> Decoded<T> {
        let text = self.text()?;
        text.parse().map_err(|_| format!("`{text}` is not a content hash"))
    }

    fn counts(&mut self) -> Decoded<Vec<u32>> {
        match self.0.next() {
            Some(Cell::I32(values)) => {
                let unsigned = |value| u32::try_from(value).map_err(|_| format!("negative count {value}"));
                values.into_iter().map(unsigned).collect()
            }
            other => Err(format!("expected a column of INT32, found {other:?}")),
        }
    }

    pub(super) fn count(&mut self) -> Decoded<u32> {
        self.counts()?.pop().ok_or_else(|| "a required count is absent".into())
    }

    pub(super) fn big(&mut self) -> Decoded<u64> {
        match self.0.next() {
            Some(Cell::I64(values)) if values.len() == 1 => Ok(values[0] as u64),
            other => Err(format!("expected one INT64, found {other:?}")),
        }
    }

    fn images(&mut self) -> Decoded<Vec<CachedImage>> {
        let digests = self.texts()?;
        let columns = self.columns::<7>(digests.len())?;
        let image = |(i, digest): (usize, String)| {
            let [width, height, token_start, num_tokens, t, h, w] =
                columns.each_ref().map(|column| column[i]);
            let digest: Digest = digest.parse().map_err(|_| format!("`{digest}` is not a digest"))?;
            Ok(CachedImage { digest, width, height, token_start, num_tokens, grid: [t, h, w] })
        };
        digests.into_iter().enumerate().map(image).collect()
    }

    fn turns(&mut self) -> Decoded<Vec<CachedTurn>> {
        let roles = self.texts()?;
        let columns = self.columns::<4>(roles.len())?;
        let turn = |(i, role)| {
            let [token_start, num_tokens, answer_start, num_answer_tokens] =
                columns.each_ref().map(|column| column[i]);
            CachedTurn { role, token_start, num_tokens, answer_start, num_answer_tokens }
        };
        Ok(roles.into_iter().enumerate().map(turn).collect())
    }

    /// The next `N` integer columns of one list of structs, all of the same length.
    fn columns<const N: usize>(&mut self, len: usize) -> Decoded<[Vec<u32>; N]> {
        let mut columns = [const { Vec::new() }; N];
        for column in &mut columns {
            *column = self.counts()?;
            if column.len() != len {
                return Err(format!("a list of {len} has a field with {} values", column.len()));
            }
        }
        Ok(columns)
    }
}
