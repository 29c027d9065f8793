
use anyhow::{Context, Result, bail};
use shared::cache::{
    CacheIdentity, CacheReader, CacheWriter, Codec, FeatureBlock, Row, SampleMeta, WriterOptions,
};
use shared::ids::SampleKey;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, codec, sample_bytes, total_bytes, shard_bytes, rest @ ..] = args.as_slice() else {
        bail!("usage: resize_cache SOURCE OUT CODEC SAMPLE_BYTES TOTAL_BYTES SHARD_BYTES [WIDTH]")
    };
    let codec: Codec = codec.parse().map_err(anyhow::Error::msg)?;
    let reader = CacheReader::open(source)?;
    let width = rest.first().map_or(Ok(reader.width()), |width| width.parse())?;
    let shard_bytes = shard_bytes.parse()?;
    let (sample_bytes, total_bytes): (usize, usize) = (sample_bytes.parse()?, total_bytes.parse()?);
    let row_bytes = width * reader.dtype().size();
    let positions = (sample_bytes / row_bytes).max(1);
    let identity = CacheIdentity { codec, width, lossy_error: None, ..CacheIdentity::of(&reader)? };
    let options = WriterOptions { shard_bytes, ..WriterOptions::default() };
    let mut writer = CacheWriter::open(out, identity, options)?;
    let mut features = (0..reader.len()).cycle();
    let mut waiting = Vec::new();
    for number in 0..total_bytes.div_ceil(positions * row_bytes) {
        while waiting.len() < positions * row_bytes {
            let next = features.next().context("the source is empty")?;
            waiting.extend(reader.features(next)?.bytes);
        }
        let bytes = waiting.drain(..positions * row_bytes).collect();
        let features = FeatureBlock { dtype: reader.dtype(), width, bytes };
        writer.append(Row { meta: meta(number, positions as u32), features, image_files: Vec::new() })?;
    }
    writer.finish()?;
    Ok(())
}

/// A sample of `positions` tokens that all have features.
fn meta(number: usize, positions: u32) -> SampleMeta {
    SampleMeta {
        key: SampleKey::of(&format!("sample {number}"), &[]),
        row_id: None,
        source: "resized".to_owned(),
        row: number as u64,
        messages: "[]".to_owned(),
        text: "x".repeat(positions as usize),
        images: Vec::new(),
        input_ids: vec![1; positions as usize],
        offsets: (0..positions).map(|at| (at, at + 1)).collect(),
        turns: Vec::new(),
        positions: (0..positions).collect(),
    }
}
