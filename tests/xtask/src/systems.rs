//! Cases that need a whole system, with dom0 and guests made by it: the demo, and test guests that have to be ordinary
//! domains.

use crate::bench::figures::COUNTING;
use crate::boot::Hardware;
use crate::demo;
use crate::failure::Result;
use crate::guests::{self, Verdict};
use crate::images;
use crate::paths;
use crate::qemu::{Accel, Reason};
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::{Plan, System};
use crate::volume::Volume;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The numbers of pcpus that the demo is tried with.
const SMP: [u32; 3] = [1, 2, 4];
/// How test guests that are ordinary domains are named.
const DOMU: &str = "domu_";
/// How long such a guest may take.
const LIMIT: Duration = Duration::from_secs(90);
/// What such a guest has: a disk, and an interface on a switch that leads nowhere.
const DEVICES: &str = "disk = [ 'phy:/dev/vdb,xvda,w' ]\nvif = [ 'bridge=inner' ]\n";
/// The size of the disk.
const DISK_BYTES: usize = 4 << 20;

/// The cases of these stages.
pub(crate) fn cases() -> Vec<Case> {
    let domu = |guest: String| {
        Case::new(format!("qemu-{guest}"), Needs::Images, move |context| run_domu(&guest, context))
    };
    let demo =
        |smp: u32| Case::new(format!("demo-smp{smp}"), Needs::Images, move |context| run_demo(smp, context));
    let mut cases: Vec<Case> =
        images::test_guests().into_iter().filter(|guest| guest.starts_with(DOMU)).map(domu).collect();
    cases.extend(SMP.into_iter().map(demo));
    cases
}

fn run_demo(smp: u32, context: &Context) -> Result<Outcome> {
    let report = demo::demo(smp, context.accel, context.other.clone())?;
    if report.held() {
        return Ok(Outcome::Passed(format!("({} checks)", report.count())));
    }
    Ok(Outcome::Failed { why: report.first_failure(), output: report.console })
}

/// Starts dom0 with a volume, lets `work` use it, and shuts it down. The console belongs to a failure.
pub(crate) fn with_system(
    name: &str,
    volume: Volume,
    disks: Vec<PathBuf>,
    context: &Context,
    work: impl FnOnce(&mut System) -> Result<Outcome>,
) -> Result<Outcome> {
    with_machine(name, volume, disks, hardware(context), work)
}

/// The usual machine, with a clock that goes by what its processors have done, whatever else the host does.
pub(crate) fn counting(context: &Context) -> Hardware {
    let extra = COUNTING.map(str::to_owned).to_vec();
    Hardware { accel: Accel::Tcg, extra, ..hardware(context) }
}

fn hardware(context: &Context) -> Hardware {
    Hardware {
        smp: context.smp.unwrap_or(2),
        memory: 768,
        accel: context.accel,
        hv: context.other.clone(),
        hv_args: None,
        extra: Vec::new(),
    }
}

/// [`with_system`] on a machine of the caller's.
pub(crate) fn with_machine(
    name: &str,
    volume: Volume,
    disks: Vec<PathBuf>,
    hardware: Hardware,
    work: impl FnOnce(&mut System) -> Result<Outcome>,
) -> Result<Outcome> {
    let plan = Plan { name: name.to_owned(), hardware, dom0_args: String::new(), volume, disks };
    let mut system = plan.start()?;
    let outcome = work(&mut system).unwrap_or_else(|failure| Outcome::failed(failure.to_string()));
    let ended = system.shut_down()?;
    Ok(match outcome {
        Outcome::Failed { why, output } => {
            Outcome::Failed { why, output: format!("{output}\n---- dom0's console\n{}", ended.console) }
        }
        _ if ended.reason != Some(Reason::Poweroff) => {
            let why = format!("the machine ended with {:?}", ended.reason);
            Outcome::Failed { why, output: ended.console }
        }
        good => good,
    })
}

/// A configuration for a guest that stays when it has ended, so that its console can be read.
pub(crate) fn config(name: &str, kernel: &str, memory: u32, more: &str) -> String {
    format!(
        "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = {memory}\nvcpus = 1\n\
         on_poweroff = \"preserve\"\non_crash = \"preserve\"\n{more}"
    )
}

fn run_domu(guest: &str, context: &Context) -> Result<Outcome> {
    let mut volume = Volume::default();
    volume.add(&images::guest(guest), guest);
    volume.add_text("guest.cfg", &config("guest", guest, 32, DEVICES));
    let disk = paths::run().join(format!("{guest}.img"));
    paths::write(&disk, vec![0; DISK_BYTES])?;
    with_system(guest, volume, vec![disk], context, |system| {
        system.must(&["create", "guest.cfg"])?;
        let log = wait_for_verdict(system, "guest")?;
        // Whatever the guest did, dom0 has to answer, and to get rid of it.
        system.must(&["destroy", "guest"])?;
        system.must(&["list"])?;
        system.must(&["xenstore-ls"])?;
        Ok(judge(log))
    })
}

/// Reads a domain's console until its verdict is there or the limit has passed.
fn wait_for_verdict(system: &mut System, domain: &str) -> Result<String> {
    let end = Instant::now() + LIMIT;
    loop {
        let log = system.must(&["log", domain])?;
        if guests::verdict(&log).is_some() || Instant::now() > end {
            return Ok(log);
        }
        system.session.wait_for(Duration::from_millis(300), |_| false);
    }
}

fn judge(log: String) -> Outcome {
    match guests::verdict(&log) {
        Some((Verdict::Success, _)) => Outcome::Passed(String::new()),
        Some((Verdict::Skip, text)) => Outcome::Skipped(text),
        Some((verdict, text)) => Outcome::Failed { why: format!("{verdict:?}: {text}"), output: log },
        None => Outcome::Failed { why: "CRASH: no verdict".into(), output: log },
    }
}
