//! With `--long` only: what Debian's Linux sees as a guest here and on Xen itself, side by side.
//!
//! One ramdisk tells what its kernel sees (processor, `/sys/hypervisor`, interrupts, memory map, the kernel's log); it
//! runs as a guest of our dom0, and on Debian's Xen as a guest of Debian's Linux with Xen's own toolstack. What differs
//! beyond the hypervisor's own texts and figures of time fails the test.

use crate::bench::xen;
use crate::domu::{BOOT_LIMIT, Lab, claim, gone};
use crate::failure::{Failure, Result};
use crate::linux::{self, Flavour};
use crate::paths;
use crate::qemu::{Accel, Echo, Machine, Module};
use crate::suite::{Case, Context, Needs, Outcome};
use crate::typed::Typed;
use crate::xl;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const PCPUS: u32 = 2;
const BEGIN: &str = "REPORT BEGINS";
const END: &str = "REPORT ENDS";

/// A report with fewer lines than this has gone wrong.
const LEAST_LINES: usize = 200;

/// How lines begin that may differ: texts about the hypervisor itself, and figures of time.
const OTHERS: [&str; 13] = [
    "./compilation/",
    "./properties/buildid",
    "./properties/changeset",
    "./uuid",
    "./version/extra",
    "cpuinfo: bogomips",
    "cpuinfo: cpu MHz",
    "dmesg: Calibrating delay loop",
    "dmesg: Xen version",
    "dmesg: audit: type=2000",
    "dmesg: hrtimer: interrupt took",
    "dmesg: sched_clock: Marking stable",
    "dmesg: tsc: Detected",
];

/// The first program: each line of the report says where it is from. It ends the guest.
const REPORT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys
tell() { sed \"s|^|$1: |\"; }
sleep 2
echo 'REPORT BEGINS'
tell cpuinfo </proc/cpuinfo
cd /sys/hypervisor; for f in $(find . -type f | sort); do cat $f | tell $f; done
sed 's/^ *[A-Z0-9]*: *[0-9 ]*//' /proc/interrupts | tell interrupts
tell iomem </proc/iomem
cat /sys/devices/system/clocksource/clocksource0/*_clocksource | tell clocksource
ls /sys/devices /sys/bus /sys/bus/xen/devices /sys/bus/xen/drivers /dev | tell sysfs
cd /sys/devices/system/cpu/vulnerabilities; grep . * | tell vulnerabilities
dmesg | sed 's/^\\[ *[0-9.]*\\] //' | tell dmesg
echo 'REPORT ENDS'
sleep 1
poweroff -f
sleep 60
";

/// The guest, where its files are in `dir`.
fn config(dir: &str) -> String {
    format!(
        "kernel = '{dir}vmlinuz'\nramdisk = '{dir}report.ram'\nmemory = 160\nvcpus = 2\n\
         extra = 'console=hvc0 panic=1 loglevel=3'\non_poweroff = 'destroy'\non_crash = 'destroy'\n"
    )
}

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-domu_sees_here_what_it_sees_on_xen", Needs::Images, compare)]
}

fn compare(context: &Context) -> Result<Outcome> {
    let Some(kernel) = Flavour::Cloud.kernel() else { return Ok(Outcome::Skipped("no Linux kernel".into())) };
    let ramdisk = ramdisk()?;
    let theirs = match on_xen(&kernel, &ramdisk) {
        Err(failure) if failure.code() == 2 => return Ok(Outcome::Skipped(failure.to_string())),
        other => other?,
    };
    let settings = config("");
    let lab = Lab {
        name: "report",
        smp: PCPUS,
        flavour: Flavour::Cloud,
        script: "",
        disks: Vec::new(),
        configs: vec![("report", &settings)],
        files: vec![(ramdisk, "report.ram")],
        memory: 256,
    };
    lab.run(context, |system| {
        system.must(&["create", "report.cfg"])?;
        let mut typed = Typed::attach(system, "report")?;
        let end = typed.wait(END, BOOT_LIMIT)?;
        let ours = report(typed.shown(end))?;
        gone(system, "report")?;
        judge(&ours, &theirs)
    })
}

fn ramdisk() -> Result<PathBuf> {
    let busybox = linux::busybox()
        .ok_or_else(|| Failure::missing("there is no busybox: apt install busybox-static"))?;
    let file = paths::target().join("linux").join("report.ram");
    paths::write(&file, linux::archive(&busybox, REPORT)?)?;
    Ok(file)
}

/// The report of a guest on Xen, whose dom0 shows it on its own console.
fn on_xen(kernel: &Path, ramdisk: &Path) -> Result<BTreeSet<String>> {
    let settings = paths::target().join("linux").join("report.cfg");
    paths::write(&settings, format!("name = 'report'\n{}", config("/guests/")))?;
    let files =
        [(kernel, "guests/vmlinuz"), (ramdisk, "guests/report.ram"), (&settings, "guests/report.cfg")];
    let files = files.map(|(file, name)| (file.to_path_buf(), name.to_owned()));
    let script = "xl create /guests/report.cfg >/dev/null && show report; wait $shown; poweroff -f\n";
    let dom0 = xl::dom0("report-xl", script, &files)?;
    let mut machine = Machine::new(&xen::image()?, &dom0.kernel, "console=hvc0 loglevel=3");
    machine.modules.push(Module { file: dom0.ramdisk, args: String::new() });
    machine.hypervisor_args = "console=com1 com1=115200,8n1 dom0_mem=640M dom0_max_vcpus=1".into();
    machine.memory = 1280;
    machine.smp = PCPUS;
    machine.accel = Accel::Tcg;
    let ended = machine.run(LIMIT, Echo::Off)?;
    report(&ended.console.replace('\r', ""))
}

/// The lines of a report: what counts is which there are.
fn report(console: &str) -> Result<BTreeSet<String>> {
    let text = console.split_once(BEGIN).and_then(|(_, text)| text.split_once(END));
    let (text, _) = text.ok_or_else(|| Failure::new(format!("there is no report\n{console}")))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Fails on a line that only one of the reports has and that is not of the [`OTHERS`].
fn judge(ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Result<String> {
    let differ = |line: &&String| !OTHERS.iter().any(|other| line.starts_with(other));
    let here = ours.difference(theirs).filter(differ).map(|line| format!("here:   {line}"));
    let there = theirs.difference(ours).filter(differ).map(|line| format!("on Xen: {line}"));
    let all: Vec<String> = here.chain(there).collect();
    if !all.is_empty() {
        return Err(Failure::new(format!("the guest does not see what it sees on Xen\n{}", all.join("\n"))));
    }
    let same = ours.intersection(theirs).count();
    claim(same >= LEAST_LINES, format!("{same} lines are no report:\n{ours:?}"))?;
    Ok(format!(
        "({same} lines are the same, {} are the hypervisor's own or figures of time)",
        ours.len() - same
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(ours: &[&str], theirs: &[&str]) -> Result<String> {
        let common = (0..LEAST_LINES).map(|n| n.to_string());
        let set =
            |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).chain(common.clone()).collect();
        judge(&set(ours), &set(theirs))
    }

    #[test]
    fn only_known_differences_pass() {
        assert!(reports(&["./version/extra: .0"], &["./version/extra: .7"]).is_ok());
        assert!(reports(&["dmesg: WARNING: x"], &[]).is_err());
        assert!(reports(&[], &["cpuinfo: flags: ht"]).is_err());
        assert!(judge(&BTreeSet::new(), &BTreeSet::new()).is_err());
    }

    #[test]
    fn a_report_is_what_lies_between_its_marks() {
        let lines = report("boot\nREPORT BEGINS\n a \n\nb\nREPORT ENDS\nmore").unwrap_or_default();
        assert_eq!(lines.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(report("REPORT BEGINS\na").is_err());
    }
}
