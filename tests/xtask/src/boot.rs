//! `cargo xtask boot`: any PV kernel as dom0, its console here, its shutdown reason as our exit status.

use crate::failure::Result;
use crate::images;
use crate::networks;
use crate::qemu::{Accel, Echo, Ended, Machine, Module, Reason};
use crate::tools::say;
use std::path::PathBuf;
use std::time::Duration;

/// Status when the limit passed.
const TIMED_OUT: u8 = 124;
/// Status when the machine ended without a word of why: a reset, or a hypervisor that died.
const NO_REASON: u8 = 13;

/// Boots a PV kernel as the first module of the hypervisor and streams its console.
///
/// Exit status by the shutdown reason: poweroff 0, reboot 0, crash 10, watchdog 11, suspend or soft reset 12; 13 if the
/// machine ended without one (a hypervisor panic, a triple fault); 124 if the time limit passed.
#[derive(Debug, clap::Args)]
pub(crate) struct BootArgs {
    /// The kernel: any Xen PV64 ELF or bzImage
    #[arg(long, value_name = "FILE")]
    dom0: PathBuf,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    args: String,
    /// Its ramdisk, as second module
    #[arg(long, value_name = "FILE")]
    ramdisk: Option<PathBuf>,
    /// Stop the machine after so many seconds (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    #[command(flatten)]
    card: Card,
    #[command(flatten)]
    hardware: Hardware,
}

/// The machine's size, for every verb that starts one.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Hardware {
    /// Number of pcpus
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) smp: u32,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// How the processor is emulated
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// The hypervisor to boot instead of target/images/xen-like-hv
    #[arg(long, value_name = "FILE")]
    pub(crate) hv: Option<PathBuf>,
    /// The hypervisor's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) hv_args: Option<String>,
    /// Further words for QEMU
    #[arg(last = true, value_name = "QEMU WORDS")]
    pub(crate) extra: Vec<String>,
}

/// A network card for dom0.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Card {
    /// Give dom0 a network card with QEMU's user network (10.0.2.0/24, the host at 10.0.2.2) behind it
    #[arg(long)]
    net: bool,
    /// Let a TCP port of 127.0.0.1 lead to a guest: PORT:ADDRESS:PORT, such as 8080:10.0.2.15:80 (implies --net)
    #[arg(long, value_name = "PORT:ADDRESS:PORT", value_parser = forward)]
    forward: Vec<(u16, String, u16)>,
}

/// Reads `8080:10.0.2.15:80`.
fn forward(text: &str) -> std::result::Result<(u16, String, u16), String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [host, address, guest] = parts.as_slice() else {
        return Err("expected PORT:ADDRESS:PORT".into());
    };
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("'{text}' is no port"));
    let address: std::net::Ipv4Addr =
        address.parse().map_err(|_| format!("'{address}' is no IPv4 address"))?;
    Ok((port(host)?, address.to_string(), port(guest)?))
}

impl Card {
    /// QEMU's words for it.
    pub(crate) fn words(&self) -> Vec<String> {
        if !self.net && self.forward.is_empty() {
            return Vec::new();
        }
        let forwards: Vec<(u16, &str, u16)> =
            self.forward.iter().map(|(host, address, port)| (*host, address.as_str(), *port)).collect();
        networks::card(&forwards)
    }
}

impl Hardware {
    /// Gives a machine this size.
    pub(crate) fn apply(&self, machine: &mut Machine) {
        machine.smp = self.smp;
        machine.memory = self.memory;
        machine.accel = self.accel;
        if let Some(file) = &self.hv {
            machine.hypervisor.clone_from(file);
        }
        if let Some(words) = &self.hv_args {
            machine.hypervisor_args.clone_from(words);
        }
        machine.extra.extend(self.extra.iter().cloned());
    }
}

impl BootArgs {
    /// Boots and returns the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        let hypervisor = images::hypervisor();
        if self.hardware.hv.is_none() && !hypervisor.exists() {
            images::build_all(images::Profile::Release)?;
        }
        let mut machine = Machine::new(&hypervisor, &self.dom0, &self.args);
        machine
            .modules
            .extend(self.ramdisk.iter().map(|file| Module { file: file.clone(), args: String::new() }));
        self.hardware.apply(&mut machine);
        machine.extra.extend(self.card.words());
        let limit = if self.timeout == 0 { Duration::MAX } else { Duration::from_secs(self.timeout) };
        let ended = machine.run(limit.min(Duration::from_secs(u64::from(u32::MAX))), Echo::On)?;
        Ok(report(&ended))
    }
}

/// Says how the machine ended and gives the status that goes with it.
fn report(ended: &Ended) -> u8 {
    let seconds = ended.took.as_secs_f32();
    let Some(reason) = ended.reason else {
        if ended.timed_out {
            say(&format!("stopped at the time limit, after {seconds:.1} s"));
            return TIMED_OUT;
        }
        say(&format!("the machine ended without a shutdown reason, after {seconds:.1} s"));
        return NO_REASON;
    };
    say(&format!("dom0 ended: {reason:?}, after {seconds:.1} s"));
    match reason {
        Reason::Poweroff | Reason::Reboot => 0,
        Reason::Crash => 10,
        Reason::Watchdog => 11,
        Reason::Suspend | Reason::SoftReset => 12,
        Reason::Unsound => 13,
    }
}
