//! `cargo xtask stretch`: the longest stretches of the hypervisor between two points at which others get their turn, in
//! instructions, for each test guest that boots as dom0.
//!
//! A hypervisor of its own is built for it, which notes the time-stamp counter at each entry, preemption check and exit, on
//! a machine that counts instructions (`-icount shift=0`).

use crate::failure::Result;
use crate::guests;
use crate::images;
use crate::qemu::{Accel, Echo, Machine};
use std::collections::BTreeMap;
use std::time::Duration;

/// A guest on such a machine takes this long at most.
const LIMIT: Duration = Duration::from_secs(180);
/// What precedes a figure on the console.
const MARK: &str = "hv: stretch: ";

/// Measures the longest stretches without a preemption point.
#[derive(Debug, clap::Args)]
pub(crate) struct StretchArgs {
    /// Only guests whose name contains this
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
}

/// A stretch: what it was part of, and the guest that made it.
type Longest = BTreeMap<String, (u64, String)>;

impl StretchArgs {
    /// Measures and prints; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        images::build_for_stretches()?;
        let mut longest = Longest::new();
        for guest in guests::booted_as_dom0().into_iter().filter(|guest| guest.contains(&self.only)) {
            let mut machine = Machine::new(&images::stretch_hypervisor(), &images::guest(&guest), "");
            machine.accel = Accel::Tcg;
            machine.memory = 256;
            machine.extra = ["-icount", "shift=0,sleep=off"].map(str::to_owned).to_vec();
            let ended = machine.run(LIMIT, Echo::Off)?;
            collect(&guest, &ended.console, &mut longest);
        }
        let mut rows: Vec<_> = longest.into_iter().collect();
        rows.sort_unstable_by_key(|(_, (length, _))| std::cmp::Reverse(*length));
        println!("{:>12}  {:<16}  guest", "instructions", "in");
        for (cause, (length, guest)) in rows {
            println!("{length:>12}  {cause:<16}  {guest}");
        }
        Ok(0)
    }
}

/// Takes the figures of one guest into those of all.
fn collect(guest: &str, console: &str, longest: &mut Longest) {
    for line in console.lines() {
        let Some((length, cause)) =
            line.split_once(MARK).and_then(|(_, text)| text.split_once(" instructions, "))
        else {
            continue;
        };
        let Ok(length) = length.parse::<u64>() else { continue };
        let most = longest.entry(cause.trim().to_owned()).or_default();
        if length > most.0 {
            *most = (length, guest.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_each_cause_is_kept() {
        let mut longest = Longest::new();
        collect(
            "a",
            "hv: stretch: 70 instructions, hypercall 1\r\nhv: stretch: 9 instructions, traps\n",
            &mut longest,
        );
        collect("b", "hv: stretch: 80 instructions, hypercall 1\nx\n", &mut longest);
        assert_eq!(longest["hypercall 1"], (80, "b".to_owned()));
        assert_eq!(longest["traps"], (9, "a".to_owned()));
    }
}
