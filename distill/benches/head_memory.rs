//! The memory that the head loss takes beyond its inputs, for a vocabulary of 152k: `cargo bench -p distill --bench
//! head_memory`. The definition over all logits at once would hold several matrices of `plain` bytes.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a benchmark that fails should stop, and prints its result

use std::io::{BufWriter, Write};

use candle_core::{DType, Device, Tensor, Var};
use distill::losses::{HEAD, HeadLossOptions, MappedHead, head_loss};
use shared::memory::peak_rss_bytes;

/// Scored tokens, width and vocabulary: a long answer, Qwen2-VL-7B's width and vocabulary.
const N: usize = 1024;
const WIDTH: usize = 3584;
const V: usize = 152_064;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("head.safetensors");
    write_head(&path);
    let x = Var::randn(0f32, 1.0, (N, WIDTH), &Device::Cpu).unwrap();
    let z = Tensor::randn(0f32, 1.0, (N, WIDTH), &Device::Cpu).unwrap();
    let targets: Vec<u32> = (0..N as u32).collect();
    let head = MappedHead::open(&path).unwrap();
    // The head's pages are touched first: what the loss takes comes on top of them.
    let bytes = std::fs::read(&path).unwrap().len();
    let warm = x.narrow(0, 0, 1).unwrap().detach();
    head_loss(&warm, &head, &targets[..1], None, &HeadLossOptions::default()).unwrap();
    reset_peak();
    let before = peak_rss_bytes().unwrap();
    let output = head_loss(&x, &head, &targets, Some(&z), &HeadLossOptions::default()).unwrap();
    let gradient = output.loss.backward().unwrap().remove(&x).unwrap();
    let extra = peak_rss_bytes().unwrap() - before;
    assert_eq!(gradient.dtype(), DType::F32);
    let mib = |bytes: usize| bytes >> 20;
    println!("{N} tokens, width {WIDTH}, vocabulary {V}, head of {} MiB in bfloat16", mib(bytes));
    println!("CE + KL and their gradient: {} MiB beyond the inputs", mib(extra as usize));
    println!("one matrix of logits in float32: {} MiB", mib(4 * N * V));
}

/// Lets the kernel count the peak anew (proc(5), `clear_refs`).
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A bfloat16 head of small numbers without a pattern that matters, written piece by piece.
fn write_head(path: &std::path::Path) {
    let num_bytes = 2 * V * WIDTH;
    let header = format!(
        "{{\"{HEAD}\":{{\"dtype\":\"BF16\",\"shape\":[{V},{WIDTH}],\"data_offsets\":[0,{num_bytes}]}}}}"
    );
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for row in 0..V {
        let value =
            |column: usize| half::bf16::from_f32((((row * 31 + column * 17) % 255) as f32 - 127.0) / 4096.0);
        let bytes: Vec<u8> = (0..WIDTH).flat_map(|column| value(column).to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    }
    file.flush().unwrap();
}
