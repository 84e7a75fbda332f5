//! Cases with several guests beside each other: one that issues random calls from four vcpus, or storms another with
//! events and mappings, and one that checks every byte of its disk meanwhile.

use crate::failure::{Failure, Result};
use crate::guests::{self, Verdict};
use crate::images;
use crate::paths;
use crate::qemu::Accel;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::System;
use crate::systems::{self, config};
use crate::volume::Volume;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Calls of each of the four vcpus, and with `--long`; rounds of the disk's guest.
const SIZES: [(u64, u64); 2] = [(25_000, 1500), (1_000_000, 40_000)];
const DISK_BYTES: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(150);
const LONG_LIMIT: Duration = Duration::from_secs(3600);
/// How long destroyed domains may take to give back their memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(20);
/// The seed can be chosen, so that a run can be repeated.
const SEED: &str = "XTASK_SEED";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("attack-random_calls_harm_nobody_beside", Needs::Images, random),
        Case::new("attack-nothing_of_a_domain_is_seen_by_another", Needs::Images, canaries),
        Case::new("attack-a_storm_of_events_and_mappings_stops_nobody", Needs::Images, storm),
    ]
}

fn seed() -> u64 {
    let chosen = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |passed| passed.as_secs());
    chosen.unwrap_or(now)
}

fn random(context: &Context) -> Result<Outcome> {
    let (calls, rounds) = SIZES[usize::from(context.long)];
    let seed = seed();
    let mut volume = Volume::default();
    for guest in ["demo_random_calls", "demo_checked_disk"] {
        volume.add(&images::guest(guest), guest);
    }
    let wild = config("wild", "demo_random_calls", 48, &format!("extra = 'seed={seed} calls={calls}'\n"));
    volume.add_text("wild.cfg", &wild.replace("vcpus = 1", "vcpus = 4"));
    let more = format!("disk = [ 'phy:/dev/vdb,xvda,w' ]\nextra = 'rounds={rounds}'\n");
    volume.add_text("good.cfg", &config("good", "demo_checked_disk", 32, &more));
    let disk = paths::run().join("beside.img");
    paths::write(&disk, vec![0; DISK_BYTES])?;
    let limit = if context.long { LONG_LIMIT } else { LIMIT };
    systems::with_system("beside", volume, vec![disk], context, |system| {
        let before = system.free_pages()?;
        for name in ["good.cfg", "wild.cfg"] {
            system.must(&["create", name])?;
        }
        let end = Instant::now() + limit;
        let logs = loop {
            let logs = [system.must(&["log", "good"])?, system.must(&["log", "wild"])?];
            if logs.iter().all(|log| guests::verdict(log).is_some()) || Instant::now() > end {
                break logs;
            }
            system.session.wait_for(Duration::from_millis(400), |_| false);
        };
        for log in &logs {
            match guests::verdict(log) {
                Some((Verdict::Success, _)) => {}
                other => {
                    let why = format!("seed {seed}: {other:?}");
                    return Ok(Outcome::Failed { why, output: logs.concat() });
                }
            }
        }
        for name in ["good", "wild"] {
            system.must(&["destroy", name])?;
        }
        Ok(memory_is_back(system, before)?.unwrap_or_else(|| Outcome::Passed(summary(seed, &logs))))
    })
}

/// What is wrong with the free memory, once destroyed domains have had their time.
fn memory_is_back(system: &System, before: u64) -> Result<Option<Outcome>> {
    let end = Instant::now() + MEMORY_LIMIT;
    loop {
        let after = system.free_pages()?;
        if after == before {
            return Ok(None);
        }
        if Instant::now() > end {
            return Ok(Some(Outcome::failed(format!("{before} pages were free before, {after} after"))));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn summary(seed: u64, logs: &[String]) -> String {
    let find = |mark: &str| {
        logs.iter()
            .flat_map(|log| log.lines())
            .find_map(|line| line.split_once(mark).map(|(_, text)| text.trim().to_owned()))
    };
    let calls = find("RANDOM done ").unwrap_or_default();
    let blocks = find("CHECKED ").unwrap_or_default();
    format!("(seed {seed}: {calls}; {blocks} checked)")
}

/// Events that dom0 may take off a storming guest's console: what belongs to its output, and then so many in a second.
const TAKEN: u64 = 100;
const TAKEN_PER_SECOND: u64 = 20;

/// One domain storms a second and dom0 with events and mappings, and a third checks its disk.
///
/// Without a limit dom0 takes as many events as it has turns. How many those are would depend on the host, so time is what
/// the processors have done, for the machine and for the storm.
fn storm(context: &Context) -> Result<Outcome> {
    const GUEST: &str = "demo_storm";
    let mut volume = Volume::default();
    for guest in [GUEST, "demo_checked_disk"] {
        volume.add(&images::guest(guest), guest);
    }
    volume.add_text("storm.cfg", &config("storm", GUEST, 32, "").replace("vcpus = 1", "vcpus = 4"));
    volume.add_text("calm.cfg", &config("calm", GUEST, 32, ""));
    let more = "disk = [ 'phy:/dev/vdb,xvda,w' ]\nextra = 'rounds=200'\n";
    volume.add_text("good.cfg", &config("good", "demo_checked_disk", 32, more));
    let disk = paths::run().join("storm.img");
    paths::write(&disk, vec![0; DISK_BYTES])?;
    systems::with_machine("storm", volume, vec![disk], systems::counting(context), |system| {
        let before = system.free_pages()?;
        system.must(&["create", "storm.cfg"])?;
        let peer = system.must(&["domid", "storm"])?;
        system.must(&["create", "calm.cfg", &format!("extra=\"peer={}\"", peer.trim())])?;
        system.must(&["create", "good.cfg"])?;
        let mut seen = String::new();
        for name in ["good", "calm", "storm"] {
            let log = wait_for(system, name, &["VERDICT"])?;
            if !matches!(guests::verdict(&log), Some((Verdict::Success, _))) {
                return Ok(Outcome::Failed { why: format!("{name} did not get through"), output: log });
            }
            seen.push_str(&log);
        }
        let taken = taken_from(system, peer.trim())?;
        let stormed: u64 = told(&seen, "LASTED ").parse().map_err(|_| Failure::new("no storm"))?;
        let most = TAKEN + TAKEN_PER_SECOND * stormed / 1000;
        if taken > most {
            let why = format!("dom0 took {taken} events for nothing, more than {most}");
            return Ok(Outcome::Failed { why, output: seen });
        }
        for name in ["good", "calm", "storm"] {
            system.must(&["destroy", name])?;
        }
        let (storm, sent) = (told(&seen, "STORM "), told(&seen, "SENT "));
        let summary = format!("({storm}; {sent}, {taken} taken in {stormed} ms)");
        Ok(memory_is_back(system, before)?.unwrap_or(Outcome::Passed(summary)))
    })
}

/// What a line says behind a mark.
fn told<'l>(log: &'l str, mark: &str) -> &'l str {
    log.lines().find_map(|line| line.split_once(mark)).map_or("", |(_, text)| text.trim())
}

/// Events that dom0 took off the port of a domain's that it took fewest from: its console, if xenstore was busy.
fn taken_from(system: &System, domain: &str) -> Result<u64> {
    let list = system.must(&["events", "-o", "json"])?;
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&list).map_err(|error| Failure::new(format!("events: {error}\n{list}")))?;
    let of_domain = rows.iter().filter(|row| row["domain"] == domain);
    let counts = of_domain.filter_map(|row| row["taken"].as_str()?.parse().ok());
    counts.min().ok_or_else(|| Failure::new(format!("domain {domain} has no ports in dom0\n{list}")))
}

/// Two domains take turns on one pcpu, one full of a pattern; then its memory goes to others: some of it at once, the rest
/// after the pcpu has had time to zero it.
fn canaries(context: &Context) -> Result<Outcome> {
    const GUEST: &str = "demo_canary";
    let mut volume = Volume::default();
    volume.add(&images::guest(GUEST), GUEST);
    for (name, memory, role) in
        [("fill", 256, "fill"), ("beside", 24, "scan"), ("soon", 64, "scan"), ("late", 240, "scan")]
    {
        volume.add_text(
            &format!("{name}.cfg"),
            &config(name, GUEST, memory, &format!("extra = 'role={role}'\n")),
        );
    }
    let context = Context { smp: Some(1), ..context.clone() };
    systems::with_system("canaries", volume, Vec::new(), &context, |system| {
        system.must(&["create", "fill.cfg"])?;
        let filled = wait_for(system, "fill", &["FILLED ", "VERDICT"])?;
        if !filled.contains("FILLED ") {
            return Ok(Outcome::Failed { why: "the pattern is not in place".into(), output: filled });
        }
        system.must(&["create", "beside.cfg"])?;
        let beside = wait_for(system, "beside", &["VERDICT"])?;
        system.must(&["destroy", "fill"])?;
        system.must(&["create", "soon.cfg"])?;
        let soon = wait_for(system, "soon", &["VERDICT"])?;
        system.session.wait_for(Duration::from_secs(2), |_| false);
        system.must(&["create", "late.cfg"])?;
        let late = wait_for(system, "late", &["VERDICT"])?;
        for log in [&beside, &soon, &late] {
            if !matches!(guests::verdict(log), Some((Verdict::Success, _))) {
                return Ok(Outcome::Failed {
                    why: "something of another domain was seen".into(),
                    output: log.clone(),
                });
            }
        }
        // QEMU's own processor has AVX and RDTSCP; elsewhere the guests have asked theirs.
        let tried = |log: &str| log.contains("with AVX") && log.contains("with RDTSCP");
        let quiet = [&filled, &beside, &soon, &late].into_iter().find(|log| !tried(log));
        if let Some(log) = quiet.filter(|_| context.accel != Accel::Kvm) {
            return Ok(Outcome::Failed { why: "AVX or RDTSCP was not tried".into(), output: log.clone() });
        }
        let told =
            filled.lines().find_map(|line| line.split_once("FILLED ")).map_or("", |(_, text)| text.trim());
        Ok(Outcome::Passed(format!("({told})")))
    })
}

/// A domain's console, once one of the words is on it or the limit has passed.
fn wait_for(system: &mut System, domain: &str, words: &[&str]) -> Result<String> {
    let end = Instant::now() + LIMIT;
    loop {
        let log = system.must(&["log", domain])?;
        if words.iter().any(|word| log.contains(word)) || Instant::now() > end {
            return Ok(log);
        }
        system.session.wait_for(Duration::from_millis(300), |_| false);
    }
}
