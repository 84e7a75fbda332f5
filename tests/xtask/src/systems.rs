//! Stages that need a whole system, with dom0 and guests made by it: the demo, guests that have to be ordinary domains,
//! Linux as one of them, and what `create` refuses.

use crate::boot::Hardware;
use crate::demo;
use crate::failure::Result;
use crate::guests::{self, Verdict};
use crate::images;
use crate::linux;
use crate::paths;
use crate::qemu::Reason;
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
/// The disk that such a guest has.
const DISK_BYTES: usize = 4 << 20;
/// How often a domain is made and destroyed, and how often when time does not matter.
const ROUNDS: (&str, &str) = ("25", "1000");

/// The cases of these stages.
pub(crate) fn cases() -> Vec<Case> {
    let domu = |guest: String| {
        Case::new(format!("qemu-{guest}"), Needs::Images, move |context| run_domu(&guest, context))
    };
    let demo =
        |smp: u32| Case::new(format!("demo-smp{smp}"), Needs::Images, move |context| run_demo(smp, context));
    let mut cases: Vec<Case> =
        images::test_guests().into_iter().filter(|guest| guest.starts_with(DOMU)).map(domu).collect();
    cases.push(Case::new("qemu-create_refuses_what_is_no_kernel", Needs::Images, bad_kernels));
    cases.push(Case::new("linux-runs_as_a_guest", Needs::Images, linux_guest));
    cases.extend(SMP.into_iter().map(demo));
    cases.push(Case::new("demo-create_destroy_loses_nothing", Needs::Images, create_destroy));
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
fn with_system(
    name: &str,
    volume: Volume,
    disks: Vec<PathBuf>,
    context: &Context,
    work: impl FnOnce(&mut System) -> Result<Outcome>,
) -> Result<Outcome> {
    let hardware = Hardware {
        smp: context.smp.unwrap_or(2),
        memory: 768,
        accel: context.accel,
        hv: context.other.clone(),
        hv_args: None,
        extra: Vec::new(),
    };
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
fn config(name: &str, kernel: &str, memory: u32, more: &str) -> String {
    format!(
        "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = {memory}\nvcpus = 1\n\
         on_poweroff = \"preserve\"\non_crash = \"preserve\"\n{more}"
    )
}

fn run_domu(guest: &str, context: &Context) -> Result<Outcome> {
    let mut volume = Volume::default();
    volume.add(&images::guest(guest), guest);
    volume.add_text("guest.cfg", &config("guest", guest, 32, "disk = [ 'phy:/dev/vdb,xvda,w' ]\n"));
    let disk = paths::run().join(format!("{guest}.img"));
    paths::write(&disk, vec![0; DISK_BYTES])?;
    with_system(guest, volume, vec![disk], context, |system| {
        system.must(&["create", "guest.cfg"])?;
        let log = wait_for_verdict(system, "guest")?;
        // Whatever the guest did, dom0 has to answer, and to get rid of it.
        system.must(&["destroy", "guest"])?;
        system.must(&["list"])?;
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

/// `create` has to name what is wrong with a file, and to leave nothing behind.
fn bad_kernels(context: &Context) -> Result<Outcome> {
    let dir = paths::run().join("bad-kernels");
    let good = std::fs::read(images::guest("null_call_answers"))?;
    let mut for_32_bits = good.clone();
    if let Some(class) = for_32_bits.get_mut(4) {
        *class = 1;
    }
    let files: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("text", b"this is no kernel, but a text that is long enough to be taken for one at first sight"),
        ("truncated", good.get(..good.len() / 8).unwrap_or_default()),
        ("bits32", &for_32_bits),
    ];
    let mut volume = Volume::default();
    for (name, content) in files {
        let file = dir.join(name);
        paths::write(&file, content)?;
        volume.add(&file, name);
        volume.add_text(&format!("{name}.cfg"), &config(name, name, 32, ""));
    }
    volume.add_text("absent.cfg", &config("absent", "absent", 32, ""));
    volume.add_text("broken.cfg", "name = \"x\"\nmemory = = 3\n");
    volume.add(&images::guest("null_call_answers"), "good");
    volume.add_text("huge.cfg", &config("huge", "good", 1_000_000, ""));
    with_system("bad-kernels", volume, Vec::new(), context, |system| {
        let before = system.free_pages()?;
        for name in ["empty", "text", "truncated", "bits32", "absent", "broken", "huge"] {
            let answer = system.pvctl(&["create", &format!("{name}.cfg")])?;
            if answer.code != 1 || answer.text.trim().is_empty() {
                let why = format!("create {name}.cfg: status {}: {}", answer.code, answer.text.trim());
                return Ok(Outcome::failed(why));
            }
        }
        let list = system.must(&["list"])?;
        let after = system.free_pages()?;
        if list.lines().count() != 2 || after != before {
            return Ok(Outcome::failed(format!(
                "something is left: {before} pages before, {after} after\n{list}"
            )));
        }
        Ok(Outcome::Passed("(7 files refused)".into()))
    })
}

/// Makes and destroys a domain again and again; dom0 compares memory and xenstore itself.
fn create_destroy(context: &Context) -> Result<Outcome> {
    let rounds = if context.long { ROUNDS.1 } else { ROUNDS.0 };
    let mut volume = Volume::default();
    volume.add(&images::guest("hello"), "hello");
    volume.add_text("hello.cfg", "name = \"hello\"\nkernel = \"hello\"\nmemory = 32\nvcpus = 1\n");
    with_system("create-destroy", volume, Vec::new(), context, |system| {
        let text = system.must(&["--timeout", "0", "selftest", "create-destroy", rounds, "hello.cfg"])?;
        Ok(Outcome::Passed(format!("({})", text.lines().last().unwrap_or_default().trim())))
    })
}

/// Debian's kernel as an ordinary domain, its console served by dom0.
fn linux_guest(context: &Context) -> Result<Outcome> {
    let (kernel, ramdisk) = match linux::guest_files()? {
        Ok(files) => files,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let mut volume = Volume::default();
    volume.add(&kernel, "vmlinuz");
    volume.add(&ramdisk, "ramdisk");
    let more = "ramdisk = \"ramdisk\"\nextra = \"console=hvc0 panic=1 loglevel=6\"\n";
    volume.add_text("linux.cfg", &config("linux", "vmlinuz", 256, more));
    with_system("linux-guest", volume, Vec::new(), context, |system| {
        system.must(&["create", "linux.cfg"])?;
        let log = wait_for_verdict(system, "linux")?;
        system.must(&["destroy", "linux"])?;
        Ok(judge(log))
    })
}
