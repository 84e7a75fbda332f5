//! Debian's Linux as an ordinary domain: its kernels, ramdisks and configurations, and a system to run it in.

use crate::boot::Hardware;
use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::linux::{self, Flavour};
use crate::paths;
use crate::qemu::Reason;
use crate::setup;
use crate::suite::{Context, Outcome};
use crate::system::{Plan, System};
use crate::tools;
use crate::typed::Typed;
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long Linux may take to boot.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long a short command in it may take.
pub(crate) const SHORT: Duration = Duration::from_secs(60);
/// What tells of a fault in a kernel's log.
const COMPLAINTS: [&str; 6] =
    ["WARNING:", "BUG:", "Oops", "Call Trace", "unchecked MSR", "general protection"];
/// What a ramdisk shows when its shell is there.
const READY: &str = "GUEST IS READY";

/// What every ramdisk does first.
const PROLOGUE: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/ PS1='# '
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
stty cols 2000 </dev/hvc0
";

/// A shell on the console.
const SHELL: &str = "echo 'GUEST IS READY'\nexec setsid cttyhack sh\n";

/// A kernel, the modules that belong to it, and a static busybox.
pub(crate) struct Parts {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    busybox: PathBuf,
}

impl Parts {
    /// Finds or downloads them; or why there are none.
    pub(crate) fn find(flavour: Flavour) -> std::result::Result<Self, String> {
        let kernel = flavour.kernel().ok_or("no Linux kernel here and none could be downloaded")?;
        let busybox = linux::busybox().ok_or("no static busybox here and none could be downloaded")?;
        linux::module_of(&kernel, "drivers/block/xen-blkfront")
            .ok_or("no xen-blkfront module beside the Linux kernel")?;
        Ok(Self { kernel, busybox })
    }

    /// Writes a ramdisk that does what `script` says, and then has a shell.
    pub(crate) fn ramdisk(&self, name: &str, script: &str) -> Result<PathBuf> {
        let mut archive = Archive::default();
        for dir in ["bin", "dev", "proc", "sys", "mnt", "tmp"] {
            archive.directory(dir);
        }
        archive.device("dev/console", (5, 1));
        archive.file("bin/busybox", &read(&self.busybox)?);
        linux::guest_modules(&mut archive, &self.kernel)?;
        archive.file("init", format!("{PROLOGUE}{script}{SHELL}").as_bytes());
        let file = paths::target().join("linux").join(format!("{name}.cpio"));
        paths::write(&file, archive.finish())?;
        Ok(file)
    }

    /// The busybox.
    pub(crate) fn busybox(&self) -> &Path {
        &self.busybox
    }
}

/// Reads a file of the host.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Failure::at(path, &error))
}

/// A system with Linux on its volume as `vmlinuz` and `ramdisk`.
pub(crate) struct Lab<'a> {
    /// Names its scratch files.
    pub(crate) name: &'a str,
    /// Pcpus.
    pub(crate) smp: u32,
    /// Which kernel.
    pub(crate) flavour: Flavour,
    /// What the ramdisk does before its shell.
    pub(crate) script: &'a str,
    /// Disks of dom0 from vdb on.
    pub(crate) disks: Vec<PathBuf>,
    /// Configurations: name of the domain, settings beyond the usual ones.
    pub(crate) configs: Vec<(&'a str, &'a str)>,
    /// Further files.
    pub(crate) files: Vec<(PathBuf, &'a str)>,
    /// MiB for all guests.
    pub(crate) memory: u32,
}

impl Lab<'_> {
    /// Starts it, lets `work` use it and shuts it down. Skipped where there is no Linux.
    pub(crate) fn run(
        &self,
        context: &Context,
        work: impl FnOnce(&mut System) -> Result<String>,
    ) -> Result<Outcome> {
        let parts = match Parts::find(self.flavour) {
            Ok(parts) => parts,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        setup::need(&[setup::QEMU, setup::MTOOLS])?;
        let mut volume = Volume::default();
        volume.add(&parts.kernel, "vmlinuz");
        volume.add(&parts.ramdisk(self.name, self.script)?, "ramdisk");
        for (file, name) in &self.files {
            volume.add(file, name);
        }
        for (name, more) in &self.configs {
            volume.add_text(&format!("{name}.cfg"), &config(name, more));
        }
        let dom0_mib = 256;
        let hardware = Hardware {
            smp: context.smp.unwrap_or(self.smp),
            memory: dom0_mib + self.memory + 64,
            accel: context.accel,
            hv: context.other.clone(),
            hv_args: Some(format!("console=com1 com1=115200,8n1 audit dom0_mem={dom0_mib}M")),
            extra: Vec::new(),
        };
        let disks = self.disks.clone();
        let mut system =
            Plan { name: self.name.into(), hardware, dom0_args: String::new(), volume, disks }.start()?;
        let result = work(&mut system);
        let ended = system.shut_down()?;
        Ok(match result {
            Ok(_) if ended.reason != Some(Reason::Poweroff) => Outcome::Failed {
                why: format!("the machine ended with {:?}", ended.reason),
                output: ended.console,
            },
            Ok(seen) => Outcome::Passed(seen),
            Err(failure) => {
                let text = failure.to_string();
                let why = text.lines().next().unwrap_or_default().to_owned();
                Outcome::Failed { why, output: format!("{text}\n---- dom0's console\n{}", ended.console) }
            }
        })
    }
}

/// A configuration; a later setting would be one too many, so `more` has only what is not here.
fn config(name: &str, more: &str) -> String {
    let memory = if more.contains("memory") { "" } else { "memory = 160\n" };
    let extra = if more.contains("extra") { "" } else { "extra = 'console=hvc0 panic=1 loglevel=3'\n" };
    let kernel = if more.contains("kernel") { "" } else { "kernel = 'vmlinuz'\nramdisk = 'ramdisk'\n" };
    format!("name = '{name}'\n{kernel}{memory}{extra}{more}\n")
}

/// Creates a domain and waits for its shell.
pub(crate) fn boot(system: &System, domain: &str) -> Result<Typed> {
    system.must(&["create", &format!("{domain}.cfg")])?;
    attach(system, domain)
}

/// Attaches to a domain that boots and waits for its shell.
pub(crate) fn attach(system: &System, domain: &str) -> Result<Typed> {
    let mut typed = Typed::attach(system, domain)?;
    shell(&mut typed)?;
    Ok(typed)
}

/// Waits for the shell of a domain that boots.
pub(crate) fn shell(typed: &mut Typed) -> Result<()> {
    let ready = typed.wait(READY, BOOT_LIMIT)?;
    // The prompt: what is typed before it would be echoed twice.
    typed.wait_from(ready, "\n# ", SHORT).map(drop)
}

/// Waits in the guest until a condition holds.
pub(crate) fn until(typed: &mut Typed, condition: &str) -> Result<()> {
    let line = format!(
        "i=0; until {condition}; do sleep 0.2; i=$((i+1)); [ $i -lt 150 ] || break; done; {condition}"
    );
    typed.must(&line, SHORT).map(drop)
}

/// Fails if the kernel's log tells of a fault.
pub(crate) fn no_complaints(typed: &mut Typed) -> Result<()> {
    let log = typed.must("dmesg", SHORT)?;
    if log.lines().count() < 20 {
        return Err(Failure::new(format!("this is no kernel's log:\n{log}")));
    }
    match log.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint))) {
        None => Ok(()),
        Some(line) => Err(Failure::new(format!("the guest's kernel complains: {line}\n{log}"))),
    }
}

/// A claim about what was seen.
pub(crate) fn claim(held: bool, what: impl Into<String>) -> Result<()> {
    if held { Ok(()) } else { Err(Failure::new(what)) }
}

/// What has to be the same before and after: free pages, and all of xenstore.
fn footprint(system: &System) -> Result<(u64, String)> {
    Ok((system.free_pages()?, system.must(&["xenstore-ls"])?))
}

/// The footprint once a domain has been there: directories that are made once are there from then on.
pub(crate) fn settled(system: &System, domain: &str) -> Result<(u64, String)> {
    system.must(&["create", "-p", &format!("{domain}.cfg")])?;
    system.must(&["destroy", domain])?;
    footprint(system)
}

/// Waits until free pages and xenstore are as they were.
pub(crate) fn nothing_left(system: &mut System, before: &(u64, String)) -> Result<()> {
    let end = Instant::now() + SHORT;
    loop {
        let after = footprint(system)?;
        if after == *before {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Failure::new(format!(
                "something is left behind: {before:?} before, {after:?} after"
            )));
        }
        system.session.wait_for(Duration::from_millis(200), |_| false);
    }
}

/// Waits until a domain is gone that has nothing left to do.
pub(crate) fn gone(system: &mut System, domain: &str) -> Result<()> {
    gone_within(system, domain, SHORT)
}

/// Waits until a domain is gone.
pub(crate) fn gone_within(system: &mut System, domain: &str, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    while system.pvctl(&["domid", domain])?.code == 0 {
        if Instant::now() > end {
            return Err(Failure::new(format!("{domain} is still there:\n{}", system.must(&["list"])?)));
        }
        system.session.wait_for(Duration::from_millis(200), |_| false);
    }
    Ok(())
}

/// What a command of `pvctl` prints as JSON.
pub(crate) fn json(system: &System, words: &[&str]) -> Result<serde_json::Value> {
    let text = system.must(words)?;
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("{}: {error}\n{text}", words.join(" "))))
}

/// Waits until a domain that starts again has another number; that number.
pub(crate) fn another(system: &mut System, domain: &str, old: &str) -> Result<String> {
    let end = Instant::now() + BOOT_LIMIT;
    loop {
        let answer = system.pvctl(&["domid", domain])?;
        // In the making it is paused, and has no console yet.
        if answer.code == 0 && answer.text != old {
            let list = json(system, &["list", domain, "-o", "json"])?;
            if !list[0]["state"].as_str().is_some_and(|state| state.contains('p')) {
                return Ok(answer.text);
            }
        }
        claim(Instant::now() < end, format!("it does not start again: {}", system.must(&["list"])?))?;
        system.session.wait_for(Duration::from_millis(200), |_| false);
    }
}

/// Lets a file be run.
pub(crate) fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, permissions).map_err(|error| Failure::at(path, &error))
}

/// Makes an ext4 image from a directory.
pub(crate) fn ext4(image: &Path, tree: &Path, size: &str) -> Result<()> {
    setup::need(&[setup::MKE2FS])?;
    if image.exists() {
        fs::remove_file(image).map_err(|error| Failure::at(image, &error))?;
    }
    let mut make = tools::command("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(tree).arg(image).arg(size);
    tools::quietly("mke2fs", &mut make).map(drop)
}

/// What the host finds wrong with an ext4 image.
pub(crate) fn fsck(image: &Path) -> Result<()> {
    tools::quietly("e2fsck", tools::command("e2fsck").args(["-f", "-n"]).arg(image)).map(drop)
}
