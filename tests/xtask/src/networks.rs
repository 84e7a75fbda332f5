//! Cases about the network: guests among themselves, guests and the host, kernels of ours and Linux.
//!
//! The machine has a card with QEMU's user network behind it, which forwards ports of the host's loopback address. The
//! network is 10.0.2.0/24 with the host at 10.0.2.2; guests have fixed addresses.

use crate::boot::Hardware;
use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::images;
use crate::linux;
use crate::paths;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::{Plan, System};
use crate::tools;
use crate::volume::Volume;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long our guests may take.
const LIMIT: Duration = Duration::from_secs(90);
/// How long Linux guests may take.
const LINUX_LIMIT: Duration = Duration::from_secs(300);
/// What the host sends to a guest and wants back.
const ECHO_BYTES: usize = 1 << 20;
/// Further connections of the host to a guest, one after the other; and with `--long`.
const CONNECTIONS: usize = 8;
const LONG_CONNECTIONS: usize = 1000;
/// How long the host waits for a guest's bytes.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

/// The addresses of the guests.
const SERVER: &str = "10.0.2.15";
const CLIENT: &str = "10.0.2.16";
pub(crate) const LINUX: [&str; 2] = ["10.0.2.21", "10.0.2.22"];

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("qemu-net_guests_and_host_reach_each_other", Needs::Images, ours),
        Case::new("linux-network_between_guests_and_with_the_host", Needs::Images, linux_guests),
    ]
}

/// QEMU's words for a card with the user network behind it, and TCP ports of 127.0.0.1 that lead to guests.
pub(crate) fn card(forwards: &[(u16, &str, u16)]) -> Vec<String> {
    let forward =
        |(host, guest, port): &(u16, &str, u16)| format!(",hostfwd=tcp:127.0.0.1:{host}-{guest}:{port}");
    let forwards: String = forwards.iter().map(forward).collect();
    vec![
        "-netdev".into(),
        format!("user,id=net0{forwards}"),
        "-device".into(),
        // No boot code: the firmware has nothing to fetch there.
        "virtio-net-pci,netdev=net0,romfile=".into(),
    ]
}

/// A port that is free on the host.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn system(
    name: &str,
    context: &Context,
    memory: u32,
    volume: Volume,
    disks: Vec<PathBuf>,
    extra: Vec<String>,
) -> Result<System> {
    let hardware = Hardware {
        smp: context.smp.unwrap_or(2),
        memory,
        accel: context.accel,
        hv: context.other.clone(),
        hv_args: None,
        extra,
    };
    Plan { name: name.into(), hardware, dom0_args: String::new(), volume, disks }.start()
}

/// Ends a case: the system goes down, and what went wrong comes with its console.
pub(crate) fn finish(system: System, outcome: Result<String>) -> Result<Outcome> {
    let ended = system.shut_down()?;
    Ok(match outcome {
        Ok(seen) => Outcome::Passed(seen),
        Err(failure) => {
            let text = failure.to_string();
            let why = text.lines().next().unwrap_or_default().to_owned();
            Outcome::Failed { why, output: format!("{text}\n---- dom0's console\n{}", ended.console) }
        }
    })
}

/// A configuration for a guest that stays when it has ended, so that its console can be read.
pub(crate) fn config(name: &str, kernel: &str, memory: u32, vif: &str, extra: &str, more: &str) -> String {
    format!(
        "name = '{name}'\nkernel = '{kernel}'\nmemory = {memory}\nvif = [ '{vif}' ]\nextra = '{extra}'\n\
         on_poweroff = 'preserve'\non_crash = 'preserve'\n{more}"
    )
}

/// Waits until a guest's console shows one of these; all of it then.
pub(crate) fn await_log(system: &mut System, guest: &str, limit: Duration, marks: &[&str]) -> Result<String> {
    let end = Instant::now() + limit;
    loop {
        let log = system.must(&["log", guest])?;
        if marks.iter().any(|mark| log.contains(mark)) {
            return Ok(log);
        }
        if Instant::now() > end || log.contains("VERDICT: FAILURE") || log.contains("Kernel panic") {
            return Err(Failure::new(format!("'{guest}' never says {marks:?}\n{log}")));
        }
        system.session.wait_for(Duration::from_millis(300), |_| false);
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SOCKET_LIMIT))?;
    stream.set_write_timeout(Some(SOCKET_LIMIT))?;
    Ok(stream)
}

/// Bytes that repeat nowhere near.
fn pattern(count: usize) -> Vec<u8> {
    let words = (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).rotate_left(7).to_le_bytes());
    words.flatten().take(count).collect()
}

/// Sends bytes through a forwarded port to an echo server; whether they come back.
fn echo(port: u16) -> Result<Duration> {
    let bytes = pattern(ECHO_BYTES);
    let begin = Instant::now();
    let mut stream = connect(port)?;
    let mut writer = stream.try_clone()?;
    let copy = bytes.clone();
    let sender =
        std::thread::spawn(move || writer.write_all(&copy).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    match sender.join() {
        Ok(sent) => sent?,
        Err(_) => return Err(Failure::new("the sending thread ended badly")),
    }
    if back == bytes {
        Ok(begin.elapsed())
    } else {
        Err(Failure::new(format!("{} bytes came back, others than were sent", back.len())))
    }
}

// ---- Our own guests -------------------------------------------------------------------------------------------------

fn ours(context: &Context) -> Result<Outcome> {
    let mut volume = Volume::default();
    for kernel in ["net-server", "demo_net_client"] {
        volume.add(&images::guest(kernel), kernel);
    }
    let server = format!("ip={SERVER}/24 gw=10.0.2.2");
    volume.add_text("server.cfg", &config("server", "net-server", 32, &format!("ip={SERVER}"), &server, ""));
    let client = format!("ip={CLIENT}/24 server={SERVER}");
    volume.add_text("client.cfg", &config("client", "demo_net_client", 32, "rate=1GB/s", &client, ""));
    let (tcp, http) = (free_port()?, free_port()?);
    let forwards = [(tcp, SERVER, 7), (http, SERVER, 80)];
    let mut system = system("net", context, 384, volume, Vec::new(), card(&forwards))?;
    let outcome = work_ours(&mut system, tcp, http, context.long);
    finish(system, outcome)
}

fn work_ours(system: &mut System, tcp: u16, http: u16, long: bool) -> Result<String> {
    // Directories and switches that are made once are there afterwards.
    system.must(&["create", "server.cfg"])?;
    await_log(system, "server", LIMIT, &["serving"])?;
    system.must(&["destroy", "server"])?;
    let before = (system.free_pages()?, system.must(&["xenstore-ls"])?);
    system.must(&["create", "server.cfg"])?;
    await_log(system, "server", LIMIT, &["serving"])?;
    system.must(&["create", "client.cfg"])?;
    let log = await_log(system, "client", LIMIT, &["VERDICT: "])?;
    if !log.contains("VERDICT: SUCCESS") {
        let (switch, events) = (system.must(&["switch"])?, system.must(&["events"])?);
        return Err(Failure::new(format!("the client says no\n{log}\n{switch}\n{events}")));
    }
    let took = echo(tcp)?;
    // How one connection's end and another's beginning fall together differs from time to time.
    for _ in 0..if long { LONG_CONNECTIONS } else { CONNECTIONS } {
        echo(tcp)?;
    }
    let mut browser = connect(http)?;
    browser.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    browser.read_to_string(&mut page)?;
    if !page.starts_with("HTTP/1.0 200 OK") || !page.contains("<h1>") {
        return Err(Failure::new(format!("the page is {page:?}")));
    }
    hotplug(system)?;
    let switch = system.must(&["switch"])?;
    for guest in ["server", "client"] {
        system.must(&["destroy", guest])?;
    }
    if system.must(&["switch", "-o", "json"])?.contains("vif") {
        return Err(Failure::new("ports of guests that are gone are still there"));
    }
    let after = (system.free_pages()?, system.must(&["xenstore-ls"])?);
    if before != after {
        return Err(Failure::new(format!(
            "something was left behind: before {before:?}, after {after:?}\n{switch}"
        )));
    }
    let line = log.lines().find(|line| line.contains("KiB each way")).unwrap_or_default().trim().to_owned();
    Ok(format!("(guests: {line}; host: {} KiB each way in {} ms)", ECHO_BYTES / 1024, took.as_millis()))
}

/// A further interface comes and goes while the server runs, which does not take it up.
fn hotplug(system: &System) -> Result<()> {
    system.must(&["network-attach", "server", "mac=00:16:3e:77:77:77", "bridge=inner"])?;
    let list = system.must(&["network-list", "server"])?;
    if !list.contains("00:16:3e:77:77:77") || !list.contains("inner") {
        return Err(Failure::new(format!("the new interface is not listed\n{list}")));
    }
    let twin = system.pvctl(&["network-attach", "client", "mac=00:16:3e:77:77:77"])?;
    if twin.code == 0 {
        return Err(Failure::new("an address was given twice"));
    }
    system.must(&["network-detach", "server", "00:16:3e:77:77:77"])?;
    let list = system.must(&["network-list", "server"])?;
    if list.contains("00:16:3e:77:77:77") {
        return Err(Failure::new(format!("the interface is still there\n{list}")));
    }
    Ok(())
}

// ---- Linux ----------------------------------------------------------------------------------------------------------

/// What each Linux guest does first; `SELF` and `PEER` come from the kernel's command line. Descriptor 9 never ends: an nc
/// whose input ends closes its half, and one that is told so leaves at once.
pub(crate) const PROLOGUE: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
fail() { echo \"VERDICT: FAILURE $*\"; sleep 1; poweroff -f; sleep 60; }
sum() { sha256sum | cut -d' ' -f1; }
[ -f /netfront.ko ] && { insmod /netfront.ko || fail 'no netfront'; }
i=0; while [ ! -d /sys/class/net/eth0 ] && [ $i -lt 20 ]; do sleep 1; i=$((i+1)); done
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up; ip addr add $SELF/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2 || fail 'no eth0'
ip -6 addr add fd00::${SELF##*.}/64 dev eth0 || fail 'no IPv6'
mkfifo /hold; exec 9<>/hold
bytes() { yes \"$1 0123456789abcdef\" | head -c $2; }
";

/// The first guest waits for the second, and for the host.
const PASSIVE: &str = "bytes one 6000000 >/one
(while :; do nc -l -p 5001 <&9 >/got; echo \"GOT $(sum </got)\"; done) &
(while :; do nc -l -p 5002 </one >/dev/null; done) &
(while :; do nc -l -p 5003 <&9 >/host; echo \"HOST $(sum </host)\"; done) &
echo \"ONE $(sum </one)\"
echo WAITING
while :; do sleep 100; done
";

/// The second does the asking: pings, TCP both ways, the kernel of ours, and a page from it.
const ACTIVE: &str = "ping -c 3 -w 20 $PEER || fail 'no ping to the other Linux'
ping -c 3 -w 20 $SERVER || fail 'no ping to the kernel of ours'
ping -c 1 -w 20 10.0.2.2 || fail 'no ping to the host'
bytes two 6000000 >/two
echo \"TWO $(sum </two)\"
nc $PEER 5001 </two || fail 'nothing sent'
nc $PEER 5002 <&9 >/back || fail 'nothing received'
echo \"BACK $(sum </back)\"
nc fd00::${PEER##*.} 5001 </back || fail 'nothing sent over IPv6'
bytes three 300000 >/three
nc $SERVER 7 </three >/echoed || fail 'no echo'
[ \"$(sum </three)\" = \"$(sum </echoed)\" ] || fail 'another echo'
wget -q -O /page http://$SERVER/ && grep -q h1 /page || fail 'no page'
echo VERDICT: SUCCESS
while :; do sleep 100; done
";

fn ramdisk(busybox: &Path, module: &Path, script: &str) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).map_err(|error| Failure::at(path, &error));
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys"] {
        archive.directory(dir);
    }
    archive.device("dev/console", (5, 1));
    archive.file("bin/busybox", &read(busybox)?);
    archive.file("netfront.ko", &read(module)?);
    archive.file("init", format!("{PROLOGUE}{script}").as_bytes());
    Ok(archive.finish())
}

/// The SHA-256 of bytes, by the host's own tool.
fn digest(bytes: &[u8]) -> Result<String> {
    let file = paths::target().join("networks").join("digest");
    paths::write(&file, bytes)?;
    let text = tools::quietly("sha256sum", tools::command("sha256sum").arg(&file))?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn linux_volume(kernel: &Path, busybox: &Path, module: &Path) -> Result<Volume> {
    let mut volume = Volume::default();
    volume.add(kernel, "vmlinuz");
    volume.add(&images::guest("net-server"), "net-server");
    let server = format!("ip={SERVER}/24 gw=10.0.2.2");
    volume.add_text("server.cfg", &config("server", "net-server", 32, "", &server, ""));
    for (name, script, own, peer) in
        [("passive", PASSIVE, LINUX[0], LINUX[1]), ("active", ACTIVE, LINUX[1], LINUX[0])]
    {
        let file = paths::target().join("networks").join(format!("{name}.cpio"));
        paths::write(&file, ramdisk(busybox, module, script)?)?;
        volume.add(&file, &format!("{name}.ram"));
        // Words that the kernel does not know become the first program's environment.
        let words = format!("console=hvc0 panic=1 SELF={own} PEER={peer} SERVER={SERVER}");
        let more = format!("ramdisk = '{name}.ram'\n");
        volume.add_text(
            &format!("{name}.cfg"),
            &config(name, "vmlinuz", 160, &format!("ip={own}"), &words, &more),
        );
    }
    Ok(volume)
}

/// A kernel, a busybox, and the kernel's network front end; or why there are none.
pub(crate) fn linux_files() -> std::result::Result<(PathBuf, PathBuf, PathBuf), String> {
    let (Some(kernel), Some(busybox)) = (linux::kernel(), linux::busybox()) else {
        return Err("no Linux kernel or static busybox here, and none could be downloaded".into());
    };
    match linux::module_of(&kernel, "drivers/net/xen-netfront") {
        Some(module) => Ok((kernel, busybox, module)),
        None => Err(format!("{} has no xen-netfront module beside it", kernel.display())),
    }
}

fn linux_guests(context: &Context) -> Result<Outcome> {
    let (kernel, busybox, module) = match linux_files() {
        Ok(files) => files,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let volume = linux_volume(&kernel, &busybox, &module)?;
    let (to_linux, from_linux) = (free_port()?, free_port()?);
    let forwards = [(to_linux, LINUX[0], 5003), (from_linux, LINUX[0], 5002)];
    let mut system = system("linux-net", context, 768, volume, Vec::new(), card(&forwards))?;
    let outcome = work_linux(&mut system, to_linux, from_linux);
    finish(system, outcome)
}

/// The digest that a guest has told under a name.
fn told<'a>(log: &'a str, name: &str) -> Result<&'a str> {
    let found = log.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' ')).next_back();
    found.map(str::trim).ok_or_else(|| Failure::new(format!("no guest tells {name}\n{log}")))
}

fn same(what: &str, left: &str, right: &str) -> Result<()> {
    if left == right { Ok(()) } else { Err(Failure::new(format!("{what}: {left} is not {right}"))) }
}

/// Waits until an interface's back end is in a state.
fn await_state(system: &mut System, guest: &str, number: &str, state: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let list = system.must(&["network-list", guest, "-o", "json"])?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&list)
            .map_err(|error| Failure::new(format!("network-list: {error}\n{list}")))?;
        if rows.iter().any(|row| row["idx"] == number && row["state"] == state) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Failure::new(format!(
                "interface {number} of '{guest}' never is in state {state}\n{list}"
            )));
        }
        system.session.wait_for(Duration::from_millis(300), |_| false);
    }
}

/// Linux leaves it to dom0 to cut what it sends, and takes packets that nobody has cut: those that crossed were larger on
/// average, acknowledgements and all, than any that fits the wire.
fn large_packets(system: &System, guest: &str) -> Result<String> {
    const WIRE: u64 = 1514;
    let port = format!("vif{}.0", system.must(&["domid", guest])?.trim());
    let list = system.must(&["switch", "-o", "json"])?;
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&list).map_err(|error| Failure::new(format!("switch: {error}\n{list}")))?;
    let row = rows.iter().find(|row| row["port"] == port.as_str());
    let row = row.ok_or_else(|| Failure::new(format!("no port {port}\n{list}")))?;
    let count = |name: &str| row[name].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let mean = |bytes: &str, frames: &str| count(bytes) / count(frames).max(1);
    let (sent, received) = (mean("inbytes", "inframes"), mean("outbytes", "outframes"));
    if sent <= WIRE || received <= WIRE {
        return Err(Failure::new(format!("packets of {sent} bytes sent and {received} received\n{list}")));
    }
    Ok(format!("packets of {sent} and {received} bytes on average"))
}

fn work_linux(system: &mut System, to_linux: u16, from_linux: u16) -> Result<String> {
    for guest in ["server.cfg", "passive.cfg", "active.cfg"] {
        system.must(&["create", guest])?;
    }
    let active = await_log(system, "active", LINUX_LIMIT, &["VERDICT: SUCCESS"])?;
    let six = format!("GOT {}", told(&active, "BACK")?);
    let passive = await_log(system, "passive", LINUX_LIMIT, &[&six])?;
    let first = passive.lines().find_map(|line| line.trim().strip_prefix("GOT ")).unwrap_or_default();
    same(&format!("from Linux to Linux\n{active}\n{passive}"), first, told(&active, "TWO")?)?;
    same("from Linux to Linux, asked for", told(&active, "BACK")?, told(&passive, "ONE")?)?;
    // The host sends, and fetches.
    let bytes = pattern(2 << 20);
    let mut stream = connect(to_linux)?;
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    drop(stream);
    let passive = await_log(system, "passive", LIMIT, &["HOST "])?;
    same("from the host to Linux", told(&passive, "HOST")?, &digest(&bytes)?)?;
    let mut fetched = Vec::new();
    let mut stream = connect(from_linux)?;
    stream.read_to_end(&mut fetched)?;
    same("from Linux to the host", &digest(&fetched)?, told(&passive, "ONE")?)?;
    for log in [&active, &passive] {
        if let Some(line) = log.lines().find(|line| line.contains("BUG:") || line.contains("Call Trace")) {
            return Err(Failure::new(format!("Linux complains: {line}\n{log}")));
        }
    }
    let sizes = large_packets(system, "active")?;
    // An interface comes while Linux runs, and goes once Linux has let go of it.
    system.must(&["network-attach", "active", "bridge=inner"])?;
    await_state(system, "active", "1", "4")?;
    system.must(&["network-detach", "active", "1"])?;
    let switch = system.must(&["switch"])?;
    let uplink = switch.lines().find(|line| line.contains("eth0")).unwrap_or_default().to_owned();
    for guest in ["active", "passive", "server"] {
        system.must(&["destroy", guest])?;
    }
    Ok(format!("({}; {sizes})", uplink.split_whitespace().collect::<Vec<_>>().join(" ")))
}
