//! `toy`: makes the embedded toy from its manifest.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use datasets::{checkout, manifest::Manifest, splits};

/// Makes the embedded toy world, its tokenizers and its untrained models.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  toy world --out target/toy demo test\n  toy model student --out target/student"
)]
struct Cli {
    /// What the toy consists of.
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
        /// Which model of the manifest: teacher or student.
        name: String,
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
    let manifest = Manifest::read(&cli.manifest)?;
    match cli.command {
        Command::World { out, splits } => {
            let names = if splits.is_empty() { manifest.split.keys().cloned().collect() } else { splits };
            splits::write(&manifest, &names, &out)
        }
        Command::Model { name, out } => checkout::write(&manifest, &name, &out),
    }
}
