//! Disks, networks and the creation of guests: Debian's Linux as the guests, on our hypervisor with our dom0 and on Xen
//! with Debian's Linux as dom0 and Xen's own toolstack, in the same machine with the same guests and the same disk.
//!
//! The disk's and the network's work is done by several threads of QEMU's, and there are waits in it, so no instructions
//! are counted here. What counts is the processor time of QEMU itself, in which waits cost nothing; the guest's own
//! clock tells how long it took.

use super::figures::{self, Figure, Side};
use super::parts::DOM0_MIB;
use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::linux;
use crate::networks;
use crate::paths;
use crate::qemu::{Accel, Echo, Machine, Module, Session};
use crate::system::{Plan, System};
use crate::throughput;
use crate::tools::say;
use crate::typed::Typed;
use crate::volume::Volume;
use crate::xl;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How long anything may take until its mark is seen.
const LIMIT: Duration = Duration::from_secs(300);
/// Memory of the machine, and of Linux as dom0.
const MEMORY_MIB: u32 = 1280;
const LINUX_DOM0_MIB: u32 = 640;
/// Size of the guest's disk.
const DISK_BYTES: u64 = 128 << 20;
/// How often a guest is created; the cheapest counts.
const CREATIONS: usize = 5;
/// The rest before each: what was left of the last one is put in order meanwhile, as on a machine that is not busy.
const REST: Duration = Duration::from_secs(2);
const CREATION: &str = "create_to_init";

/// What a guest shows when its first program runs, and when it serves others.
const INIT: &str = "GUEST INIT";
const SERVING: &str = "GUEST SERVES";

/// A load: its name, how many operations it has, and the shell's words.
type Load = (&'static str, u32, &'static str);

/// What the guest does. Two thousand operations and more take seconds, and processor time is told in hundredths.
const LOADS: [Load; 8] = [
    ("idle_second", 10, "sleep 10"),
    (
        "disk_direct_read_of_4096_bytes",
        4000,
        "dd if=/dev/xvda of=/dev/null bs=4k count=4000 iflag=direct 2>/dev/null",
    ),
    (
        "disk_direct_write_of_4096_bytes",
        4000,
        "dd if=/dev/zero of=/dev/xvda bs=4k count=4000 oflag=direct 2>/dev/null",
    ),
    (
        "disk_sequential_read_of_1_MiB",
        512,
        "for n in 1 2 3 4; do dd if=/dev/xvda of=/dev/null bs=1M iflag=direct 2>/dev/null; done",
    ),
    (
        "disk_sequential_write_of_1_MiB",
        256,
        "for n in 1 2; do dd if=/dev/zero of=/dev/xvda bs=1M count=128 oflag=direct 2>/dev/null; done",
    ),
    ("network_send_of_1_MiB", 256, "iperf3 -p 5202 -c $PEER -n 256M >/dev/null"),
    ("network_receive_of_1_MiB", 256, "iperf3 -p 5202 -c $PEER -n 256M -R >/dev/null"),
    ("network_ping", 1000, "ping -q -A -c 1000 $PEER >/dev/null"),
];

/// The guest whose creation is measured: it ends as soon as it runs.
const SHORT: &str = "echo GUEST INIT
poweroff -f
sleep 60
";

const SERVER: &str = "echo GUEST SERVES
while :; do iperf3 -s -p 5202 >/dev/null; sleep 1; done
";

/// What is measured: the loads and creations whose rows contain a text.
#[derive(Debug, Clone, Copy)]
struct Choice<'a>(&'a str);

impl Choice<'_> {
    fn has(self, name: &str) -> bool {
        row(name).contains(self.0)
    }

    fn loads(self) -> impl Iterator<Item = Load> {
        LOADS.into_iter().filter(move |(name, ..)| self.has(name))
    }

    fn creations(self) -> usize {
        if self.has(CREATION) { CREATIONS } else { 0 }
    }
}

/// The row of a load.
fn row(name: &str) -> String {
    format!("io_{name}")
}

/// The guest with the loads, each between two marks with a rest, so that what sees the marks may come late. Time is the
/// shell's own to read.
fn client(choice: Choice<'_>) -> String {
    let mut text = "insmod /blkfront.ko || fail 'no blkfront'
i=0; while [ ! -b /dev/xvda ] && [ $i -lt 20 ]; do sleep 1; i=$((i+1)); done
clock() { read up rest </proc/uptime; now=${up%.*}${up#*.}; }
ping -c 2 -w 20 $PEER >/dev/null || fail 'no ping to the other guest'
"
    .to_owned();
    for (name, _, what) in choice.loads() {
        text.push_str(&format!(
            "echo BEGIN {name}; sleep 1; clock; start=$now; {what} || fail '{name}'; clock\n\
             echo END {name} $((now - start)) hundredths; sleep 1\n"
        ));
    }
    text.push_str("echo ALL DONE\nsleep 2\npoweroff -f\nsleep 60\n");
    text
}

/// A system whose consoles are watched.
trait Watched {
    /// Waits until a console shows `mark`, and gives the rest of its line.
    fn see(&mut self, mark: &str) -> Result<String>;
    /// The processor time that the machine has used.
    fn used(&self) -> Result<Duration>;
}

/// Measures on one hypervisor, for each row that contains `only`: the processor time and the time that passed.
pub(crate) fn measure(side: &Side, only: &str) -> Result<Vec<Figure>> {
    let choice = Choice(only);
    let files = guests(choice)?;
    let disk = paths::target().join("bench").join("disk.img");
    paths::write(&disk, "")?;
    fs::OpenOptions::new().write(true).open(&disk)?.set_len(DISK_BYTES)?;
    if side.is_ours() { ours(side, choice, &files, disk) } else { xen(side, choice, files, &disk) }
}

/// Files for the guests with their names.
type Files = Vec<(PathBuf, String)>;

const GUESTS: [(&str, &str); 3] =
    [("short", ""), ("server", "vif = [ 'bridge=xenbr0' ]\n"), ("client", CLIENT_DEVICES)];
const CLIENT_DEVICES: &str = "vif = [ 'bridge=xenbr0' ]\ndisk = [ 'phy:/dev/vdb,xvda,w' ]\n";

/// The kernel, and a ramdisk for each guest.
fn guests(choice: Choice<'_>) -> Result<Files> {
    let (kernel, busybox, netfront) = networks::linux_files().map_err(Failure::missing)?;
    let blkfront = linux::module_of(&kernel, "drivers/block/xen-blkfront")
        .ok_or_else(|| Failure::missing("the kernel has no xen-blkfront module beside it"))?;
    let mut files = vec![(kernel, "vmlinuz".to_owned())];
    let scripts = [("server", SERVER.to_owned()), ("client", client(choice))];
    for (name, script) in scripts {
        let file = paths::target().join("bench").join(format!("{name}.cpio"));
        let extra = [(blkfront.clone(), "blkfront.ko".to_owned())];
        paths::write(&file, throughput::ramdisk(&busybox, &netfront, &script, &extra)?)?;
        files.push((file, format!("{name}.ram")));
    }
    let short = paths::target().join("bench").join("short.cpio");
    paths::write(&short, linux::archive(&busybox, &format!("{}{SHORT}", linux::PROLOGUE))?)?;
    files.push((short, "short.ram".into()));
    Ok(files)
}

/// A guest's configuration, where its files are in `dir`.
fn config(dir: &str, name: &str, devices: &str) -> String {
    let [server, client] = networks::LINUX;
    let (own, peer) = if name == "server" { (server, client) } else { (client, server) };
    format!(
        "name = '{name}'\nkernel = '{dir}vmlinuz'\nramdisk = '{dir}{name}.ram'\nmemory = 160\nvcpus = 1\n\
         extra = 'console=hvc0 panic=1 loglevel=3 SELF={own} PEER={peer}'\n\
         on_poweroff = 'destroy'\non_crash = 'destroy'\n{devices}"
    )
}

// ---- Ours -----------------------------------------------------------------------------------------------------------

struct Ours {
    system: System,
    console: Option<Typed>,
}

impl Watched for Ours {
    fn see(&mut self, mark: &str) -> Result<String> {
        let console = self.console.as_mut().ok_or_else(|| Failure::new("no console is watched"))?;
        console.line(mark, LIMIT)
    }

    fn used(&self) -> Result<Duration> {
        self.system.session.processor_time()
    }
}

fn ours(side: &Side, choice: Choice<'_>, files: &Files, disk: PathBuf) -> Result<Vec<Figure>> {
    let mut volume = Volume::default();
    files.iter().for_each(|(file, name)| volume.add(file, name));
    for (name, devices) in GUESTS {
        volume.add_text(&format!("{name}.cfg"), &config("", name, devices));
    }
    let hardware = Hardware {
        smp: 1,
        memory: MEMORY_MIB,
        accel: Accel::Tcg,
        hv: Some(side.image.clone()),
        hv_args: Some(format!("{} dom0_mem={DOM0_MIB}M", figures::ARGS)),
        extra: Vec::new(),
    };
    let name = "bench-io".to_owned();
    let plan = Plan { name, hardware, dom0_args: String::new(), volume, disks: vec![disk] };
    let mut ours = Ours { system: plan.start()?, console: None };
    let all = work_ours(&mut ours, choice)?;
    ours.console = None;
    ours.system.shut_down()?;
    Ok(all)
}

fn work_ours(ours: &mut Ours, choice: Choice<'_>) -> Result<Vec<Figure>> {
    let create = |ours: &mut Ours, name: &str| -> Result<()> {
        ours.system.must(&["create", &format!("{name}.cfg")])?;
        ours.console = Some(Typed::attach(&ours.system, name)?);
        Ok(())
    };
    create(ours, "server")?;
    ours.see(SERVING)?;
    let mut costs = Vec::new();
    for _ in 0..choice.creations() {
        std::thread::sleep(REST);
        let before = ours.used()?;
        create(ours, "short")?;
        ours.see(INIT)?;
        costs.push(ours.used()?.saturating_sub(before));
        // What asks after a domain that ended already is told so.
        ours.system.pvctl(&["wait", "short"])?;
    }
    create(ours, "client")?;
    let mut all = loads(ours, choice)?;
    all.extend(cheapest(&costs));
    Ok(all)
}

// ---- Xen ------------------------------------------------------------------------------------------------------------

struct Xen {
    session: Session,
    /// How much of the console has been seen.
    seen: usize,
}

impl Watched for Xen {
    fn see(&mut self, mark: &str) -> Result<String> {
        let from = self.seen;
        let news = |text: &str| find_line(text, from, mark).is_some();
        if !self.session.wait_for(LIMIT, news) {
            return Err(Failure::new(format!("Xen's dom0 never shows {mark:?}\n{}", self.session.console())));
        }
        let console = self.session.console();
        let (line, end) = find_line(&console, from, mark).unwrap_or_default();
        self.seen = end;
        Ok(line.to_owned())
    }

    fn used(&self) -> Result<Duration> {
        self.session.processor_time()
    }
}

/// What follows a mark on its line, once the line is whole, and where the line ends.
fn find_line<'a>(text: &'a str, from: usize, mark: &str) -> Option<(&'a str, usize)> {
    let at = from + text.get(from..)?.find(mark)? + mark.len();
    let end = at + text.get(at..)?.find('\n')?;
    Some((text.get(at..end)?, end))
}

/// What Linux as dom0 does, in the order in which [`work_ours`] does it. It asks for nothing while it waits: a single
/// `xl` costs as much as hundreds of requests to the disk.
fn script(choice: Choice<'_>) -> String {
    format!(
        "say() {{ echo \"$*\"; }}
create() {{ xl create /guests/$1.cfg >/dev/null && show $1; }}
create server; until grep -q '{SERVING}' /run/guest-server.log; do sleep 1; done
for n in $(seq {}); do sleep {}; say CREATING; create short; wait $shown; done
create client
wait $shown
say END OF XEN
poweroff -f
",
        choice.creations(),
        REST.as_secs()
    )
}

fn xen(side: &Side, choice: Choice<'_>, mut files: Files, disk: &std::path::Path) -> Result<Vec<Figure>> {
    for (name, devices) in GUESTS {
        let file = paths::target().join("bench").join(format!("{name}.cfg"));
        // dom0 has no volume there, so the guest's disk is its first.
        paths::write(&file, config("/guests/", name, &devices.replace("vdb", "vda")))?;
        files.push((file, format!("{name}.cfg")));
    }
    let files: Files = files.into_iter().map(|(file, name)| (file, format!("guests/{name}"))).collect();
    let dom0 = xl::dom0("bench-xl", &script(choice), &files)?;
    let mut machine = Machine::new(&side.image, &dom0.kernel, "console=hvc0 loglevel=3");
    machine.modules.push(Module { file: dom0.ramdisk, args: String::new() });
    machine.hypervisor_args = format!("{} dom0_mem={LINUX_DOM0_MIB}M dom0_max_vcpus=1", figures::ARGS);
    machine.memory = MEMORY_MIB;
    machine.accel = Accel::Tcg;
    machine.extra = vec![
        "-drive".into(),
        format!("if=none,id=disk0,format=raw,file={}", disk.display()),
        "-device".into(),
        "virtio-blk-pci,drive=disk0".into(),
    ];
    let mut xen = Xen { session: machine.start(Echo::Off)?, seen: 0 };
    let mut costs = Vec::new();
    for _ in 0..choice.creations() {
        xen.see("CREATING")?;
        let before = xen.used()?;
        xen.see(INIT)?;
        costs.push(xen.used()?.saturating_sub(before));
    }
    let mut all = loads(&mut xen, choice)?;
    all.extend(cheapest(&costs));
    xen.see("END OF XEN")?;
    xen.session.wait(LIMIT)?;
    Ok(all)
}

// ---- Both -----------------------------------------------------------------------------------------------------------

fn cheapest(costs: &[Duration]) -> Option<Figure> {
    let cost = nanoseconds(*costs.iter().min()?);
    Some(Figure { name: row(CREATION), operations: 1, instructions: cost, nanoseconds: 0 })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Watches the guest do its loads.
fn loads(system: &mut dyn Watched, choice: Choice<'_>) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for (name, operations, _) in choice.loads() {
        system.see(&format!("BEGIN {name}"))?;
        let before = system.used()?;
        let took = system.see(&format!("END {name} "))?;
        let used = system.used()?.saturating_sub(before);
        let operations = u64::from(operations);
        say(&format!("  {name}: {} ms of processor time", used.as_millis()));
        all.push(Figure {
            name: row(name),
            operations,
            instructions: nanoseconds(used) / operations,
            nanoseconds: hundredths(&took)? * 10_000_000 / operations,
        });
    }
    system.see("ALL DONE")?;
    Ok(all)
}

/// `123 hundredths`
fn hundredths(line: &str) -> Result<u64> {
    let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or_else(|| Failure::new(format!("'{line}' is no time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_once_its_line_is_whole() {
        let text = "x\nEND a 12 hundredths\nEND b 3";
        assert_eq!(find_line(text, 0, "END a "), Some(("12 hundredths", 21)));
        assert_eq!(find_line(text, 3, "END a "), None);
        assert_eq!(find_line(text, 0, "END b "), None);
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let choice = Choice("io_disk_direct");
        let text = client(choice);
        assert!(text.contains("BEGIN disk_direct_read") && !text.contains("BEGIN network_ping"));
        assert_eq!((choice.creations(), choice.loads().count()), (0, 2));
        assert_eq!(Choice("create").creations(), CREATIONS);
        assert_eq!(Choice("").loads().count(), LOADS.len());
    }

    #[test]
    fn each_load_has_its_marks() {
        let text = client(Choice(""));
        assert!(LOADS.iter().all(|(name, ..)| text.contains(&format!("BEGIN {name};"))));
        assert_eq!(hundredths("12 hundredths").ok(), Some(12));
        assert!(hundredths("x").is_err());
    }
}
