//! `cargo xtask run`, `pvctl` and `gdb`: a system for a person.

use crate::boot::{Card, Hardware};
use crate::failure::{Failure, Result};
use crate::images::{self, Profile};
use crate::linux::Flavour;
use crate::live_linux;
use crate::paths;
use crate::setup;
use crate::system::{Plan, build_pvctl};
use crate::tools::{self, say};
use crate::volume::Volume;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where QEMU's debug stub listens.
const GDB_PORT: &str = "1234";

/// Builds everything, boots QEMU and ends in dom0's shell.
///
/// Ctrl-a x leaves, Ctrl-a h tells QEMU's other keys. The volume with the guests' kernels and configurations is made
/// anew each time; `--file` adds to it, `--linux` adds a Linux guest, and `--disk` gives dom0 further disks, vdb first.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// A raw disk image for dom0 (may be given several times)
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// Put Debian's kernel with a ramdisk and a configuration on the volume: `create -c linux.cfg`
    #[arg(long, value_enum, value_name = "KERNEL", num_args = 0..=1, default_missing_value = "cloud", require_equals = true)]
    linux: Option<Flavour>,
    /// Put a file on the volume, under its own name or another (may be given several times)
    #[arg(long, value_name = "FILE[:NAME]", value_parser = volume_file)]
    file: Vec<(PathBuf, String)>,
    /// Without a terminal: the console goes to target/run/console.log, commands come through `cargo xtask pvctl`
    #[arg(long)]
    headless: bool,
    /// Take the images as they are
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    card: Card,
    #[command(flatten)]
    hardware: Hardware,
}

impl RunArgs {
    /// Runs the system until it ends.
    pub(crate) fn run(&self) -> Result<u8> {
        setup::need(&[setup::QEMU, setup::MTOOLS])?;
        if !self.no_build {
            images::build_for(self.hardware.hv.as_deref())?;
        }
        let mut hardware = self.hardware.clone();
        let least = self.linux.map_or(0, live_linux::least_memory);
        if hardware.memory < least {
            say(&format!("{least} MiB for the machine: a quarter is dom0's, which unpacks this kernel"));
            hardware.memory = least;
        }
        let dom0 = dom0_mib(hardware.memory);
        hardware.extra.extend(self.card.words());
        let plan = Plan {
            name: String::new(),
            hardware,
            dom0_args: String::new(),
            volume: self.volume()?,
            disks: self.disk.clone(),
        };
        let mut machine = plan.machine()?;
        if self.hardware.hv_args.is_none() {
            // Kernels are unpacked in dom0's memory: a larger machine has larger ones. The last word counts.
            machine.hypervisor_args.push_str(&format!(" dom0_mem={dom0}M"));
        }
        let mut command = machine.command()?;
        if self.headless {
            let log = paths::run().join("console.log");
            say(&format!("the console is in {}; control socket {}", log.display(), plan.socket().display()));
            command.args(["-monitor", "none", "-serial"]).arg(format!("file:{}", log.display()));
            command.stdin(Stdio::null());
        } else {
            say("Ctrl-a x leaves QEMU");
            command.args(["-serial", "mon:stdio"]);
        }
        let status = command.status().map_err(|error| Failure::new(format!("starting QEMU: {error}")))?;
        Ok(u8::from(!status.success()))
    }

    fn volume(&self) -> Result<Volume> {
        let mut volume = standard_volume();
        if let Some(flavour) = self.linux {
            live_linux::add(&mut volume, flavour, self.disk.len())?;
        }
        for (file, name) in &self.file {
            volume.add(file, name);
        }
        Ok(volume)
    }
}

/// How much of so much memory is dom0's.
fn dom0_mib(memory: u32) -> u32 {
    (memory / 4).clamp(128, 512)
}

/// Reads `FILE` or `FILE:NAME`.
fn volume_file(text: &str) -> std::result::Result<(PathBuf, String), String> {
    let (file, name) = match text.rsplit_once(':') {
        Some((file, name)) => (PathBuf::from(file), name.to_owned()),
        None => (PathBuf::from(text), paths::file_name(Path::new(text))),
    };
    if !file.is_file() {
        return Err(format!("{}: no such file", file.display()));
    }
    if name.is_empty() || name.contains('/') {
        return Err(format!("'{name}' is no name for a file on the volume"));
    }
    Ok((file, name))
}

/// What guests of the standard volume need besides a kernel.
const DEVICES: [(&str, &str); 1] = [("net-server", "vif = [ '' ]\nextra = 'ip=10.0.2.15/24 gw=10.0.2.2'\n")];

/// Every guest kernel, each with a configuration to create it from.
fn standard_volume() -> Volume {
    let mut volume = Volume::default();
    for name in images::guest_names().into_iter().filter(|name| images::guest(name).exists()) {
        volume.add(&images::guest(&name), &name);
        let more = DEVICES.iter().find(|(guest, _)| *guest == name).map_or("", |(_, more)| more);
        let config = format!("name = \"{name}\"\nkernel = \"{name}\"\nmemory = 32\nvcpus = 1\n{more}");
        volume.add_text(&format!("{name}.cfg"), &config);
    }
    volume
}

/// Runs the host's `pvctl` against the system that `run` started.
pub(crate) fn pvctl(words: &[String]) -> Result<u8> {
    let socket = paths::run().join("ctl.sock");
    let mut command = Command::new(build_pvctl()?);
    let status = command.env("PVCTL_SOCKET", socket).args(words).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Debugs the hypervisor.
#[derive(Debug, clap::Args)]
pub(crate) struct GdbArgs {
    /// Attach to a QEMU that was started with `-s` instead of starting one
    #[arg(long)]
    attach: bool,
    /// The kernel to boot as dom0 [default: target/images/dom0]
    #[arg(long, value_name = "FILE")]
    dom0: Option<PathBuf>,
    #[command(flatten)]
    hardware: Hardware,
}

impl GdbArgs {
    /// Starts a stopped machine (its console goes to target/run/console.log) and gdb with the hypervisor's symbols.
    pub(crate) fn run(&self) -> Result<u8> {
        setup::need(&[setup::QEMU, setup::GDB])?;
        let machine = if self.attach { None } else { Some(self.start()?) };
        let mut gdb = tools::command("gdb");
        gdb.arg(images::hypervisor()).args(["-ex", "set confirm off", "-ex"]);
        gdb.arg(format!("target remote :{GDB_PORT}"));
        // The image's own page tables come later: until then only hardware breakpoints reach its addresses.
        gdb.args(["-ex", "set breakpoint pending on"]);
        let status = gdb.status()?;
        if let Some(mut machine) = machine {
            // Killing fails only when QEMU has ended already.
            let _ = machine.kill();
            machine.wait()?;
        }
        Ok(u8::from(!status.success()))
    }

    fn start(&self) -> Result<std::process::Child> {
        images::build_all(Profile::Release)?;
        let plan = Plan {
            name: String::new(),
            hardware: self.hardware.clone(),
            dom0_args: String::new(),
            volume: standard_volume(),
            disks: Vec::new(),
        };
        let mut machine = plan.machine()?;
        if let (Some(file), Some(module)) = (&self.dom0, machine.modules.first_mut()) {
            module.file.clone_from(file);
        }
        let log = paths::run().join("console.log");
        say(&format!("the console is in {}", log.display()));
        let mut command = machine.command()?;
        command.args(["-S", "-gdb", &format!("tcp::{GDB_PORT}"), "-monitor", "none", "-serial"]);
        command.arg(format!("file:{}", log.display())).stdin(Stdio::null());
        Ok(command.spawn()?)
    }
}
