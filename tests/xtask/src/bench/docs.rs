//! `docs/performance.md` and its charts, made from the figures of one run.

use super::chart::{self, Curves};
use super::growth;
use super::parts::Part;
use super::rows::{self, MEAN_RATIO, MOST_RATIO};
use super::table::{Line, Table};
use super::xen;
use crate::failure::Result;
use crate::paths;
use crate::tools::say;
use std::fmt::Write as _;

/// Where the charts are, from the page.
const RATIOS: &str = "performance-ratios.svg";

const HEAD: &str = "# Performance

What operations cost, in instructions and next to Xen, with the same guest binaries in the same machine.

This page is made by `cargo xtask bench --against-xen --write-docs`; do not edit it. Figures are instructions that QEMU counts
(`-icount shift=0`), the guest's side and the loop around the operation included. They are a property of the code: the same on
every host and from run to run, for one compiler. They say nothing of caches and of what a processor does at once.

";

/// Writes them all.
pub(crate) fn write(table: &Table) -> Result<()> {
    let docs = paths::root().join("docs");
    paths::write(&docs.join(RATIOS), chart::bars(table))?;
    let mut text = HEAD.to_owned();
    text.push_str(&summary(table));
    for part in [Part::Alone, Part::Pair, Part::Linux, Part::Io] {
        text.push_str(&section(table, part));
    }
    let (ours, xen) = (growth::axes(table, 0), growth::axes(table, 1));
    if !ours.is_empty() {
        text.push_str(GROWTH);
    }
    for (axis, curves) in &ours {
        let file = format!("performance-{axis}.svg");
        let title = format!("Instructions by number of {axis}");
        let curves: Vec<_> = curves.iter().map(|(name, points)| (name.clone(), points.clone())).collect();
        paths::write(&docs.join(&file), Curves { title: &title, axis, curves }.svg())?;
        let _ = writeln!(text, "![{title}]({file})\n");
        text.push_str(&growing(axis, &ours[axis], xen.get(axis)));
    }
    text.push_str(END);
    paths::write(&docs.join("performance.md"), text)?;
    say("docs/performance.md and its charts are written");
    Ok(())
}

fn summary(table: &Table) -> String {
    let mut out = format!("Compared with: Debian's Xen {} with its default settings.\n\n", xen::version());
    out.push_str("| aim | measured | |\n|---|---|---|\n");
    if let Some((mean, count)) = table.mean(&Part::OPERATIONS) {
        let verdict = word(Some(mean <= MEAN_RATIO));
        let _ = writeln!(
            out,
            "| geometric mean of the ratios at most {MEAN_RATIO} | {mean:.3} ({count} rows) | {verdict} |"
        );
    }
    let over: Vec<&Line> = table
        .lines
        .iter()
        .filter(|line| Part::OPERATIONS.contains(&line.part) && rows::counts(&line.name))
        .filter(|line| line.ratio().is_some_and(|ratio| ratio > MOST_RATIO))
        .collect();
    let _ = writeln!(
        out,
        "| no row above {MOST_RATIO} | {} rows above | {} |",
        over.len(),
        word(Some(over.is_empty()))
    );
    for line in &table.lines {
        let aim = rows::known(&line.name).map_or(0, |row| row.aim);
        if let Some(cost) = line.instructions[0].filter(|_| aim > 0) {
            let _ = writeln!(out, "| {} at most {aim} | {cost} | {} |", line.name, word(Some(cost <= aim)));
        }
    }
    let _ = writeln!(out, "\n![Cost to that on Xen]({RATIOS})\n");
    out
}

fn word(hit: Option<bool>) -> &'static str {
    match hit {
        Some(true) => "hit",
        Some(false) => "**miss**",
        None => "",
    }
}

fn section(table: &Table, part: Part) -> String {
    let lines: Vec<&Line> = table.of(part).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut out = format!("## {}\n\n{}\n\n", part.heading(), part.words());
    let wall = lines.iter().any(|line| line.wall[0].is_some());
    out.push_str("| operation | what | ours | Xen | ratio |");
    out.push_str(if wall {
        " by the wall's clock | |\n|---|---|--:|--:|--:|--:|---|\n"
    } else {
        " |\n|---|---|--:|--:|--:|---|\n"
    });
    let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let ratio = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    for line in lines {
        let what = rows::known(&line.name).map_or("", |row| row.what);
        let [ours, xen] = line.instructions.map(number);
        let _ = write!(out, "| {} | {what} | {ours} | {xen} | {} |", line.name, ratio(line.ratio()));
        if wall {
            let _ = write!(out, " {} |", ratio(line.wall_ratio()));
        }
        let _ = writeln!(out, " {} |", word(line.hit()));
    }
    out.push('\n');
    out
}

const GROWTH: &str = "## Growth

The same operations while a machine grows: domains that are there and do nothing, each with a vcpu and an event channel; event
channels of the domain that measures; frames of its grant table; pcpus. Scales are logarithmic; flat lines are what is wanted.

";

/// What is not flat on an axis, and how Xen does there.
fn growing(axis: &str, ours: &growth::Axis, xen: Option<&growth::Axis>) -> String {
    let steep = growth::growing(ours);
    if steep.is_empty() {
        return format!("All lines are flat by number of {axis}.\n\n");
    }
    let mut out = String::new();
    for (name, first, last) in steep {
        let _ = write!(out, "Not flat by number of {axis}: {name}, from {first} to {last} instructions");
        let there = xen
            .and_then(|axis| axis.get(&name))
            .and_then(|points| Some((points.first()?.1, points.last()?.1)));
        if let Some((first, last)) = there {
            let _ = write!(out, " (Xen: from {first} to {last})");
        }
        let why = growth::reason(axis, &name);
        let _ = writeln!(out, "{}{why}.\n", if why.is_empty() { "" } else { ": " });
    }
    out
}

const END: &str = "## Where the instructions of a row go

`cargo xtask bench --breakdown ROW` runs the row under QEMU's tracing and tells its instructions by function of the hypervisor,
sorted into the way in, the dispatcher, the handler, the frame that is laid for the guest, and the way out. The `budget` stage of
`cargo xtask test` fails when a row costs more than `tests/budget.json` allows; see [testing](testing.md).
";
