//! What a user types. What it decides is in [`crate::config`].

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use shared::explained::Explained;

pub mod compare;
pub mod eval;
pub mod export;
pub mod report;
pub mod run;

/// The program's exit codes: 0 done, 1 failed, 2 used wrongly.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// What shells give for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The graph of a deep student is walked recursively by candle, so work runs on a thread with this much stack
/// (address space only: pages are taken when touched).
const STACK_BYTES: usize = 1 << 28;

/// Distils a vision-language student from a teacher's feature cache through a Recalibrator.
#[derive(Debug, Parser)]
#[command(name = "distill", version, about, propagate_version = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands, one file each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a student: all stages of the method, or some. The same command again resumes.
    Run(run::RunArgs),
    /// Generate answers, score them, write predictions and a table. Takes students and teachers alike.
    Eval(eval::EvalArgs),
    /// The student of a run as a checkout that transformers loads.
    Export(export::ExportArgs),
    /// Curves, tables and the leakage controls of runs as one self-contained HTML file.
    Report(report::ReportArgs),
    /// Run a grid of teachers, students, methods and seeds; mean, spread and gains with intervals. Resumes.
    Compare(compare::CompareArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
}

/// Options that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// A TOML file with the keys of this command; flags and --set override it. Of several, each overrides those before it.
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Override one key of the configuration, e.g. --set align.lr=5e-5. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print exactly one JSON object, the summary, on stdout; all else goes to stderr.
    #[arg(long)]
    pub json: bool,
}

/// An error in how the program was called: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// An error of a command that has printed its summary: with `--json` stdout has its one object already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AfterSummary(pub String);

impl Command {
    /// Whether stdout is to carry one JSON object.
    fn prints_json(&self) -> bool {
        match self {
            Self::Run(args) => args.common.json,
            Self::Eval(args) => args.common.json,
            Self::Export(args) => args.common.json,
            Self::Report(args) => args.common.json,
            Self::Compare(args) => args.common.json,
            Self::Completions { .. } => false,
        }
    }
}

/// Runs the program on these arguments (the first is its name) and says how it ended. With `--json` stdout gets exactly one
/// object in either case: the summary, or the error with its hints.
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // A closed pipe is no reason to fail after the fact.
            let _ = error.print();
            if error.use_stderr() && args.iter().any(|arg| arg == "--json") {
                let _ = print_summary(true, &Explained::of_usage(&error.render().to_string()), "");
            }
            return ExitCode::from(code);
        }
    };
    shared::memory::keep_freed();
    let prints_json = cli.command.prints_json();
    match on_big_stack(move || dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let explained = Explained::of(error.as_ref());
            shared::say!("error: {explained}");
            if prints_json && !error.is::<AfterSummary>() {
                // Where stdout is closed, stderr has said it.
                let _ = print_summary(true, &explained, "");
            }
            let usage = error.chain().any(|cause| cause.is::<UsageError>());
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "distill", &mut script);
            // A closed pipe is the reader's choice.
            let _ = std::io::stdout().write_all(&script);
            Ok(())
        }
    }
}

fn on_big_stack(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name("distill".into()).stack_size(STACK_BYTES);
    let handle = thread.spawn(work).context("cannot start a thread")?;
    match handle.join() {
        Ok(result) => result,
        // The panic's own message is already on stderr.
        Err(_) => {
            anyhow::bail!("stopped by an internal error\nhint: this is a bug of distill; please report it")
        }
    }
}

/// The first interrupt raises `flag`, for the command to end in its own time, and says what that means; the second ends the
/// process.
fn on_interrupt(flag: &'static AtomicBool, meaning: &'static str) {
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        shared::say!("{meaning}; interrupt again to stop at once");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        shared::say!("an interrupt will stop the command at once: {error}");
    }
}

/// Prints a command's result: one JSON object with `--json`, else the text.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_summary(json: bool, summary: &impl Serialize, text: &str) -> Result<()> {
    let line = if json { serde_json::to_string(summary)? } else { text.trim_end().to_owned() };
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}
