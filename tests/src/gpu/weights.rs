//! Weights drawn at random, as fast as a file takes them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, json};
use shared::models::{config_of, expected_weights};

/// Random bytes to draw weights from, over and over.
const POOL_BYTES: usize = 32 << 20;

/// Writes model.safetensors for the config.json of `folder`; the number of parameters.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_weights(folder: &Path) -> Result<u64> {
    let shapes = expected_weights(&config_of(folder)?)?;
    let mut header = Map::new();
    let mut end = 0u64;
    let mut places = Vec::new();
    for (name, shape) in &shapes {
        let bytes = 2 * shape.iter().product::<usize>() as u64;
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        let is_norm = shape.len() == 1 && name.ends_with(".weight");
        places.push((end, bytes, is_norm));
        end += bytes;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = File::create(folder.join("model.safetensors"))?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
    file.write_all_at(&header, 8)?;
    let start = 8 + header.len() as u64;
    file.set_len(start + end)?;
    let pool = pool();
    let ones: Vec<u8> = [0x80, 0x3f].repeat(1 << 16);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let write = |worker: usize| {
            for &(at, bytes, is_norm) in places.iter().skip(worker).step_by(threads) {
                let source = if is_norm { &ones } else { &pool };
                let mut written = 0;
                while written < bytes {
                    let piece = (bytes - written).min(source.len() as u64);
                    file.write_all_at(&source[..piece as usize], start + at + written)?;
                    written += piece;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let workers: Vec<_> = (0..threads).map(|worker| scope.spawn(move || write(worker))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(written) => Ok(written?),
            Err(_) => bail!("a thread that writes weights failed"),
        })
    })?;
    Ok(end / 2)
}

/// Bytes of random numbers in bfloat16, half of them negative, of a size between 2^-6 and 2^-5: about what keeps the outputs of a
/// matrix of some thousand columns in range.
fn pool() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut words = Vec::with_capacity(POOL_BYTES);
    for _ in 0..POOL_BYTES / 8 {
        // xorshift64 (Marsaglia 2003), four numbers at a time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let numbers = (state & 0x807f_807f_807f_807f) | 0x3c80_3c80_3c80_3c80;
        words.extend_from_slice(&numbers.to_le_bytes());
    }
    words
}
