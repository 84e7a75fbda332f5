//! Linux as the load: Debian's kernel with a ramdisk of busybox, as dom0 and as a guest that our dom0 makes on either
//! hypervisor.
//!
//! The machine counts instructions, and Linux's clock goes by them; so a time in nanoseconds is a number of instructions.

use super::figures::{self, Clock, Figure, Side};
use super::parts::Scene;
use crate::failure::{Failure, Result};
use crate::linux;
use crate::paths;
use crate::qemu::{Echo, Machine, Module};
use crate::tools::say;
use crate::volume::Volume;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
/// Words for the kernel.
const WORDS: &str = "console=hvc0 panic=1 loglevel=3";
/// What the rows of Linux as dom0 begin with.
const DOM0: &str = "linux_dom0";
/// The row of Linux's boot as dom0.
pub(crate) const BOOT_OF_DOM0: &str = "linux_dom0_boot_to_init";
/// What Linux says first of all.
pub(crate) const FIRST_WORD: &str = "about to get started";
/// What the load says before it begins.
pub(crate) const UP: &str = "LOAD BEGINS";
/// What it says when it is through.
const PROOF: &str = "LOAD DONE";

/// Each load is a name, how often it is done, and what. The clock that the shell reads without a process of its own has
/// steps of 10 ms, which are ten million instructions; a load takes some hundred million at least.
const LOADS: [(&str, u32, &str); 6] = [
    ("fork_and_exec", 200, "while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done"),
    ("fork", 300, "while [ $i -lt 300 ]; do (:); i=$((i+1)); done"),
    ("pipe_round_trip", 10000, "while [ $i -lt 10000 ]; do echo x >&4; read y <&5; i=$((i+1)); done"),
    ("small_read_and_write", 40000, "dd if=/dev/zero of=/dev/null bs=1 count=40000 2>/dev/null"),
    ("file_write_of_4096_bytes", 16000, "dd if=/dev/zero of=/file bs=4k count=16000 2>/dev/null; rm /file"),
    ("page_fault", 12288, "dd if=/dev/zero of=/dev/null bs=48M count=1 2>/dev/null"),
];

/// The first program: `say` and `clock` are the shell's own, so that nothing else runs while a load is measured.
fn script(prefix: &str, say: &str) -> String {
    let mut loads = String::new();
    LOADS.iter().for_each(|load| loads.push_str(&measured(prefix, load, 1)));
    loads.push_str(&boot(prefix));
    script_of(say, &loads)
}

fn boot(prefix: &str) -> String {
    format!("bench {prefix}_boot_to_init 1 $booted\n")
}

/// One load, done so many times.
fn measured(prefix: &str, (name, count, what): &(&str, u32, &str), times: u64) -> String {
    let all = u64::from(*count) * times;
    let what = vec![format!("i=0; {what}; "); usize::try_from(times).unwrap_or(1)].concat();
    format!("clock; start=$now; {what}clock; bench {prefix}_{name} {all} $(( (now - start) * 10000000 ))\n")
}

fn script_of(say: &str, loads: &str) -> String {
    let mut text = linux::PROLOGUE.to_owned();
    text.push_str(say);
    text.push_str("clock() { read up rest </proc/uptime; now=${up%.*}${up#*.}; }\n");
    text.push_str("bench() { say \"BENCH $1 $2 $(( $3 / $2 )) $(( $3 / $2 ))\"; }\n");
    text.push_str(&format!("mknod /dev/zero c 1 5\nclock; booted=${{now}}0000000\nsay '{UP}'\n"));
    text.push_str(
        "mkfifo /there /back; (while read x; do echo y; done </there >/back) & exec 4>/there 5</back\n",
    );
    text.push_str(loads);
    text.push_str(&format!("say '{PROOF}'\nsleep 1\npoweroff -f\nsleep 60\n"));
    text
}

/// A guest has a console; a kernel that is not made to be dom0 has only its log.
const SAY_TO_CONSOLE: &str = "mknod /dev/hvc0 c 229 0; say() { echo \"$*\" >/dev/hvc0; }\n";
const SAY_TO_LOG: &str = "say() { echo \"<1>$*\" >/dev/kmsg; }\n";

/// Measures on one hypervisor.
pub(crate) fn measure(side: &Side) -> Result<Vec<Figure>> {
    let mut all = guest(side)?;
    say("  Linux as dom0");
    all.extend(dom0(side)?);
    Ok(all)
}

fn files(name: &str, script: &str) -> Result<PathBuf> {
    let busybox = linux::busybox()
        .ok_or_else(|| Failure::missing("there is no busybox: apt install busybox-static"))?;
    let ramdisk = paths::target().join("linux").join(format!("bench-{name}.cpio"));
    paths::write(&ramdisk, linux::archive(&busybox, script)?)?;
    Ok(ramdisk)
}

fn kernel(found: Option<PathBuf>) -> Result<PathBuf> {
    found.ok_or_else(|| {
        Failure::missing("there is no Linux: apt install linux-image-cloud-amd64 linux-image-amd64")
    })
}

/// Made by our dom0.
fn guest(side: &Side) -> Result<Vec<Figure>> {
    let kernel = kernel(linux::kernel())?;
    let mut volume = Volume::default();
    volume.add(&kernel, "vmlinuz");
    volume.add(&files("guest", &script("linux_guest", SAY_TO_CONSOLE))?, "load.cpio");
    let config = format!(
        "name = \"load\"\nkernel = \"vmlinuz\"\nramdisk = \"load.cpio\"\nmemory = 256\nvcpus = 1\n\
         extra = \"{WORDS}\"\non_poweroff = \"destroy\"\non_crash = \"destroy\"\n"
    );
    volume.add_text("load.cfg", &config);
    let commands = "create load.cfg; wait load; log load";
    let scene = Scene { name: "linux".into(), smp: 1, memory: 1024, volume, commands: commands.into() };
    Ok(figures::read(&scene.console(side, Clock::Instructions, LIMIT, PROOF)?))
}

/// As dom0: no toolstack takes part.
fn dom0(side: &Side) -> Result<Vec<Figure>> {
    let ended = machine_of_dom0(side, &script(DOM0, SAY_TO_LOG))?.run(LIMIT, Echo::Off)?;
    if ended.console.contains(PROOF) {
        return Ok(figures::read(&ended.console));
    }
    Err(Failure::new(format!("Linux as dom0 did not do its load\n{}", ended.console)))
}

fn machine_of_dom0(side: &Side, script: &str) -> Result<Machine> {
    let kernel = kernel(full_kernel().or_else(linux::kernel))?;
    let mut machine = side.machine(Clock::Instructions, &kernel, WORDS);
    machine.memory = 1024;
    machine.hypervisor_args.push_str(" dom0_mem=512M dom0_max_vcpus=1");
    machine.modules.push(Module { file: files("dom0", script)?, args: String::new() });
    Ok(machine)
}

/// The load of a row, if it is one of Linux as dom0.
fn load_of_dom0(row: &str) -> Option<&'static (&'static str, u32, &'static str)> {
    let name = row.strip_prefix(DOM0)?.strip_prefix('_')?;
    LOADS.iter().find(|(load, ..)| *load == name)
}

/// Whether a row is a load of Linux as dom0.
pub(crate) fn is_of_dom0(row: &str) -> bool {
    load_of_dom0(row).is_some()
}

/// Linux as dom0 that boots and does no load.
pub(crate) fn boot_of_dom0(side: &Side) -> Result<Machine> {
    machine_of_dom0(side, &script_of(SAY_TO_LOG, &boot(DOM0)))
}

/// Linux as dom0 that does one load so many times.
pub(crate) fn repeated(side: &Side, row: &str, times: u64) -> Result<Machine> {
    let load = load_of_dom0(row).ok_or_else(|| Failure::new(format!("{row} is no load of Linux as dom0")))?;
    machine_of_dom0(side, &script_of(SAY_TO_LOG, &measured(DOM0, load, times)))
}

/// A kernel that is made to be dom0, too.
fn full_kernel() -> Option<PathBuf> {
    let fits = |path: &Path| {
        let name = paths::file_name(path);
        name.starts_with("vmlinuz-")
            && name.ends_with("-amd64")
            && !name.contains("cloud")
            && std::fs::File::open(path).is_ok()
    };
    paths::list(Path::new("/boot"), fits).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_measures_every_load() {
        let text = script("p", SAY_TO_LOG);
        assert!(LOADS.iter().all(|(name, ..)| text.contains(&format!("bench p_{name} "))));
    }
}
