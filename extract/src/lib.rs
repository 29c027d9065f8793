//! `extract`: runs a teacher VLM once over a dataset and writes its token-aligned last-layer features to a cache.
//!
//! [`cli`] is the command line as typed, [`config`] the run as decided, [`run`] the run itself with its threads.
//! The binary is [`main_with`] and nothing else, so that tests can call it in their own process.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use serde::Serialize;
use shared::explained::Explained;

pub mod answers;
pub mod batch;
pub mod budget;
pub mod cli;
pub mod collect;
pub mod conditions;
pub mod config;
pub mod copy;
pub mod embedded;
pub mod error;
pub mod estimate;
pub mod feed;
pub mod forward;
mod gguf;
pub mod head;
pub mod inspect;
pub mod page;
pub mod paint;
pub mod pair;
pub mod part;
pub mod passes;
pub mod plan;
pub mod progress;
pub mod repair;
pub mod run;
pub mod sample;
pub mod scope;
pub mod sink;
pub mod stop;
pub mod stream;
pub mod summary;
pub mod tally;
pub mod units;
pub mod verify;

use cli::{Cli, Command, CommonArgs};
use config::RunConfig;
use error::Usage;

/// Exit code of a command that cannot be right.
const USAGE: u8 = 2;

/// The program: `args` begin with its own name. Exit code 0 done, 1 failed, 2 wrong usage.
pub fn main_with<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to be done if even the terminal is gone. `--help` comes this way too, with exit code 0.
            let _ = error.print();
            if error.use_stderr() && args.iter().any(|arg| arg == "--json") {
                print_line(json(&Explained::of_usage(&error.render().to_string())));
            }
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match cli.command {
        Command::Run(args) => {
            report(&args.common, RunConfig::decide(&args).and_then(|config| run::run(&config)))
        }
        Command::Answers(args) => report(&args.common, answers::answers(&args)),
        Command::Verify(args) => report(&args.common, verify::verify(&args)),
        Command::Estimate(args) => report(&args.common, estimate::estimate(&args)),
        Command::Repair(args) => {
            let common = args.run.common.clone();
            report(&common, repair::repair(*args))
        }
        Command::Merge(args) => report(&args.common, copy::merge(&args)),
        Command::Subset(args) => report(&args.common, copy::subset(&args)),
        Command::Inspect(args) => report(&args.common, inspect::inspect(&args)),
        Command::Pair(args) => report(&args.common, pair::pair(&args)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "extract", &mut script);
            print(&script);
            ExitCode::SUCCESS
        }
    }
}

/// Prints a result or an error. With `--json`, standard output gets exactly one object in either case.
fn report<T: Serialize + Display>(common: &CommonArgs, outcome: Result<T>) -> ExitCode {
    let (text, code) = match outcome {
        Ok(value) if common.json => (json(&value), 0),
        Ok(value) => (value.to_string(), 0),
        Err(error) => {
            let explained = Explained::of(error.as_ref());
            shared::say!("error: {explained}");
            let code = if error.is::<Usage>() { USAGE } else { 1 };
            (if common.json { json(&explained) } else { String::new() }, code)
        }
    };
    if !text.is_empty() {
        print_line(text);
    }
    ExitCode::from(code)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn print_line(text: String) {
    print(format!("{text}\n").as_bytes());
}

/// A closed pipe is the reader's choice, not an error of the run.
fn print(bytes: &[u8]) {
    let mut output = std::io::stdout();
    let _ = output.write_all(bytes).and_then(|()| output.flush());
}
