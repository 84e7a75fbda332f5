//! The `qemu` and `attack` stages: each test guest is booted as dom0, and its last line is a verdict.

use crate::claims::{self, Booted};
use crate::failure::Result;
use crate::images;
use crate::qemu::{Echo, Ended, Reason};
use crate::suite::{Case, Context, Needs, Outcome};
use std::time::Duration;

/// What precedes a verdict on a guest's console.
const VERDICT_MARK: &str = "VERDICT: ";

/// How a guest is booted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Its command line.
    words: &'static str,
    smp: u32,
    memory: u32,
    limit: Duration,
    /// A device that only this guest's machine has.
    device: Option<&'static str>,
}

const ORDINARY: Setup =
    Setup { words: "", smp: 1, memory: 256, limit: Duration::from_secs(60), device: None };

/// What keeps a kernel of the SDK with two-level events.
const TWO_LEVEL: &str = "events=2l";

/// Guests that need something other than the ordinary.
const SPECIAL: [(&str, Setup); 6] = [
    ("messages_", Setup { device: Some("edu"), ..ORDINARY }),
    ("wrong_fifo_", Setup { words: TWO_LEVEL, ..ORDINARY }),
    ("attack_fifo_", Setup { words: TWO_LEVEL, smp: 2, ..ORDINARY }),
    ("smp_", Setup { smp: 2, ..ORDINARY }),
    ("attack_smp_", Setup { smp: 2, limit: Duration::from_secs(150), ..ORDINARY }),
    ("long_", Setup { limit: Duration::from_secs(180), ..ORDINARY }),
];

fn setup_of(name: &str) -> Setup {
    SPECIAL.iter().find(|(start, _)| name.starts_with(start)).map_or(ORDINARY, |(_, setup)| *setup)
}

/// Guests whose claims are about events: they are tried with both ABIs.
const BOTH_ABIS: [&str; 2] = ["events_reach_their_handlers", "smp_all_vcpus_come_up_and_ipis_arrive"];

/// One case for each test guest. Guests that other stages boot begin with that stage's name.
pub(crate) fn cases() -> Vec<Case> {
    let two_level = BOTH_ABIS.map(|guest| {
        let setup = Setup { words: TWO_LEVEL, ..setup_of(guest) };
        Case::new(format!("qemu-{guest}-2l"), Needs::Images, move |context| {
            Ok(boot_as(guest, setup, context)?.outcome)
        })
    });
    booted_as_dom0()
        .into_iter()
        .flat_map(|guest| {
            let stage = if guest.starts_with("attack_") {
                guest.replacen('_', "-", 1)
            } else {
                format!("qemu-{guest}")
            };
            let table = claims::of_guest(&guest);
            if !table.is_empty() {
                return claims::cases(&stage, &guest, table, boot);
            }
            let one = Case::new(stage, Needs::Images, move |context| Ok(boot(&guest, context)?.outcome));
            vec![one]
        })
        .chain(two_level)
        .collect()
}

/// The test guests that are booted as dom0.
pub(crate) fn booted_as_dom0() -> Vec<String> {
    let mut guests = images::test_guests();
    guests.retain(|guest| !["demo_", "domu_", "bench"].iter().any(|start| guest.starts_with(start)));
    guests
}

fn boot(guest: &str, context: &Context) -> Result<Booted> {
    boot_as(guest, setup_of(guest), context)
}

fn boot_as(guest: &str, setup: Setup, context: &Context) -> Result<Booted> {
    let words = format!("{} {}", setup.words, if context.long { "long" } else { "" });
    let mut machine = context.machine(&images::guest(guest), words.trim(), setup.smp, setup.memory);
    machine.extra.extend(setup.device.into_iter().flat_map(|device| ["-device".into(), device.into()]));
    let ended = machine.run(setup.limit, Echo::Off)?;
    Ok(Booted { outcome: judge(&ended), log: ended.console })
}

/// A guest's own word on what it saw, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The claim held.
    Success,
    /// The claim could not be tried.
    Skip,
    /// The test itself is at fault.
    Error,
    /// The claim did not hold.
    Failure,
}

/// The worst verdict on a console, with its words.
pub(crate) fn verdict(console: &str) -> Option<(Verdict, String)> {
    let read = |line: &str| {
        let (_, tail) = line.split_once(VERDICT_MARK)?;
        let (word, text) = tail.split_once(' ').unwrap_or((tail, ""));
        let verdict = match word.trim() {
            "SUCCESS" => Verdict::Success,
            "SKIP" => Verdict::Skip,
            "ERROR" => Verdict::Error,
            "FAILURE" => Verdict::Failure,
            _ => return None,
        };
        Some((verdict, text.trim().to_owned()))
    };
    console.lines().filter_map(read).max_by_key(|(verdict, _)| *verdict)
}

/// What a machine's end says about the claim. No verdict, or an end other than an orderly one, is a crash.
pub(crate) fn judge(ended: &Ended) -> Outcome {
    let failed = |why: String| Outcome::Failed { why, output: ended.console.clone() };
    let Some((verdict, text)) = verdict(&ended.console) else {
        let how = if ended.timed_out { "no verdict within the time limit" } else { "no verdict" };
        return failed(format!("CRASH: {how}"));
    };
    match (verdict, ended.reason) {
        (Verdict::Failure, _) => failed(format!("FAILURE: {text}")),
        (Verdict::Error, _) => failed(format!("ERROR: {text}")),
        (_, None) if ended.timed_out => failed("CRASH: a verdict, but the machine went on".into()),
        (_, None) => failed("CRASH: a verdict, but then the machine died".into()),
        (_, Some(Reason::Poweroff)) if verdict == Verdict::Skip => Outcome::Skipped(text),
        (_, Some(Reason::Poweroff)) => Outcome::Passed(String::new()),
        (_, Some(reason)) => failed(format!("CRASH: a verdict, but then {reason:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(console: &str, reason: Option<Reason>) -> Ended {
        Ended { console: console.to_owned(), reason, timed_out: false, took: Duration::ZERO }
    }

    #[test]
    fn the_worst_verdict_wins() {
        let found = verdict("VERDICT: SUCCESS a\nd1: VERDICT: FAILURE b\nVERDICT: SKIP c\n");
        assert_eq!(found, Some((Verdict::Failure, "b".to_owned())));
        assert_eq!(verdict("VERDICT: PERHAPS\n"), None);
    }

    #[test]
    fn success_counts_only_with_an_orderly_end() {
        let good = "VERDICT: SUCCESS x\n";
        assert!(matches!(judge(&ended(good, Some(Reason::Poweroff))), Outcome::Passed(_)));
        assert!(matches!(judge(&ended(good, Some(Reason::Crash))), Outcome::Failed { .. }));
        assert!(matches!(judge(&ended(good, None)), Outcome::Failed { .. }));
        assert!(matches!(judge(&ended("panic", Some(Reason::Poweroff))), Outcome::Failed { .. }));
        assert!(matches!(judge(&ended("VERDICT: SKIP y", Some(Reason::Poweroff))), Outcome::Skipped(_)));
    }
}
