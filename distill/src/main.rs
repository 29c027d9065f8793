//! The command-line program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    distill::cli::main_with(std::env::args_os())
}
