//! The same operations in a machine that grows: more domains, pcpus, event channels, grant frames.
//!
//! Rows are called `OPERATION@AXIS=N`. Their lines in a chart are to be flat; what is not is told in a note.

use super::figures::{self, Clock, Figure, Side};
use super::table::Table;
use crate::failure::Result;
use crate::images;
use crate::tools::say;
use std::collections::BTreeMap;
use std::time::Duration;

const GUEST: &str = "bench_growth";
const LIMIT: Duration = Duration::from_secs(420);
/// A cost at the end of an axis that is beyond this many times that at its start is growth.
const FLAT: f64 = 1.25;

/// A machine to boot: what grows, pcpus, memory, dom0's memory.
const MACHINES: [(&str, u32, u32, u32); 6] = [
    // A thousand domains need more of the heap than a machine of 1 GiB has for records.
    ("domains", 1, 2048, 256),
    ("channels", 1, 512, 256),
    ("frames", 1, 768, 384),
    ("pcpus", 1, 512, 256),
    ("pcpus", 2, 512, 256),
    ("pcpus", 4, 512, 256),
];

/// Measures on one hypervisor.
pub(crate) fn measure(side: &Side) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for (number, (axis, smp, memory, dom0)) in MACHINES.iter().enumerate() {
        say(&format!("  [{}/{}] {axis}, {smp} pcpus", number + 1, MACHINES.len()));
        let words = format!("events=2l axis={axis} have={smp}");
        let mut machine = side.machine(Clock::Instructions, &images::guest(GUEST), &words);
        (machine.smp, machine.memory) = (*smp, *memory);
        machine.hypervisor_args.push_str(&format!(" dom0_mem={dom0}M dom0_max_vcpus=1"));
        all.extend(figures::boot(&machine, LIMIT, "VERDICT: SUCCESS")?);
    }
    Ok(all)
}

/// Costs along an axis: by operation, the points of axis and our instructions.
pub(crate) type Axis = BTreeMap<String, Vec<(u64, u64)>>;

/// The rows of a table by axis; `side` 0 is ours, 1 is Xen's.
pub(crate) fn axes(table: &Table, side: usize) -> BTreeMap<String, Axis> {
    let mut axes: BTreeMap<String, Axis> = BTreeMap::new();
    for line in &table.lines {
        let Some((operation, place)) = line.name.split_once('@') else { continue };
        let Some((axis, at)) = place.split_once('=') else { continue };
        let cost = line.instructions.get(side).copied().flatten();
        if let (Ok(at), Some(cost)) = (at.parse(), cost) {
            axes.entry(axis.into()).or_default().entry(operation.into()).or_default().push((at, cost));
        }
    }
    for points in axes.values_mut().flat_map(BTreeMap::values_mut) {
        points.sort_unstable();
    }
    axes
}

/// What is not flat on an axis: the operation, and its costs at both ends.
#[expect(clippy::cast_precision_loss, reason = "a ratio of costs")]
pub(crate) fn growing(axis: &Axis) -> Vec<(String, u64, u64)> {
    let ends = |points: &Vec<(u64, u64)>| Some((points.first()?.1, points.last()?.1));
    axis.iter()
        .filter_map(|(name, points)| ends(points).map(|(first, last)| (name.clone(), first, last)))
        .filter(|(_, first, last)| *last as f64 > *first as f64 * FLAT)
        .collect()
}

/// Why an operation grows on an axis, where that is known and meant.
pub(crate) fn reason(axis: &str, operation: &str) -> &'static str {
    match (axis, operation) {
        ("channels", "event_alloc_and_close") => "a free port is looked for from the lowest on",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::parts::Part;

    #[test]
    fn rows_become_curves_and_growth_is_seen() {
        let mut table = Table::default();
        for (name, instructions) in
            [("a@domains=1000", 300), ("a@domains=1", 100), ("b@domains=1", 50), ("b@domains=1000", 55)]
        {
            let figure = Figure { name: name.into(), operations: 1, instructions, nanoseconds: 0 };
            table.put(Part::Growth, 0, Clock::Instructions, figure);
        }
        let axes = axes(&table, 0);
        let domains = axes.get("domains").unwrap();
        assert_eq!(domains.get("a"), Some(&vec![(1, 100), (1000, 300)]));
        assert_eq!(growing(domains), vec![("a".to_owned(), 100, 300)]);
    }
}
