//! `gpu_bench PART`: one part of `make gpu-bench`. Rows of the table go to standard output, fields between tabs.
//!
//! Called by the name `extract` or `distill` it is that program: most of each is what all three have in common, so that one
//! file of three names takes a third of the room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use e2e::gpu::programs::{self, Place, Streaming};
use e2e::gpu::shape::{Cut, NoRoom, Size};
use e2e::gpu::{Row, ceilings, parity};

/// Measure on a GPU, or rehearse on a CPU.
#[derive(Parser)]
struct Cli {
    /// `cpu` or `cuda:N`.
    #[arg(long, global = true, default_value = "cuda:0")]
    device: String,
    /// The folder of `extract` and `distill`.
    #[arg(long, global = true, default_value = "target/cuda")]
    programs: PathBuf,
    /// The fixtures.
    #[arg(long, global = true, default_value = "tests/fixtures")]
    fixtures: PathBuf,
    /// For what is made on the way; parts find there what earlier ones left.
    #[arg(long, global = true, default_value = "target/gpu-bench")]
    folder: PathBuf,
    #[command(subcommand)]
    part: Part,
}

/// The exit code of a part that cannot be here, for bench.sh.
const SKIPPED: u8 = 3;

#[derive(Subcommand)]
enum Part {
    /// Whether the device is there; prints nothing.
    Probe,
    /// What the device can do at most.
    Ceilings,
    /// The families' features beside transformers'.
    Parity,
    /// `extract run`.
    Extraction {
        #[arg(long)]
        size: Size,
        #[arg(long)]
        rows: usize,
        #[command(flatten)]
        after: After,
    },
    /// `extract run --memory-limit`.
    Streaming {
        #[arg(long)]
        size: Size,
        #[arg(long)]
        rows: usize,
        /// Of the weights in memory.
        #[arg(long, default_value_t = 0.35)]
        share: f64,
        /// At most so many of the decoder's blocks.
        #[arg(long)]
        blocks: Option<usize>,
        /// Bytes that the weights may take; of more, the blocks that fit.
        #[arg(long)]
        room: Option<u64>,
        #[command(flatten)]
        after: After,
    },
    /// `distill run`.
    Step {
        #[arg(long)]
        size: Size,
        #[arg(long)]
        samples: usize,
        #[arg(long, default_value_t = 4)]
        steps: usize,
    },
}

/// What comes after a part.
#[derive(Args)]
struct After {
    /// Delete the teacher's weights, which no later part reads.
    #[arg(long)]
    forget: bool,
}

impl After {
    fn run(&self, place: &Place, size: Size, cut: Cut) -> Result<()> {
        if self.forget { place.forget(size, cut) } else { Ok(()) }
    }
}

fn main() -> ExitCode {
    let called = std::env::args_os().next();
    match called.as_deref().map(Path::new).and_then(Path::file_stem).and_then(|name| name.to_str()) {
        Some("extract") => return extract::main_with(std::env::args_os()),
        Some("distill") => return distill::cli::main_with(std::env::args_os()),
        _ => {}
    }
    match run(Cli::parse()) {
        Ok(rows) => {
            rows.iter().for_each(print);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", shared::explained::Explained::of(error.as_ref()));
            if error.is::<NoRoom>() { ExitCode::from(SKIPPED) } else { ExitCode::FAILURE }
        }
    }
}

/// A row, at once: a part that is stopped keeps those that it has.
fn print(row: &Row) {
    let mut out = std::io::stdout().lock();
    // Nothing is left to be done if nobody reads.
    let _ = writeln!(out, "{}", row.line()).and_then(|()| out.flush());
}

/// One part; its rows, but for those that were printed as they came.
fn run(cli: Cli) -> Result<Vec<Row>> {
    std::fs::create_dir_all(&cli.folder)?;
    let place = Place {
        device: cli.device.clone(),
        programs: cli.programs,
        fixtures: cli.fixtures,
        folder: cli.folder,
    };
    let device = || shared::models::device(&cli.device);
    match cli.part {
        Part::Probe => device().map(|_| Vec::new()).map_err(anyhow::Error::from),
        Part::Ceilings => ceilings(&device()?, &place.folder),
        Part::Parity => {
            let device = device()?;
            parity::CHECKPOINTS.iter().for_each(|name| print(&parity::row(&device, &place.fixtures, name)));
            Ok(Vec::new())
        }
        Part::Extraction { size, rows, after } => {
            let rows = programs::extraction(&place, size, rows)?;
            after.run(&place, size, Cut::default())?;
            Ok(rows)
        }
        Part::Streaming { size, rows, share, blocks, room, after } => {
            let cut = Cut { blocks, bytes: room };
            let rows = programs::streaming(&place, Streaming { size, cut, rows, share })?;
            after.run(&place, size, cut)?;
            Ok(rows)
        }
        Part::Step { size, samples, steps } => programs::step(&place, size, samples, steps),
    }
}
