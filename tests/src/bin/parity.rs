//! `parity REF [FAMILY...]`: every family's reference checkpoint against transformers' own results, a row each.
//!
//! REF is a folder of reference checkpoints (see `e2e::reference`). Without FAMILY, every folder of a supported
//! architecture is compared, and the goldens beside them (see `e2e::goldens`). Exit 0 when all pass, 1 when one fails, 2 when the command line is wrong.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use e2e::parity::{Comparison, TOLERANCE, compare};
use e2e::{generation, goldens};
use shared::models::config_of;

/// Compare models with transformers' results for reference checkpoints.
#[derive(Parser)]
struct Cli {
    /// A folder of reference checkpoints.
    reference: PathBuf,
    /// Which of its folders; all of a supported architecture if none is given.
    families: Vec<String>,
    /// What tests/fixtures/make_generation.py wrote of the same folder, to compare generation too.
    #[arg(long, value_name = "FILE.json")]
    generation: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", shared::explained::Explained::of(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Whether every family passes.
#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
fn run(cli: &Cli) -> Result<bool> {
    let families = match cli.families.as_slice() {
        [] => supported(&cli.reference)?,
        named => named.to_vec(),
    };
    if families.is_empty() {
        bail!("no reference checkpoint of a supported architecture in `{}`", cli.reference.display())
    }
    println!(
        "family        samples  ids    pixels  positions  namings  worst feature error (tolerance {TOLERANCE:.0e})"
    );
    let mut all_pass = true;
    for family in families {
        let result = compare(&cli.reference.join(&family)).with_context(|| format!("family `{family}`"))?;
        println!("{}", row(&family, &result));
        all_pass &= result.passes();
    }
    if cli.families.is_empty() {
        for row in goldens::rows(&cli.reference)? {
            let verdict = if row.passes() { "pass" } else { "FAIL" };
            println!("{:<48} {}/{}  {verdict}", row.name, row.equal, row.total);
            all_pass &= row.passes();
        }
    }
    if let Some(path) = &cli.generation {
        let golden = generation::golden(path)?;
        for (name, expected) in &golden.greedy {
            let equal = generation::equal_answers(&cli.reference.join(name), expected, golden.limit)?;
            let verdict = if equal == expected.len() { "pass" } else { "FAIL" };
            println!("{:<48} {equal}/{}  {verdict}", format!("generation {name}"), expected.len());
            all_pass &= equal == expected.len();
        }
    }
    Ok(all_pass)
}

fn row(family: &str, result: &Comparison) -> String {
    let total = result.num_samples;
    let of = |count: usize| format!("{count}/{total}");
    format!(
        "{family:<13} {total:<8} {:<6} {:<7} {:<10} {:<8} {:.1e} over {} checkpoint(s)  {}",
        of(result.ids_equal),
        of(result.pixels_equal),
        of(result.positions_equal),
        format!("{}/{}", result.namings.0, result.namings.1),
        result.worst_error,
        result.num_checkpoints,
        if result.passes() { "pass" } else { "FAIL" },
    )
}

/// The folders with references whose architecture is in the registry, in name order.
fn supported(reference: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(reference).with_context(|| format!("cannot read `{}`", reference.display()))?;
    let mut families = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("ref/samples.json").exists() && config_of(&path).is_ok() {
            families.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    families.sort();
    Ok(families)
}
