//! The workspace's programs as a user runs them: built, found, started, killed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// A finished program.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

/// A command that starts the program `name` of this workspace, in the profile that the calling test was built in.
///
/// The program is brought up to date first, once per process: cargo builds the programs of other packages for no test,
/// and a test of a stale program proves nothing.
///
/// # Errors
/// When the program cannot be built or is not where it should be.
pub fn program(name: &str) -> Result<Command> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = match built {
        Ok(folder) => folder,
        Err(error) => bail!("{error}"),
    };
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    ensure!(path.exists(), "there is no program `{}`", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Runs the program to its end.
///
/// # Errors
/// When it cannot be started, or prints what is not UTF-8.
pub fn run<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Result<Finished> {
    let output = program(name)?.args(args).output().with_context(|| format!("cannot start `{name}`"))?;
    finished(output)
}

/// Takes what a program left.
///
/// # Errors
/// When it printed what is not UTF-8.
pub fn finished(output: Output) -> Result<Finished> {
    let stdout = String::from_utf8(output.stdout)?;
    Ok(Finished { code: output.status.code(), stdout, stderr: String::from_utf8(output.stderr)? })
}

/// Builds all programs, with the features that dependencies have under `cargo test` (`--tests`, or all of them were compiled
/// again), and returns their folder: `target/<profile>`, above the `deps` that this test lies in.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("the test lies outside a target folder")?.to_owned();
    let target = folder.parent().context("the test lies outside a target folder")?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--offline",
            "--workspace",
            "--bins",
            "--tests",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target);
    // What cargo tells a test of its package: a build script that watches these (ring's does) would run again, and with it
    // everything above it be compiled again, once from here and once from the next `cargo test`.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder)
}
