//! `cargo xtask test`: collects the cases of every stage, runs the chosen ones, and sums up.
//!
//! A case is a name, which begins with its stage, and a function. The last line of the output is exactly
//! `N passed, N failed, N skipped`; the reason of each skip and what failed printed stand above it.

use crate::failure::Result;
use crate::images;
use crate::qemu::{Accel, Machine};
use crate::tools::say;
use crate::{
    bench, beside, distribution, domu_cases, grub, guests, host, lint, linux, linux_devices, linux_vcpus,
    live_linux, machines, networks, on_xen, paths, stretch, systems, throughput, tooling,
};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// MiB that a complete run from a new checkout writes, with some to spare (`CARGO_INCREMENTAL=0`).
const ROOM_MIB: u64 = 4096;

/// Runs the tests: host, lints, and guests in QEMU.
///
/// The last line is `N passed, N failed, N skipped`; the status is 0 if none failed. Names begin with their stage:
/// host, lint, qemu, attack, linux, demo, budget.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Only say which tests there are
    #[arg(long)]
    list: bool,
    /// Only tests whose name contains this (a `*` stands for anything)
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Run every machine with this number of pcpus
    #[arg(long, value_name = "N")]
    smp: Option<u32>,
    /// Also what takes long: more random cases, more rounds
    #[arg(long)]
    long: bool,
    /// How the processor is emulated
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// Boot the guests on another hypervisor, for comparison
    #[arg(long, value_name = "FILE")]
    hv: Option<PathBuf>,
}

/// What a case may ask about this run.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Number of pcpus that the caller wants.
    pub(crate) smp: Option<u32>,
    /// Whether time does not matter.
    pub(crate) long: bool,
    /// How the processor is emulated.
    pub(crate) accel: Accel,
    /// The hypervisor under test, if it is not ours.
    pub(crate) other: Option<PathBuf>,
}

impl Context {
    /// A machine with a kernel as dom0, as this run wants it.
    pub(crate) fn machine(&self, dom0: &Path, args: &str, smp: u32, memory: u32) -> Machine {
        let hypervisor = self.other.clone().unwrap_or_else(images::hypervisor);
        let mut machine = Machine::new(&hypervisor, dom0, args);
        (machine.smp, machine.memory, machine.accel) = (self.smp.unwrap_or(smp), memory, self.accel);
        machine
    }
}

/// What became of a case.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It held; a few words on what was seen.
    Passed(String),
    /// It could not be tried here, and why.
    Skipped(String),
    /// It did not hold: in a line, and with all that was printed.
    Failed {
        /// In one line.
        why: String,
        /// What the machine or the command printed.
        output: String,
    },
}

impl Outcome {
    /// A failure without output.
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), output: String::new() }
    }
}

/// What has to be there before a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing but the sources.
    Sources,
    /// The bare-metal images.
    Images,
}

/// What a case does when it is run.
pub(crate) type Action = Box<dyn Fn(&Context) -> Result<Outcome>>;

/// One test.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) needs: Needs,
    pub(crate) action: Action,
}

impl Case {
    /// A test of a stage.
    pub(crate) fn new(
        name: impl Into<String>,
        needs: Needs,
        action: impl Fn(&Context) -> Result<Outcome> + 'static,
    ) -> Self {
        Self { name: name.into(), needs, action: Box::new(action) }
    }
}

fn all(long: bool) -> Vec<Case> {
    let mut cases = lint::cases();
    cases.extend(host::cases());
    cases.extend(machines::cases());
    cases.extend(guests::cases());
    cases.extend(linux::cases());
    cases.extend(linux_devices::cases());
    cases.extend(linux_vcpus::cases());
    cases.extend(systems::cases());
    cases.extend(beside::cases());
    cases.extend(tooling::cases());
    cases.extend(networks::cases());
    cases.extend(throughput::cases());
    cases.extend(bench::budget::cases());
    cases.extend(stretch::cases());
    cases.extend(domu_cases::cases());
    cases.extend(grub::cases());
    cases.extend(live_linux::cases());
    if long {
        cases.extend(distribution::cases());
        cases.extend(on_xen::cases());
    }
    cases
}

/// The names of all cases.
pub(crate) fn names() -> Vec<String> {
    all(true).into_iter().map(|case| case.name).collect()
}

/// Whether a name contains a pattern, in which `*` stands for anything.
fn matches(name: &str, pattern: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = rest.get(at + piece.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<(String, String, String)>,
    skipped: Vec<(String, String)>,
}

impl TestArgs {
    /// Runs the chosen tests; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        let mut cases = all(self.long);
        cases.retain(|case| self.only.is_empty() || self.only.iter().any(|only| matches(&case.name, only)));
        if self.list {
            for case in &cases {
                println!("{}", case.name);
            }
            return Ok(0);
        }
        if cases.is_empty() {
            return Err(crate::failure::Failure::missing(
                "no test has such a name: see `cargo xtask test --list`",
            ));
        }
        let context =
            Context { smp: self.smp, long: self.long, accel: self.accel.settle(), other: self.hv.clone() };
        warn_of_a_full_disk();
        let tally = run_cases(&cases, &context);
        Ok(sum_up(&tally))
    }
}

/// A full disk shows as compilers and machines that fail in many ways.
fn warn_of_a_full_disk() {
    if let Some(free) = paths::free_mib().filter(|free| *free < ROOM_MIB) {
        let root = paths::root();
        say(&format!(
            "{free} MiB are free for {}; all tests of a new checkout write {ROOM_MIB} MiB",
            root.display()
        ));
    }
}

fn run_cases(cases: &[Case], context: &Context) -> Tally {
    let mut tally = Tally::default();
    let images = prepare(cases, context);
    for (number, case) in cases.iter().enumerate() {
        let start = Instant::now();
        let outcome = match (&images, case.needs) {
            (Err(failure), Needs::Images) => Outcome::failed(format!("the images do not build: {failure}")),
            _ => (case.action)(context).unwrap_or_else(|failure| Outcome::failed(failure.to_string())),
        };
        let head = format!("[{}/{}] {}", number + 1, cases.len(), case.name);
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Outcome::Passed(text) => {
                println!("{head} ... ok, {seconds:.1} s {text}");
                tally.passed += 1;
            }
            Outcome::Skipped(why) => {
                println!("{head} ... skipped: {why}");
                tally.skipped.push((case.name.clone(), why));
            }
            Outcome::Failed { why, output } => {
                println!("{head} ... FAILED, {seconds:.1} s: {why}");
                tally.failed.push((case.name.clone(), why, output));
            }
        }
    }
    tally
}

/// Builds the images once if some case needs them.
fn prepare(cases: &[Case], context: &Context) -> Result<()> {
    if cases.iter().all(|case| case.needs == Needs::Sources) {
        return Ok(());
    }
    crate::setup::need(&[crate::setup::QEMU])?;
    let built = images::build_for(context.other.as_deref());
    if let Err(failure) = &built {
        say(&failure.to_string());
    }
    built
}

/// Prints what a person needs to know, ending with the line that scripts read.
fn sum_up(tally: &Tally) -> u8 {
    for (name, why, output) in &tally.failed {
        println!("\n==== {name}: {why}");
        if !output.is_empty() {
            println!("{}\n==== end of {name}", output.trim_end());
        }
    }
    if !tally.failed.is_empty() || !tally.skipped.is_empty() {
        println!();
    }
    for (name, why) in &tally.skipped {
        println!("skipped {name}: {why}");
    }
    for (name, why, _) in &tally.failed {
        println!("failed {name}: {why}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed.len(), tally.skipped.len());
    u8::from(!tally.failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_anywhere_in_a_name() {
        assert!(matches("qemu-null_call", "qemu"));
        assert!(matches("qemu-null_call", "null"));
        assert!(matches("qemu-null_call", "qemu*call"));
        assert!(!matches("qemu-null_call", "call*qemu"));
        assert!(!matches("host-core", "qemu"));
    }
}
