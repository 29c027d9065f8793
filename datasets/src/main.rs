//! `toy`: makes a world, the embedded toy or the replica's, from its manifest.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use datasets::benchmark::{self, Format};
use datasets::deal::{self, Share};
use datasets::{checkout, manifest::Manifest, splits};

/// Makes a world, its tokenizers and its untrained models: the embedded toy, or another that a manifest describes.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  toy world --out target/toy demo test\n  toy model student --out target/student\n  \
                  toy --manifest datasets/replica/world.toml benchmark --split test --format mmmu --out test.parquet"
)]
struct Cli {
    /// What the world consists of.
    #[arg(long, global = true, value_name = "FILE", default_value = "datasets/toy/toy.toml")]
    manifest: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes splits of the world: a folder of PNG files and a LLaVA JSON each
    World {
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Which splits; all of the manifest without one.
        splits: Vec<String>,
    },
    /// Writes an untrained checkpoint with its tokenizer
    Model {
        /// Which model of the manifest, such as teacher or student.
        name: String,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Writes a split as a multiple-choice benchmark
    Benchmark {
        /// The split whose questions it asks.
        #[arg(long, default_value = "test")]
        split: String,
        /// Whose published format to write.
        #[arg(long)]
        format: Format,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Deals the rows of another dataset, a LLaVA JSON, into train.json and test.json, no picture in both
    Deal {
        /// The dataset.
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
        #[command(flatten)]
        share: Share,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let manifest = || Manifest::read(&cli.manifest);
    match cli.command {
        Command::World { out, splits } => {
            let manifest = manifest()?;
            let names = if splits.is_empty() { manifest.split.keys().cloned().collect() } else { splits };
            splits::write(&manifest, &names, &out)
        }
        Command::Model { name, out } => checkout::write(&manifest()?, &name, &out),
        Command::Deal { data, share, out } => deal::write(&deal::deal(&data, share)?, &out),
        Command::Benchmark { split, format, out } => benchmark::write(&manifest()?, &split, format, &out),
    }
}
