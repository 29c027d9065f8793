//! A small extraction to interrupt: many commits, each a moment to die at.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use shared::cache::{Manifest, verify};
use tempfile::TempDir;

use crate::programs::{Finished, finished, program};
use crate::rows::{Contents, contents, fixture, made_up};

/// A dataset of made-up rows and a teacher for it, in a folder of their own.
pub struct Job {
    /// Where the rows lie, and the caches.
    pub dir: TempDir,
    /// The teacher's checkout.
    pub teacher: PathBuf,
}

#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::new_without_default,
    reason = "serves tests alone, where a failed unwrap is a failed test"
)]
impl Job {
    /// A job of this many rows.
    pub fn new(rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        made_up(dir.path(), rows).unwrap();
        Self { dir, teacher: fixture("qwen2_vl") }
    }

    /// The folder of a cache.
    pub fn cache(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Small batches, each a shard of its own.
    pub fn args(&self, cache: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut args: Vec<String> =
            ["run", "--device", "cpu", "--max-tokens-per-batch", "60", "--shard-size", "1KiB"]
                .map(String::from)
                .into();
        args.extend([
            "--teacher".to_owned(),
            text(&self.teacher),
            "--out".to_owned(),
            text(&self.cache(cache)),
        ]);
        args.extend(["--data".to_owned(), text(&self.dir.path().join("rows.jsonl"))]);
        args
    }

    /// The program with these arguments and more, not yet started.
    pub fn command(&self, cache: &str, more: &[&str]) -> Command {
        let mut command = program("extract").unwrap();
        command.args(self.args(cache)).args(more);
        command
    }

    /// Runs to the end.
    pub fn run(&self, cache: &str, more: &[&str]) -> Finished {
        finished(self.command(cache, more).output().unwrap()).unwrap()
    }

    /// What an undisturbed run gives.
    pub fn expected(&self) -> Contents {
        let finished = self.run("undisturbed", &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        contents(&self.cache("undisturbed")).unwrap()
    }

    /// Starts a run and waits until its cache has at least `samples`, or the run is over.
    pub fn start_until(&self, cache: &str, samples: u64) -> Child {
        let mut child = self.command(cache, &[]).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && self.committed(cache) < samples {
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    /// Samples that a cache has, 0 before it is one.
    pub fn committed(&self, cache: &str) -> u64 {
        Manifest::load(&self.cache(cache)).map_or(0, |manifest| manifest.totals.samples)
    }

    /// Every committed sample is one of the expected, whole; returns how many there are.
    pub fn assert_valid(&self, cache: &str, expected: &Contents) -> u64 {
        if self.committed(cache) == 0 {
            return 0;
        }
        let contents = contents(&self.cache(cache)).unwrap();
        contents
            .iter()
            .for_each(|(key, row)| assert_eq!(&expected[key], row, "a committed sample is not whole"));
        contents.len() as u64
    }

    /// Runs what is left, in batches of another size, and finds exactly the expected samples in a sound cache.
    pub fn assert_completes(&self, cache: &str, expected: &Contents) {
        let finished = self.run(cache, &["--max-tokens-per-batch", "700", "--part", "0/1"]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(contents(&self.cache(cache)).unwrap() == *expected);
        let report = verify(self.cache(cache), |_, _| ()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(Manifest::load(&self.cache(cache)).unwrap().complete);
    }
}

/// Sends a signal by its name, such as `TERM`.
#[allow(clippy::unwrap_used, reason = "serves tests alone")]
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
