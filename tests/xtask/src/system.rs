//! A whole running system: the hypervisor, our dom0 with its volume and disks, and the control channel to it.

use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::qemu::{Echo, Ended, Machine, Session};
use crate::tools;
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long dom0 may take until it answers on its control channel.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly shutdown may take.
const DOWN_LIMIT: Duration = Duration::from_secs(30);

/// How many clients dom0 serves at a time.
const CHANNELS: u32 = 3;

/// What a system consists of.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Tells systems that run at the same time apart; names its scratch directory.
    pub(crate) name: String,
    /// Its size.
    pub(crate) hardware: Hardware,
    /// dom0's command line.
    pub(crate) dom0_args: String,
    /// What is on the volume.
    pub(crate) volume: Volume,
    /// Further disks, raw images.
    pub(crate) disks: Vec<PathBuf>,
}

impl Plan {
    /// The scratch directory.
    fn dir(&self) -> PathBuf {
        if self.name.is_empty() { paths::run() } else { paths::run().join(&self.name) }
    }

    /// The control channel's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("ctl.sock")
    }

    /// QEMU's words for the control channels: `ctl.sock`, `ctl.sock.1` and so on.
    fn channels(&self) -> Result<Vec<String>> {
        let mut words = Vec::new();
        for number in 0..CHANNELS {
            let mut socket = self.socket();
            if number > 0 {
                socket.set_extension(format!("sock.{number}"));
            }
            // A socket of an earlier run would make QEMU fail to listen.
            if socket.exists() {
                fs::remove_file(&socket)?;
            }
            let path = quoted(&socket);
            // A controller of its own for each: dom0's driver knows the first port only. More ports would be more queues,
            // all of which QEMU looks at whenever any device has something to do.
            words.extend([
                "-device".into(),
                format!("virtio-serial-pci,id=serial{number},max_ports=1"),
                "-device".into(),
                format!("virtconsole,bus=serial{number}.0,chardev=ctl{number}"),
                "-chardev".into(),
                format!("socket,id=ctl{number},path={path},server=on,wait=off"),
            ]);
        }
        Ok(words)
    }

    /// The machine, with its volume made anew.
    pub(crate) fn machine(&self) -> Result<Machine> {
        let dir = self.dir();
        paths::make_dir(&dir)?;
        let volume = dir.join("volume.img");
        self.volume.make(&volume)?;
        let mut machine = Machine::new(&images::hypervisor(), &images::dom0(), &self.dom0_args);
        // The rest of the memory is for guests.
        machine.hypervisor_args.push_str(" dom0_mem=128M");
        machine.extra = self.channels()?;
        for (number, disk) in std::iter::once(&volume).chain(&self.disks).enumerate() {
            if !disk.is_file() {
                return Err(Failure::new(format!("{}: no such disk", disk.display())));
            }
            machine.extra.push("-drive".into());
            machine
                .extra
                .push(format!("if=none,id=disk{number},format=raw,discard=unmap,file={}", quoted(disk)));
            machine.extra.push("-device".into());
            machine.extra.push(format!("virtio-blk-pci,drive=disk{number}"));
        }
        self.hardware.apply(&mut machine);
        Ok(machine)
    }

    /// Starts it with its console on pipes and waits until dom0 answers.
    pub(crate) fn start(&self) -> Result<System> {
        let pvctl = build_pvctl()?;
        let session = self.machine()?.start(Echo::Off)?;
        let mut system = System { session, pvctl, socket: self.socket() };
        let end = Instant::now() + UP_LIMIT;
        while system.pvctl(&["list"])?.code != 0 {
            // A pause, in which the console is read.
            system.session.wait_for(Duration::from_millis(300), |_| false);
            if Instant::now() > end {
                return Err(Failure::new(format!("dom0 does not answer\n{}", system.session.console())));
            }
        }
        Ok(system)
    }
}

/// A path as a value inside a QEMU option, where a comma is written twice.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A running system.
pub(crate) struct System {
    /// Its machine and console.
    pub(crate) session: Session,
    pvctl: PathBuf,
    socket: PathBuf,
}

/// What a command of `pvctl` gave.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Its exit status; 255 if it was killed.
    pub(crate) code: i32,
    /// What it printed, errors included.
    pub(crate) text: String,
}

impl System {
    /// A command of `pvctl` that is yet to be started.
    pub(crate) fn pvctl_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.pvctl);
        command.env("PVCTL_SOCKET", &self.socket).args(words).stdin(std::process::Stdio::null());
        command
    }

    /// Runs a command of `pvctl`.
    pub(crate) fn pvctl(&self, words: &[&str]) -> Result<Answer> {
        let mut command = self.pvctl_command(words);
        let done = command.output().map_err(|error| Failure::at(&self.pvctl, &error))?;
        let text = [done.stdout, done.stderr].concat();
        Ok(Answer {
            code: done.status.code().unwrap_or(255),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// Runs a command that has to work; what it printed.
    pub(crate) fn must(&self, words: &[&str]) -> Result<String> {
        let answer = self.pvctl(words)?;
        if answer.code == 0 {
            return Ok(answer.text);
        }
        Err(Failure::new(format!(
            "pvctl {}: status {}: {}",
            words.join(" "),
            answer.code,
            answer.text.trim()
        )))
    }

    /// The hypervisor's free pages, as dom0 tells.
    pub(crate) fn free_pages(&self) -> Result<u64> {
        let text = self.must(&["info", "-o", "json"])?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("info -o json: {error}\n{text}")))?;
        value["free_pages"]
            .as_u64()
            .ok_or_else(|| Failure::new(format!("info -o json has no free_pages\n{text}")))
    }

    /// Shuts dom0 down and waits for the machine to end.
    pub(crate) fn shut_down(mut self) -> Result<Ended> {
        self.pvctl(&["poweroff"])?;
        self.session.wait(DOWN_LIMIT)
    }
}

/// Builds the host's `pvctl`; where it is.
pub(crate) fn build_pvctl() -> Result<PathBuf> {
    let mut cargo = tools::cargo();
    cargo
        .args(["build", "--quiet", "-p", "dom0-tools", "--bin", "pvctl", "--target-dir"])
        .arg(paths::target());
    tools::must("building pvctl", &mut cargo)?;
    Ok(paths::target().join("debug/pvctl"))
}
