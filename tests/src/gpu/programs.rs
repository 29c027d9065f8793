//! The programs on teachers and students of real shapes: extraction, extraction under a memory limit, a training step.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use shared::models::config_of;

use super::shape::{Cut, Size, make_data};
use super::work::{Costs, Work, lengths};
use super::{Ceilings, Row};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Place {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The folder of `extract` and `distill`.
    pub programs: PathBuf,
    /// The fixtures, whose tokenizers, templates and images are taken.
    pub fixtures: PathBuf,
    /// For what is made here.
    pub folder: PathBuf,
}

impl Place {
    fn is_cpu(&self) -> bool {
        self.device == "cpu"
    }

    /// Bytes of a weight on the device.
    fn number_bytes(&self) -> f64 {
        if self.is_cpu() { 4.0 } else { 2.0 }
    }

    /// The folder of images.
    fn images(&self) -> PathBuf {
        self.fixtures.join("images")
    }

    fn checkout_folder(&self, size: Size, cut: Cut) -> PathBuf {
        let kind = if cut == Cut::default() { "model" } else { "cut" };
        self.folder.join(format!("{kind}-{}", size.name()))
    }

    /// Deletes the weights of a checkout; its configuration stays.
    ///
    /// # Errors
    /// When they are not there.
    pub fn forget(&self, size: Size, cut: Cut) -> Result<()> {
        let folder = self.checkout_folder(size, cut);
        std::fs::remove_file(folder.join("done"))?;
        Ok(std::fs::remove_file(folder.join(WEIGHTS))?)
    }

    /// The checkout of a size, made if it is not there; one that is cut is another than the whole.
    fn checkout(&self, size: Size, cut: Cut) -> Result<PathBuf> {
        let folder = self.checkout_folder(size, cut);
        if !folder.join("done").exists() {
            let before = Instant::now();
            let parameters = size.make_checkout(&self.fixtures, &folder, cut)?;
            std::fs::write(folder.join("done"), "")?;
            let seconds = before.elapsed().as_secs_f64();
            eprintln!(
                "{} of {:.2} G random weights made in {seconds:.1} s",
                size.name(),
                parameters as f64 / 1e9
            );
        }
        Ok(folder)
    }

    /// Runs a program with `--json`; what it printed, its seconds, and the most memory of the GPU while it ran, in MiB.
    fn run(&self, name: &str, args: &[&str]) -> Result<(Value, Option<u64>)> {
        let (most, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let output = std::thread::scope(|scope| {
            if !self.is_cpu() {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        most.fetch_max(gpu_memory_mib().unwrap_or(0), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(200));
                    }
                });
            }
            let mut command = Command::new(self.programs.join(name));
            command.args(args).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
            let output = command.output().with_context(|| format!("cannot start `{name}`"));
            ended.store(true, Ordering::Relaxed);
            output
        })?;
        if !output.status.success() {
            bail!("`{name} {}` failed", args.join(" "))
        }
        let printed =
            serde_json::from_slice(&output.stdout).with_context(|| format!("what `{name}` printed"))?;
        Ok((printed, Some(most.into_inner()).filter(|most| *most > 0)))
    }

    /// `extract run` of a teacher over rows; a fresh cache each time.
    fn extract(&self, teacher: &Path, rows: usize, name: &str, more: &[&str]) -> Result<Extracted> {
        let (data, images) = (make_data(&self.folder, rows)?, self.images());
        let cache = self.folder.join(name);
        if cache.exists() {
            std::fs::remove_dir_all(&cache)?;
        }
        let path = |path: &Path| path.display().to_string();
        let (teacher_arg, data_arg, images_arg, out) =
            (path(teacher), path(&data), path(&images), path(&cache));
        let mut args =
            vec!["run", "--teacher", &teacher_arg, "--data", &data_arg, "--image-root", &images_arg];
        args.extend(["--out", &out, "--device", &self.device, "--max-tokens-per-batch", BATCH]);
        args.extend(more);
        let (summary, memory) = self.run("extract", &args)?;
        let samples = lengths(teacher, &data, &images, 8)?;
        let tokens = summary["tokens"].as_u64().context("a summary without tokens")? as usize;
        let batches = (tokens as f64 / BATCH_TOKENS).ceil();
        let work = Costs::of(teacher)?.work(&samples, batches, self.number_bytes());
        Ok(Extracted { summary, memory, work, tokens, cache })
    }
}

/// The file that holds a checkout's weights.
const WEIGHTS: &str = "model.safetensors";

/// Tokens of a forward pass.
const BATCH: &str = "8192";
const BATCH_TOKENS: f64 = 8192.0;

/// What a run of `extract` gave.
struct Extracted {
    summary: Value,
    memory: Option<u64>,
    work: Work,
    tokens: usize,
    cache: PathBuf,
}

impl Extracted {
    fn number(&self, key: &str) -> Result<f64> {
        self.summary[key].as_f64().with_context(|| format!("no `{key}` in the summary"))
    }

    /// Seconds since the first batch.
    fn seconds(&self) -> Result<f64> {
        Ok(self.tokens as f64 / self.number("tokens_per_second")?)
    }
}

fn gpu_memory_mib() -> Option<u64> {
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next()?.trim().parse().ok()
}

fn memory_remark(memory: Option<u64>) -> String {
    memory.map_or_else(String::new, |mib| format!("; at most {:.1} GiB on the GPU", mib as f64 / 1024.0))
}

/// Extraction with all weights in memory.
///
/// # Errors
/// When a program fails.
pub fn extraction(place: &Place, size: Size, rows: usize) -> Result<Vec<Row>> {
    let ceilings = Ceilings::load(&place.folder)?;
    let teacher = place.checkout(size, Cut::default())?;
    let run = place.extract(&teacher, rows, &format!("cache-{}", size.name()), &[])?;
    let seconds = run.seconds()?;
    let (whole, name) = (run.number("seconds")?, format!("extract {}", size.name()));
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let speed = run.number("tokens_per_second")?;
    Ok(vec![
        Row::new(
            format!("{name}: speed"),
            format!("{speed:.0} tokens/s"),
            format!("{rows} images and questions, {} tokens{}", run.tokens, memory_remark(run.memory)),
        ),
        Row::new(
            format!("{name}: MFU"),
            percent(run.work.utilisation(&ceilings, seconds)),
            format!(
                "since the first batch; {} of the whole command, loading included; target 55 %",
                percent(run.work.utilisation(&ceilings, whole))
            ),
        ),
        Row::new(format!("{name}: roofline"), "", run.work.roofline(&ceilings, seconds)),
        Row::new(
            format!("{name}: device stood still"),
            percent(run.number("idle_share")?),
            format!(
                "features waited for the writer {} (target 3 %), the teacher for images {}",
                percent(run.number("writer_share")?),
                percent(run.number("wait_share")?)
            ),
        ),
    ])
}

/// A teacher under a memory limit.
#[derive(Clone, Copy, Debug)]
pub struct Streaming {
    /// Its size.
    pub size: Size,
    /// How much of its decoder there is.
    pub cut: Cut,
    /// Images and questions.
    pub rows: usize,
    /// Of the weights, the limit.
    pub share: f64,
}

/// Extraction with a share of the weights in memory.
///
/// # Errors
/// When a program fails.
pub fn streaming(place: &Place, streaming: Streaming) -> Result<Vec<Row>> {
    let Streaming { size, cut, rows, share } = streaming;
    let ceilings = Ceilings::load(&place.folder)?;
    let teacher = place.checkout(size, cut)?;
    let weights = std::fs::metadata(teacher.join(WEIGHTS))?.len() as f64;
    let blocks = match config_of(&teacher)?.config.decoder().num_layers {
        all if all == size.blocks() => String::new(),
        left => format!("{left} of {} blocks; ", size.blocks()),
    };
    // Stored in bfloat16, computed in the device's type; a CPU's limit also holds the program.
    let (factor, base) = if place.is_cpu() { (2.0, 192e6) } else { (1.0, 0.0) };
    let limit = format!("{}", (weights * factor * share + base) as u64);
    let run = place.extract(&teacher, rows, "cache-streamed", &["--memory-limit", &limit])?;
    let seconds = run.seconds()?;
    let streaming = &run.summary["streaming"];
    let passes = streaming["passes"].as_f64().context("a run without passes")?;
    let read = passes * weights * factor;
    Ok(vec![
        Row::new(
            format!("streamed {}: speed", size.name()),
            format!("{:.0} tokens/s", run.number("tokens_per_second")?),
            format!(
                "{blocks}limit {:.2} GB of {:.2} GB, {passes} passes of up to {} tokens; weights at {:.1} GB/s{}",
                limit.parse::<f64>()? / 1e9,
                weights * factor / 1e9,
                streaming["pass_tokens"],
                read / seconds / 1e9,
                memory_remark(run.memory)
            ),
        ),
        Row::new(
            format!("streamed {}: compute-bound rate", size.name()),
            format!("{:.1} %", 100.0 * run.work.utilisation(&ceilings, seconds)),
            format!("of it; target 70 %. {}", run.work.roofline(&ceilings, seconds)),
        ),
    ])
}

/// Steps of stage distill with a student of `size`, from a cache that a teacher of the same size makes.
///
/// # Errors
/// When a program fails.
pub fn step(place: &Place, size: Size, samples: usize, steps: usize) -> Result<Vec<Row>> {
    let ceilings = Ceilings::load(&place.folder)?;
    let (student, out) = (place.checkout(size, Cut::default())?, place.folder.join("run"));
    let more = ["--embed-images", "--features-all-for", "1000000"];
    let run = place.extract(&student, samples, "cache-step", &more)?;
    let path = |path: &Path| path.display().to_string();
    let (cache, student, out_arg) = (path(&run.cache), path(&student), path(&out));
    let mut args = vec!["run", "--cache", &cache, "--student", &student, "--out", &out_arg];
    args.extend(["--device", &place.device, "--stages", "align,distill"]);
    let keys: Vec<String> = ["align", "distill"]
        .iter()
        .flat_map(|stage| {
            ["warmup=0.0".to_owned(), format!("batch_size={samples}")].map(|key| format!("{stage}.{key}"))
        })
        .chain(["align.steps=1".to_owned(), format!("distill.steps={steps}")])
        .chain(["eval.holdout=0", "checkpoint.every=1000"].map(str::to_owned))
        .collect();
    args.extend(keys.iter().flat_map(|key| ["--set", key]));
    let (summary, memory) = place.run("distill", &args)?;
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl"))?;
    let mut speeds = Vec::new();
    for line in metrics.lines() {
        let row: Value = serde_json::from_str(line)?;
        if row["stage"] == "distill" {
            speeds.extend(row["tokens_per_second"].as_f64());
        }
    }
    speeds.sort_by(f64::total_cmp);
    let speed = *speeds.get(speeds.len() / 2).context("no step of stage distill in metrics.jsonl")?;
    let seconds = run.tokens as f64 / speed;
    // Backward is twice the forward pass; the vision encoder is frozen, and its features go forward alone.
    let work = Work { operations: 3.0 * run.work.operations, bytes: run.work.bytes };
    let host = summary["peak_rss_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 30);
    Ok(vec![
        Row::new(
            format!("stage distill, student {}: step", size.name()),
            format!("{seconds:.3} s"),
            format!("{samples} samples, {} tokens, {speed:.0} tokens/s, median of {steps}", run.tokens),
        ),
        Row::new(
            format!("stage distill, student {}: memory", size.name()),
            format!("{:.2} GiB", memory.map_or(host, |mib| mib as f64 / 1024.0)),
            match memory {
                Some(_) => format!("on the GPU at most; {host:.2} GiB of the host's"),
                None => "of the host's at most".to_owned(),
            },
        ),
        Row::new(
            format!("stage distill, student {}: roofline", size.name()),
            "",
            format!("3 x forward: {}", work.roofline(&ceilings, seconds)),
        ),
    ])
}
