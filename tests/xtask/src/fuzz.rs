//! `cargo xtask fuzz`: libFuzzer around the targets of `tests/fuzz`.
//!
//! The driver is built with the stable compiler's coverage counters (LLVM's `sancov` pass); libFuzzer itself comes from
//! crates.io as C++ source. New inputs are collected below `target/fuzz/corpus`; those of the tree come first.

use crate::failure::{Failure, Result};
use crate::paths;
use crate::setup::{self, CXX};
use crate::tools::{self, say};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target triple is named, so that build scripts and macros are built without counters.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Counters at every edge, comparisons told to the fuzzer.
const COVERAGE: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// Longest input.
const MAX_LEN: u32 = 2048;
/// Inputs that one target may have in the tree.
const MOST_KEPT: usize = 150;
/// Longest input that is kept.
const MAX_KEPT_LEN: u32 = 512;
/// Seconds after which an input counts as one that never ends; a busy host may not run the fuzzer for some of them.
const PATIENCE: u32 = 120;

/// Feed the fuzz targets; see docs/verification.md.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// A target, `all`, or `list`
    name: String,
    /// How long in all: 30s, 5m, 1h; `all` gives each target an equal share
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = seconds)]
    seconds: u64,
    /// Afterwards keep what reaches new code in tests/fuzz/corpus
    #[arg(long)]
    keep: bool,
    /// Feed this one input instead: what an earlier run found
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    replay: Option<PathBuf>,
}

fn seconds(text: &str) -> std::result::Result<u64, String> {
    let bad = || format!("{text}: a number with s, m or h");
    let unit = text.chars().last().ok_or_else(bad)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

impl FuzzArgs {
    /// Does it; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        let known = targets();
        if self.name == "list" {
            known.iter().for_each(|name| println!("{name}"));
            return Ok(0);
        }
        let chosen: Vec<&String> =
            known.iter().filter(|name| self.name == "all" || self.name == **name).collect();
        if chosen.is_empty() {
            return Err(Failure::new(format!("{} is no fuzz target; try `fuzz list`", self.name)));
        }
        if self.replay.is_some() && chosen.len() > 1 {
            return Err(Failure::new(String::from("an input is replayed to one target: name it")));
        }
        let driver = build()?;
        if let (Some(input), [name]) = (&self.replay, &chosen[..]) {
            return replay(&driver, name, input);
        }
        let seconds = share(self.seconds, chosen.len());
        let mut worst = 0;
        for name in chosen {
            worst = worst.max(self.feed(&driver, name, seconds)?);
        }
        Ok(worst)
    }

    fn feed(&self, driver: &Path, name: &str, seconds: u64) -> Result<u8> {
        let places = Places::of(name)?;
        say(&format!("fuzz {name} for {seconds} s"));
        let mut fuzzer = driver_for(driver, name);
        fuzzer.arg(&places.work).arg(&places.tree);
        fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MAX_LEN}"));
        fuzzer
            .arg("-print_final_stats=1")
            .arg(format!("-timeout={PATIENCE}"))
            .arg("-rss_limit_mb=2048")
            .arg("-verbosity=0");
        fuzzer.arg(format!("-artifact_prefix={}/", places.found.display()));
        let output = fuzzer.output().map_err(|e| Failure::at(driver, &e))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let runs = text.lines().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
        println!(
            "fuzz {name}: {} executions, {}",
            runs.unwrap_or("?").trim(),
            verdict(output.status.success())
        );
        if !output.status.success() {
            print!("{}", found(name, &text));
            return Ok(1);
        }
        if self.keep {
            keep(driver, name, &places)?;
        }
        Ok(0)
    }
}

/// The seconds of each of some targets; never 0, which would mean without an end.
fn share(seconds: u64, targets: usize) -> u64 {
    (seconds / (targets as u64).max(1)).max(1)
}

/// What a run that ended with a find says of it: the panic or the fuzzer's error, and the way back to it.
fn found(name: &str, text: &str) -> String {
    let begins = |line: &&str| line.starts_with("thread ") || line.starts_with("==");
    let skip = text.lines().position(|line| begins(&line)).unwrap_or(0);
    let mut report = String::new();
    for line in text.lines().skip(skip).filter(|line| !line.starts_with("stat::")) {
        report.push_str(line);
        report.push('\n');
    }
    if let Some((_, input)) = text.lines().find_map(|line| line.split_once("Test unit written to ")) {
        report.push_str(&format!("again: cargo xtask fuzz {name} --replay {input}\n"));
    }
    report
}

/// Feeds one input; 1 where the target still fails on it.
fn replay(driver: &Path, name: &str, input: &Path) -> Result<u8> {
    if !input.is_file() {
        return Err(Failure::new(format!("{}: no such file", input.display())));
    }
    let good = driver_for(driver, name).arg(input).status().map_err(|e| Failure::at(driver, &e))?.success();
    println!("fuzz {name}: {}", verdict(good));
    Ok(u8::from(!good))
}

fn verdict(good: bool) -> &'static str {
    if good { "nothing found" } else { "FOUND" }
}

/// The targets: each has a folder of inputs, as the replay in `tests/fuzz` checks.
fn targets() -> Vec<String> {
    let corpus = paths::root().join("tests/fuzz/corpus");
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    paths::list(&corpus, Path::is_dir).into_iter().filter_map(name).collect()
}

/// Folders of one target: inputs of the tree, inputs of this machine, and what made it fail.
struct Places {
    tree: PathBuf,
    work: PathBuf,
    found: PathBuf,
}

impl Places {
    fn of(name: &str) -> Result<Self> {
        let base = paths::target().join("fuzz");
        let places = Self {
            tree: paths::root().join("tests/fuzz/corpus").join(name),
            work: base.join("corpus").join(name),
            found: base.join("found").join(name),
        };
        for dir in [&places.tree, &places.work, &places.found] {
            paths::make_dir(dir)?;
        }
        Ok(places)
    }
}

fn driver_for(driver: &Path, name: &str) -> Command {
    let mut command = Command::new(driver);
    command.env("FUZZ_TARGET", name);
    command
}

/// Merges what reaches new code into the tree: short and long inputs alike, as many as there is room for.
fn keep(driver: &Path, name: &str, places: &Places) -> Result<()> {
    let merged = paths::target().join("fuzz/merged").join(name);
    let _none_before = std::fs::remove_dir_all(&merged);
    paths::make_dir(&merged)?;
    let mut merge = driver_for(driver, name);
    merge.args(["-merge=1", &format!("-max_len={MAX_KEPT_LEN}")]);
    merge.arg(&merged).arg(&places.tree).arg(&places.work);
    tools::quietly("the merge of inputs", &mut merge)?;
    let kept = |path: &Path| path.file_name().map(|file| places.tree.join(file));
    let mut inputs: Vec<(u64, PathBuf)> = paths::list(&merged, Path::is_file)
        .into_iter()
        .filter(|path| kept(path).is_some_and(|place| !place.exists()))
        .filter_map(|path| Some((path.metadata().ok()?.len(), path)))
        .collect();
    inputs.sort();
    let room = MOST_KEPT.saturating_sub(paths::list(&places.tree, Path::is_file).len());
    for (_, path) in evenly(&inputs, room) {
        if let Some(place) = kept(path) {
            paths::copy(path, &place)?;
        }
    }
    Ok(())
}

/// At most so many of a list, from all parts of it.
fn evenly<T>(list: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = list.len().min(most);
    (0..count).filter_map(move |n| list.get(n * list.len() / count))
}

/// Builds the driver; where it is.
fn build() -> Result<PathBuf> {
    setup::need(&[CXX])?;
    let dir = paths::target().join("fuzz");
    let mut cargo = tools::cargo();
    cargo.args(["build", "--release", "--quiet", "--target", TRIPLE]);
    cargo.arg("--manifest-path").arg(paths::root().join("tests/fuzz/driver/Cargo.toml"));
    cargo.arg("--target-dir").arg(&dir);
    cargo.env("RUSTFLAGS", COVERAGE.join(" "));
    tools::must("the fuzz driver's build", &mut cargo)?;
    Ok(dir.join(TRIPLE).join("release/fuzz"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_find_tells_the_way_back() {
        let text = "NEW_FUNC\nthread 'x' panicked at a.rs:1:1:\nstat::peak: 1\nartifact; Test unit written to /f/crash-1\n";
        let report = super::found("cfg", text);
        assert!(report.starts_with("thread 'x'") && !report.contains("stat::"), "{report}");
        assert!(report.ends_with("again: cargo xtask fuzz cfg --replay /f/crash-1\n"), "{report}");
    }

    #[test]
    fn a_choice_comes_from_all_parts() {
        let list: Vec<u32> = (0..10).collect();
        assert_eq!(super::evenly(&list, 3).copied().collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(super::evenly(&list, 20).count(), 10);
        assert_eq!(super::evenly(&list, 0).count() + super::evenly(&[0; 0], 3).count(), 0);
    }

    #[test]
    fn the_time_is_shared_and_never_endless() {
        assert_eq!(super::share(3600, 10), 360);
        assert_eq!((super::share(3, 10), super::share(0, 1)), (1, 1));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(super::seconds("90s"), Ok(90));
        assert_eq!(super::seconds("2h"), Ok(7200));
        assert!(super::seconds("5").is_err() && super::seconds("xm").is_err() && super::seconds("").is_err());
    }
}
