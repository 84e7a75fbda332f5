//! Starting machines in QEMU and reading their consoles.

use crate::failure::{Failure, Result};
use crate::paths;
use crate::setup;
use crate::tools;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// QEMU's debug-exit device, by which the probe's machine tells that it runs: a byte `v` written there ends QEMU with status `2 * v + 1`.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x04";
/// How long QEMU may linger after the console has told how the machine ended.
const GRACE: Duration = Duration::from_secs(5);
/// How long the acceleration probe may take; a working KVM needs a fraction of a second.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How much of a console's end is searched for news each time some arrives.
const TAIL: usize = 16 * 1024;
/// What the probe's machine ends QEMU with.
const PROBE_STATUS: i32 = 33;

/// How the processor is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accel {
    /// KVM if a tiny machine starts under it, else TCG.
    Auto,
    /// The host's processor, through KVM.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

impl Accel {
    /// Settles `Auto` by trying.
    pub(crate) fn settle(self) -> Self {
        static KVM_WORKS: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Auto if *KVM_WORKS.get_or_init(kvm_works) => Self::Kvm,
            Self::Auto => Self::Tcg,
            settled => settled,
        }
    }

    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "max"],
            // TCG treats a guest kernel's iretq at CPL 3 as a supervisor access when SMAP is on.
            Self::Tcg | Self::Auto => ["-accel", "tcg", "-cpu", "max,-smap"],
        }
    }
}

/// Whether KVM starts a machine: a `/dev/kvm` that exists proves nothing on cloud machines.
fn kvm_works() -> bool {
    let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    usable && has_virtualisation() && probe().unwrap_or(false)
}

/// Whether the processor tells of hardware virtualisation. A KVM without it runs user programs and the BIOS, but
/// ends with an internal error on instructions that only a kernel uses.
fn has_virtualisation() -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .any(|line| line.starts_with("flags") && line.split_whitespace().any(|f| f == "vmx" || f == "svm"))
}

/// Boots a few bytes through the BIOS under KVM; whether they ran in time.
fn probe() -> Result<bool> {
    let payload = paths::run().join("probe.bin");
    paths::write(&payload, probe_payload())?;
    let mut command = tools::command("qemu-system-x86_64");
    command.args([
        "-M",
        "pc",
        "-m",
        "64",
        "-display",
        "none",
        "-serial",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
    ]);
    command.args(Accel::Kvm.words()).args(["-device", DEBUG_EXIT, "-kernel"]).arg(&payload);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let start = Instant::now();
    while start.elapsed() < PROBE_LIMIT {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(PROBE_STATUS));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    stop(&mut child);
    Ok(false)
}

/// A multiboot image of one instruction pair: write 16 to the debug-exit port.
fn probe_payload() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const HAS_ADDRESSES: u32 = 1 << 16;
    const LOAD: u32 = 0x10_0000;
    const HEADER: u32 = 32;
    // mov al, 16; out 0xf4, al; jmp self
    const CODE: [u8; 6] = [0xb0, 0x10, 0xe6, 0xf4, 0xeb, 0xfe];
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(HAS_ADDRESSES);
    // Header, load and bss addresses all start at LOAD; 0 means "to the end of the file", "no bss".
    let words = [MAGIC, HAS_ADDRESSES, checksum, LOAD, LOAD, 0, 0, LOAD + HEADER];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(CODE).collect()
}

fn stop(child: &mut Child) {
    // Killing fails only when the process has ended already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

/// A boot module: a file and its command line.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// The file.
    pub(crate) file: PathBuf,
    /// The words after the file's name.
    pub(crate) args: String,
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The hypervisor image.
    pub(crate) hypervisor: PathBuf,
    /// Its command line.
    pub(crate) hypervisor_args: String,
    /// dom0's kernel, then its ramdisk.
    pub(crate) modules: Vec<Module>,
    /// Number of pcpus.
    pub(crate) smp: u32,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// How the processor is emulated.
    pub(crate) accel: Accel,
    /// Further words for QEMU.
    pub(crate) extra: Vec<String>,
}

/// What our hypervisor is told unless the caller says otherwise.
pub(crate) const DEFAULT_ARGS: &str = "console=com1 com1=115200,8n1 loglvl=info guest_loglvl=info audit";

impl Machine {
    /// A machine with our hypervisor and one dom0 kernel.
    pub(crate) fn new(hypervisor: &Path, dom0: &Path, args: &str) -> Self {
        Self {
            hypervisor: hypervisor.to_path_buf(),
            hypervisor_args: DEFAULT_ARGS.to_owned(),
            modules: vec![Module { file: dom0.to_path_buf(), args: args.to_owned() }],
            smp: 1,
            memory: 512,
            accel: Accel::Auto,
            extra: Vec::new(),
        }
    }

    /// The QEMU command, all but the console.
    pub(crate) fn command(&self) -> Result<Command> {
        setup::need(&[setup::QEMU])?;
        for file in self.modules.iter().map(|module| &module.file).chain([&self.hypervisor]) {
            fs::File::open(file).map_err(|error| Failure::at(file, &error))?;
        }
        let mut command = dying_with_us();
        command.args(["-M", "pc"]).args(self.accel.settle().words());
        command.args(["-m", &self.memory.to_string(), "-smp", &self.smp.to_string()]);
        command.args(["-display", "none", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(&self.hypervisor).args(["-append", &self.hypervisor_args]);
        if !self.modules.is_empty() {
            command.args(["-initrd", &self.initrd()?]);
        }
        command.args(&self.extra);
        Ok(command)
    }

    /// QEMU's `-initrd` word: `file args,file args`, with commas inside doubled.
    fn initrd(&self) -> Result<String> {
        let mut words = Vec::new();
        for (number, module) in self.modules.iter().enumerate() {
            let file = plain_path(&module.file, number)?;
            let text = format!("{} {}", file.display(), module.args);
            words.push(text.trim_end().replace(',', ",,"));
        }
        Ok(words.join(","))
    }

    /// Runs the machine to its end, or for `limit`. The console is kept, and echoed if asked.
    pub(crate) fn run(&self, limit: Duration, echo: Echo) -> Result<Ended> {
        let mut session = self.start(echo)?;
        session.wait(limit)
    }

    /// Starts the machine with its console on pipes.
    pub(crate) fn start(&self, echo: Echo) -> Result<Session> {
        let mut command = self.command()?;
        command.args(["-serial", "stdio", "-monitor", "none"]);
        command.stdin(if echo == Echo::On { Stdio::inherit() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::new(format!("starting QEMU: {error}")))?;
        let (sender, receiver) = channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|s| Box::new(s) as _), child.stderr.take().map(|s| Box::new(s) as _)];
        for mut stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if sender.send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Session { child, receiver, console: Vec::new(), echo, start: Instant::now() })
    }
}

/// A QEMU that the kernel kills should we die: an orphan would eat a processor for ever.
fn dying_with_us() -> Command {
    let qemu = tools::command("qemu-system-x86_64");
    let Some(setpriv) = tools::find(&["setpriv"]) else { return qemu };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(qemu.get_program());
    command
}

/// A path that QEMU can split from its arguments: without spaces and commas.
fn plain_path(file: &Path, number: usize) -> Result<PathBuf> {
    if !file.to_string_lossy().contains([' ', ',']) {
        return Ok(file.to_path_buf());
    }
    let copy = paths::run().join(format!("module-{number}"));
    paths::copy(file, &copy)?;
    Ok(copy)
}

/// Whether a console is shown while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Shown, and the terminal's input goes to the machine.
    On,
    /// Kept only.
    Off,
}

/// A running machine.
pub(crate) struct Session {
    child: Child,
    receiver: Receiver<Vec<u8>>,
    console: Vec<u8>,
    echo: Echo,
    start: Instant,
}

/// How a machine ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// All it printed.
    pub(crate) console: String,
    /// Why dom0 went, if the hypervisor told.
    pub(crate) reason: Option<Reason>,
    /// Whether it had to be stopped.
    pub(crate) timed_out: bool,
    /// How long it ran.
    pub(crate) took: Duration,
}

impl Session {
    /// What the machine has printed so far.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).replace('\r', "")
    }

    /// The last lines, where news is.
    fn tail(&self) -> String {
        let from = self.console.len().saturating_sub(TAIL);
        String::from_utf8_lossy(self.console.get(from..).unwrap_or_default()).into_owned()
    }

    /// Reads the console until `done` says so; false if the machine ended or `limit` passed before.
    pub(crate) fn wait_for(&mut self, limit: Duration, done: impl Fn(&str) -> bool) -> bool {
        let end = Instant::now() + limit;
        loop {
            if done(&self.console()) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// The processor time that QEMU has used, in steps of a hundredth of a second.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let file = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        let text = fs::read_to_string(&file).map_err(|error| Failure::at(&file, &error))?;
        let ticks =
            processor_ticks(&text).ok_or_else(|| Failure::new(format!("{}: {text}", file.display())))?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Waits for the end, or stops the machine after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let mut end = Instant::now() + limit;
        let mut told = false;
        let timed_out = loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break !told,
            }
            if !told && Reason::find(&self.tail()).is_some() {
                told = true;
                end = end.min(Instant::now() + GRACE);
            }
        };
        stop(&mut self.child);
        let console = self.console();
        Ok(Ended { reason: Reason::find(&console), console, timed_out, took: self.start.elapsed() })
    }

    fn take(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        if self.echo == Echo::On {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away must not end the machine.
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// User and system time of a process in the kernel's hundredths of a second; its name, which is in brackets, may
/// have blanks.
fn processor_ticks(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?)
}

/// Why dom0 went, as the hypervisor's last line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The machine was to be switched off.
    Poweroff,
    /// The machine was to start again.
    Reboot,
    /// dom0 suspended itself.
    Suspend,
    /// dom0 crashed.
    Crash,
    /// dom0's watchdog ran out.
    Watchdog,
    /// dom0 asked for a soft reset.
    SoftReset,
    /// It was to be switched off, but the last audit found faults.
    Unsound,
}

/// What precedes the number of faults that the last audit found.
const AUDIT_MARK: &str = "hv: audit: ";

/// What precedes the reason in our hypervisor's last line.
const REASON_MARK: &str = "hv: dom0 shut down: reason=";

/// Xen's words for the same, so that the same machines run on it.
const XEN_WORDS: [(&str, Reason); 5] = [
    ("Hardware Dom0 halted", Reason::Poweroff),
    ("Hardware Dom0 crashed", Reason::Crash),
    ("Hardware Dom0 shutdown: rebooting", Reason::Reboot),
    ("Hardware Dom0 shutdown: watchdog", Reason::Watchdog),
    ("Hardware Dom0 did unsupported soft reset", Reason::SoftReset),
];

impl Reason {
    /// Finds the reason in a console.
    fn find(console: &str) -> Option<Self> {
        let sound = |line: &str| line.split_once(AUDIT_MARK).is_none_or(|(_, text)| text.starts_with("0 "));
        let reason = Self::find_last(console)?;
        Some(if console.lines().all(sound) { reason } else { Self::Unsound })
    }

    fn find_last(console: &str) -> Option<Self> {
        console.lines().rev().find_map(|line| {
            if let Some((_, word)) = line.split_once(REASON_MARK) {
                return Self::from_word(word.trim());
            }
            if !line.contains("(XEN)") {
                return None;
            }
            XEN_WORDS.iter().find(|(words, _)| line.contains(words)).map(|(_, reason)| *reason)
        })
    }

    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "poweroff" => Self::Poweroff,
            "reboot" => Self::Reboot,
            "suspend" => Self::Suspend,
            "crash" => Self::Crash,
            "watchdog" => Self::Watchdog,
            "soft_reset" => Self::SoftReset,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_from_the_last_line_that_tells_one() {
        let console = "x\n(xen) hv: dom0 shut down: reason=poweroff\r\nbye\n";
        assert_eq!(Reason::find(console), Some(Reason::Poweroff));
        assert_eq!(
            Reason::find("(XEN) Hardware Dom0 crashed: rebooting machine in 5 seconds."),
            Some(Reason::Crash)
        );
        assert_eq!(Reason::find("guest says: Hardware Dom0 halted"), None);
        assert_eq!(Reason::find("hv: dom0 shut down: reason=nonsense"), None);
    }

    #[test]
    fn an_end_with_audit_faults_is_not_orderly() {
        let end = |faults: &str| {
            Reason::find(&format!(
                "hv: audit: {faults} faults, 1 domains\nhv: dom0 shut down: reason=poweroff\n"
            ))
        };
        assert_eq!(end("0"), Some(Reason::Poweroff));
        assert_eq!(end("3"), Some(Reason::Unsound));
    }

    #[test]
    fn processor_time_is_user_and_system_time() {
        let stat = "12 (a b) c) S 1 1 1 0 -1 4 5 0 0 0 30 7 0 0 20 0";
        assert_eq!(processor_ticks(stat), Some(37));
        assert_eq!(processor_ticks("12 (a) S 1"), None);
    }

    #[test]
    fn commas_in_module_arguments_are_doubled() {
        let mut machine = Machine::new(Path::new("hv"), Path::new("/k"), "a=1,2");
        machine.modules.push(Module { file: "/r".into(), args: String::new() });
        assert_eq!(machine.initrd().ok().as_deref(), Some("/k a=1,,2,/r"));
    }

    #[test]
    fn the_probe_payload_is_a_multiboot_image() {
        let payload = probe_payload();
        let word =
            |at: usize| payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        assert_eq!(word(0).wrapping_add(word(4)).wrapping_add(word(8)), 0);
        assert_eq!(payload.len(), 38);
    }
}
