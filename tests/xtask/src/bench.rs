//! `cargo xtask bench` and the `budget` stage: what the hot paths cost in instructions, guest side included.
//!
//! QEMU's `-icount shift=0` makes the time stamp counter count instructions, so a figure is a property of the code and
//! the same on every host. The budget in `tests/budget.json` is what each figure may be, with a margin.

use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::qemu::{Accel, Echo, Machine};
use crate::suite::{Case, Context, Needs, Outcome};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
/// The test guest that measures.
const GUEST: &str = "bench";
/// What precedes a figure on its console.
const MARK: &str = "BENCH ";

/// Counts the instructions of the hot paths.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// How the figures are shown
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The hypervisor to measure instead of target/images/xen-like-hv
    #[arg(long, value_name = "FILE")]
    hv: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// A figure: its name and the instructions of one operation.
type Figure = (String, u64);

impl BenchArgs {
    /// Measures and prints; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        images::build_for(self.hv.as_deref())?;
        let figures = measure(self.hv.as_deref())?;
        if self.output == Format::Json {
            let map: Map<String, Value> =
                figures.into_iter().map(|(name, cost)| (name, json!(cost))).collect();
            println!("{}", Value::Object(map));
            return Ok(0);
        }
        let budget = Budget::read()?;
        println!("{:<40} {:>12} {:>8}", "operation", "instructions", "budget");
        for (name, cost) in figures {
            let allowed = budget.of(&name).map_or("-".into(), |allowed| allowed.to_string());
            println!("{name:<40} {cost:>12} {allowed:>8}");
        }
        Ok(0)
    }
}

/// Boots the measuring guest on a machine that counts instructions.
fn measure(hypervisor: Option<&Path>) -> Result<Vec<Figure>> {
    let hypervisor = hypervisor.map_or_else(images::hypervisor, Path::to_path_buf);
    let mut machine = Machine::new(&hypervisor, &images::guest(GUEST), "events=2l");
    machine.accel = Accel::Tcg;
    machine.memory = 256;
    machine.extra = ["-icount", "shift=0,sleep=off"].map(str::to_owned).to_vec();
    let ended = machine.run(LIMIT, Echo::Off)?;
    if !ended.console.contains("VERDICT: SUCCESS") {
        return Err(Failure::new(format!("the measurement failed\n{}", ended.console)));
    }
    Ok(figures(&ended.console))
}

fn figures(console: &str) -> Vec<Figure> {
    let read = |line: &str| {
        // The name, how often, instructions, nanoseconds.
        let mut words = line.split_once(MARK)?.1.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.nth(1)?.parse().ok()?))
    };
    console.lines().filter_map(read).collect()
}

/// What the figures may be.
struct Budget {
    margin_percent: u64,
    instructions: Map<String, Value>,
}

impl Budget {
    fn read() -> Result<Self> {
        let path = paths::root().join("tests/budget.json");
        let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, &error))?;
        let wrong = |what: &str| Failure::new(format!("{}: {what}", path.display()));
        let value: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
        let margin_percent = value["margin_percent"].as_u64().ok_or_else(|| wrong("no margin_percent"))?;
        let instructions = value["instructions"].as_object().ok_or_else(|| wrong("no instructions"))?.clone();
        Ok(Self { margin_percent, instructions })
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.instructions.get(name)?.as_u64()
    }
}

/// One case for each line of the budget.
pub(crate) fn cases() -> Vec<Case> {
    let names: Vec<String> =
        Budget::read().map(|budget| budget.instructions.keys().cloned().collect()).unwrap_or_default();
    names
        .into_iter()
        .map(|name| Case::new(format!("budget-{name}"), Needs::Images, move |context| check(&name, context)))
        .collect()
}

fn check(name: &str, context: &Context) -> Result<Outcome> {
    // One machine measures for all cases of a run.
    static MEASURED: OnceLock<std::result::Result<Vec<Figure>, String>> = OnceLock::new();
    if context.other.is_some() {
        return Ok(Outcome::Skipped("the budget is for our hypervisor".into()));
    }
    let measured = MEASURED.get_or_init(|| measure(None).map_err(|failure| failure.to_string()));
    let figures = match measured {
        Ok(figures) => figures,
        Err(output) => {
            return Ok(Outcome::Failed { why: "the measurement failed".into(), output: output.clone() });
        }
    };
    let budget = Budget::read()?;
    let Some(allowed) = budget.of(name) else { return Ok(Outcome::failed("the budget has gone")) };
    let Some((_, cost)) = figures.iter().find(|(figure, _)| figure == name) else {
        return Ok(Outcome::failed("the guest did not measure this"));
    };
    let most = allowed + allowed * budget.margin_percent / 100;
    if *cost <= most {
        return Ok(Outcome::Passed(format!("({cost} instructions, budget {allowed})")));
    }
    Ok(Outcome::failed(format!("{cost} instructions, budget {allowed} and {}%", budget.margin_percent)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_are_read_from_the_console() {
        let console = "x\nBENCH null_hypercall 32 78 80\r\nd0: BENCH other 4 5 6\nBENCH broken\n";
        assert_eq!(super::figures(console), vec![("null_hypercall".to_owned(), 78), ("other".to_owned(), 5)]);
    }

    #[test]
    fn the_budget_can_be_read() {
        assert!(super::Budget::read().is_ok_and(|budget| budget.of("null_hypercall").is_some()));
    }
}
