//! The binary: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    extract::main_with(std::env::args_os())
}
