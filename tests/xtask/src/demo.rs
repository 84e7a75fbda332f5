//! `cargo xtask demo`: the whole system at work, without a person, and a table of what was checked.

use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::qemu::{Accel, Reason};
use crate::setup;
use crate::system::{Plan, System};
use crate::tools::{self, say};
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Sizes of the two disks.
const READ_DISK: &str = "48M";
const WRITTEN_BYTES: u64 = 8 << 20;
/// The factor in the pattern that `demo_writer` writes.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// How long the guests may take together.
const WORK_LIMIT: Duration = Duration::from_secs(150);
/// How long destroyed domains may take to give back their memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(10);

/// The guests: name, kernel, further configuration.
const GUESTS: [(&str, &str, &str); 4] = [
    ("reader", "demo_reader", "disk = [ 'phy:/dev/vdb,xvda,r' ]\nextra = \"file=/files/dom0\"\n"),
    ("writer", "demo_writer", "disk = [ 'phy:/dev/vdc,xvda,w' ]\n"),
    ("left", "demo_pair", ""),
    ("right", "demo_pair", ""),
];

/// Shows the system at work: several guests at once, real disks, nothing lost afterwards.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Number of pcpus
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,
    /// How the processor is emulated
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// The hypervisor to boot instead of target/images/xen-like-hv
    #[arg(long, value_name = "FILE")]
    hv: Option<PathBuf>,
}

impl DemoArgs {
    /// Runs it; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        images::build_for(self.hv.as_deref())?;
        let report = demo(self.smp, self.accel, self.hv.clone())?;
        print!("{}", report.table());
        if !report.held() {
            println!("\n==== console\n{}\n==== end of console", report.console.trim_end());
        }
        Ok(u8::from(!report.held()))
    }
}

/// What was checked.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(String, bool, String)>,
    /// The machine's console.
    pub(crate) console: String,
    /// The domain list while the guests were there.
    list: String,
}

impl Report {
    fn check(&mut self, what: &str, held: bool, seen: impl Into<String>) {
        let seen = seen.into();
        say(&format!("{} {what}: {seen}", if held { "ok  " } else { "FAIL" }));
        self.rows.push((what.to_owned(), held, seen));
    }

    /// Whether everything held.
    pub(crate) fn held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|(_, held, _)| *held)
    }

    /// The first thing that did not hold.
    pub(crate) fn first_failure(&self) -> String {
        let failed = self.rows.iter().find(|(_, held, _)| !held);
        failed.map_or_else(|| "nothing was checked".into(), |(what, _, seen)| format!("{what}: {seen}"))
    }

    /// How many things were checked.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|(what, ..)| what.len()).max().unwrap_or(0);
        let row = |(what, held, seen): &(String, bool, String)| {
            format!("{what:<width$}  {}  {seen}\n", if *held { "ok  " } else { "FAIL" })
        };
        format!("\n{}\n{}", self.list, self.rows.iter().map(row).collect::<String>())
    }
}

/// The files of one demo.
struct Scene {
    dir: PathBuf,
    read_disk: PathBuf,
    written_disk: PathBuf,
    digest: String,
}

/// Runs the demo with a number of pcpus.
pub(crate) fn demo(smp: u32, accel: Accel, hv: Option<PathBuf>) -> Result<Report> {
    setup::need(&[setup::QEMU, setup::MKE2FS, setup::MTOOLS])?;
    let scene = Scene::make(smp)?;
    let mut report = Report::default();
    let hardware = Hardware { smp, memory: 512, accel, hv, hv_args: None, extra: Vec::new() };
    let plan = Plan {
        name: format!("demo-{smp}"),
        hardware,
        dom0_args: String::new(),
        volume: scene.volume(),
        disks: vec![scene.read_disk.clone(), scene.written_disk.clone()],
    };
    let mut system = plan.start()?;
    report.check("dom0 answers", true, format!("{smp} pcpus"));
    let worked = at_work(&mut system, &scene, &mut report);
    if let Err(failure) = worked {
        report.check("the demo's own commands work", false, failure.to_string());
    }
    let ended = system.shut_down()?;
    report.check(
        "the machine powers off",
        ended.reason == Some(Reason::Poweroff),
        format!("{:?}", ended.reason),
    );
    report.console = ended.console;
    scene.check_disks(&mut report)?;
    Ok(report)
}

/// Everything between dom0's first answer and its end.
fn at_work(system: &mut System, scene: &Scene, report: &mut Report) -> Result<()> {
    let before = system.free_pages()?;
    for (name, ..) in GUESTS {
        let config = format!("{name}.cfg");
        if name == "right" {
            let peer = system.must(&["domid", "left"])?;
            system.must(&["create", &config, &format!("extra=\"peer={}\"", peer.trim())])?;
        } else {
            system.must(&["create", &config])?;
        }
    }
    report.list = system.must(&["list"])?;
    let listed =
        GUESTS.iter().filter(|(name, ..)| report.list.lines().any(|line| line.starts_with(name))).count();
    report.check(
        "all guests are listed at once",
        listed == GUESTS.len(),
        format!("{listed} of {}", GUESTS.len()),
    );
    let logs = wait_for_verdicts(system)?;
    for ((name, ..), log) in GUESTS.iter().zip(&logs) {
        let verdict =
            log.lines().rev().find_map(|line| line.split_once("VERDICT: ")).map_or("none", |(_, text)| text);
        report.check(&format!("verdict of {name}"), verdict.starts_with("SUCCESS"), verdict);
    }
    let digest = logs.first().and_then(|log| log.lines().find_map(|line| line.split_once("SHA256 ")));
    let digest = digest.and_then(|(_, text)| text.split(' ').next()).unwrap_or("none");
    report.check("the file's SHA-256 is the host's", digest == scene.digest, digest);
    for (name, ..) in GUESTS {
        system.must(&["destroy", name])?;
    }
    let left = system.must(&["list"])?;
    report.check(
        "only dom0 is left",
        left.lines().count() == 2,
        format!("{} rows", left.lines().count() - 1),
    );
    let end = Instant::now() + MEMORY_LIMIT;
    let mut after = system.free_pages()?;
    while after != before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        after = system.free_pages()?;
    }
    report.check(
        "free memory is what it was",
        after == before,
        format!("{before} pages before, {after} after"),
    );
    Ok(())
}

/// Reads the guests' consoles until each has given its verdict.
fn wait_for_verdicts(system: &mut System) -> Result<Vec<String>> {
    let end = Instant::now() + WORK_LIMIT;
    loop {
        let mut logs = Vec::new();
        for (name, ..) in GUESTS {
            logs.push(system.must(&["log", name])?);
        }
        if logs.iter().all(|log| log.contains("VERDICT: ")) || Instant::now() > end {
            return Ok(logs);
        }
        // A pause, in which the console is read.
        system.session.wait_for(Duration::from_millis(300), |_| false);
    }
}

impl Scene {
    /// Makes the disks: an ext4 file system from real files, and an empty one to be written.
    fn make(smp: u32) -> Result<Self> {
        let dir = paths::target().join(format!("demo/{smp}"));
        let files = dir.join("files");
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.lock"] {
            paths::copy(&paths::root().join(file), &files.join("files").join(file))?;
        }
        paths::copy(&images::dom0(), &files.join("files/dom0"))?;
        let read_disk = dir.join("read.img");
        let mut make = tools::command("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-L", "demo", "-d"]).arg(&files).arg(&read_disk).arg(READ_DISK);
        tools::quietly("mke2fs", &mut make)?;
        let written_disk = dir.join("written.img");
        paths::write(&written_disk, "")?;
        fs::OpenOptions::new().write(true).open(&written_disk)?.set_len(WRITTEN_BYTES)?;
        let sum = tools::quietly("sha256sum", Command::new("sha256sum").arg(files.join("files/dom0")))?;
        let digest = sum.split(' ').next().unwrap_or_default().to_owned();
        Ok(Self { dir, read_disk, written_disk, digest })
    }

    fn volume(&self) -> Volume {
        let mut volume = Volume::default();
        for (name, kernel, more) in GUESTS {
            if name != "right" {
                volume.add(&images::guest(kernel), kernel);
            }
            // A guest that has ended stays until it is destroyed, so that its console can be read.
            let config = format!(
                "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = 32\nvcpus = 1\n\
                 on_poweroff = \"preserve\"\non_crash = \"preserve\"\n{more}"
            );
            volume.add_text(&format!("{name}.cfg"), &config);
        }
        volume
    }

    /// What the host sees on the disks afterwards.
    fn check_disks(&self, report: &mut Report) -> Result<()> {
        let written =
            fs::read(&self.written_disk).map_err(|error| Failure::at(&self.written_disk, &error))?;
        let differs =
            (0u64..).zip(written.chunks(8)).find(|(n, bytes)| n.wrapping_mul(ODD).to_le_bytes() != *bytes);
        let whole = written.len() as u64 == WRITTEN_BYTES;
        let seen = match differs {
            None => format!("{} bytes compared", written.len()),
            Some((word, _)) => format!("word {word} differs"),
        };
        report.check("the written disk has the pattern", whole && differs.is_none(), seen);
        let mut check = tools::command("e2fsck");
        let clean = tools::quietly("e2fsck", check.args(["-f", "-n"]).arg(&self.read_disk));
        report.check("e2fsck finds the read disk clean", clean.is_ok(), short(&self.read_disk, &self.dir));
        Ok(())
    }
}

fn short(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}
