//! `cargo xtask stretch`: the longest stretches of the hypervisor between two points at which others get their turn, in
//! instructions, for each test guest that boots as dom0.
//!
//! A hypervisor of its own is built for it, which notes the time-stamp counter at each entry, preemption check and exit, on
//! a machine that counts instructions (`-icount shift=0`). A whole system counts as one more guest: domains that hold all
//! the ports and grant frames they get are made, and destroyed.

use crate::bench::budget::Budget;
use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::guests;
use crate::images;
use crate::qemu::{Accel, Echo, Machine};
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::Plan;
use crate::systems::config;
use crate::volume::Volume;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A guest on such a machine takes this long at most.
const LIMIT: Duration = Duration::from_secs(180);
/// What precedes a figure on the console.
const MARK: &str = "hv: stretch: ";

/// Guests whose stretches a test run measures: those that take the most of everything.
const TESTED: [&str; 3] = ["attack_calls", "grants_are_mapped_copied_and_given_back", "attack_page_types"];
/// What the system with its domains is called among the guests.
const SYSTEM: &str = "system";
/// The guest that takes all it gets.
const HOARDER: &str = "demo_hoarder";

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
        let all = guests::booted_as_dom0().into_iter().chain([SYSTEM.to_owned()]);
        let longest = measure(&all.filter(|guest| guest.contains(&self.only)).collect::<Vec<_>>())?;
        println!("{:>12}  {:<16}  guest", "instructions", "in");
        for (cause, (length, guest)) in sorted(longest) {
            println!("{length:>12}  {cause:<16}  {guest}");
        }
        Ok(0)
    }
}

/// The longest first.
fn sorted(longest: Longest) -> Vec<(String, (u64, String))> {
    let mut rows: Vec<_> = longest.into_iter().collect();
    rows.sort_unstable_by_key(|(_, (length, _))| std::cmp::Reverse(*length));
    rows
}

/// The case that keeps the longest stretch below its bound.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("budget-stretch", Needs::Images, check)]
}

fn check(context: &Context) -> Result<Outcome> {
    if context.other.is_some() {
        return Ok(Outcome::Skipped("the bound is for our hypervisor".into()));
    }
    let bound = Budget::read()?.longest_stretch();
    images::build_for_stretches()?;
    let guests: Vec<String> = TESTED.iter().chain([&SYSTEM]).map(|guest| (*guest).to_owned()).collect();
    let rows = sorted(measure(&guests)?);
    let Some((cause, (length, guest))) = rows.first() else {
        return Ok(Outcome::failed("no guest told of a stretch"));
    };
    let told = format!("{length} instructions in {cause} of {guest}, bound {bound}");
    Ok(if *length <= bound { Outcome::Passed(format!("({told})")) } else { Outcome::failed(told) })
}

/// Boots each and takes its figures.
fn measure(guests: &[String]) -> Result<Longest> {
    let mut longest = Longest::new();
    for guest in guests {
        let console = if guest == SYSTEM { system()? } else { alone(guest)? };
        let before = longest.len();
        collect(guest, &console, &mut longest);
        if before == 0 && longest.is_empty() {
            return Err(Failure::new(format!("{guest} ended without telling its stretches\n{console}")));
        }
    }
    Ok(longest)
}

fn counted() -> Vec<String> {
    ["-icount", "shift=0,sleep=off"].map(str::to_owned).to_vec()
}

/// A guest as dom0; its console.
fn alone(guest: &str) -> Result<String> {
    let mut machine = Machine::new(&images::stretch_hypervisor(), &images::guest(guest), "");
    (machine.accel, machine.memory, machine.extra) = (Accel::Tcg, 256, counted());
    Ok(machine.run(LIMIT, Echo::Off)?.console)
}

/// dom0 and a domain that takes all it gets, which is destroyed; the console.
fn system() -> Result<String> {
    let hardware = Hardware {
        smp: 1,
        memory: 512,
        accel: Accel::Tcg,
        hv: Some(images::stretch_hypervisor()),
        hv_args: None,
        extra: counted(),
    };
    let mut volume = Volume::default();
    volume.add(&images::guest(HOARDER), HOARDER);
    volume.add_text("hoarder.cfg", &config("hoarder", HOARDER, 192, "event_channels = 16383\n"));
    let plan = Plan { name: "stretch".into(), hardware, dom0_args: String::new(), volume, disks: Vec::new() };
    let mut system = plan.start()?;
    let held = (|| {
        system.must(&["create", "hoarder.cfg"])?;
        let end = Instant::now() + LIMIT;
        while !system.must(&["log", "hoarder"])?.contains("HOARDED") {
            if Instant::now() > end {
                return Err(Failure::new("the hoarder does not hoard"));
            }
            system.session.wait_for(Duration::from_millis(200), |_| false);
        }
        system.must(&["destroy", "hoarder"])
    })();
    let ended = system.shut_down()?;
    held.map(|_| ended.console)
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
