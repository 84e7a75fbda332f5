//! Cases with Debian's Linux as an ordinary domain: typing at its console, vcpus, disks, memory, and its ends.

use crate::bad_kernels;
use crate::domu::{self, Lab, SHORT, attach, boot, claim, gone, no_complaints, nothing_left, settled, until};
use crate::failure::{Failure, Result};
use crate::linux::Flavour;
use crate::paths;
use crate::setup;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::System;
use crate::tools;
use crate::typed::Typed;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("linux-domu_answers_at_its_console", Needs::Images, at_the_console),
        Case::new("linux-domu_has_devices_that_come_and_go", Needs::Images, |context| {
            hotplug(context, "hotplug", Flavour::Cloud)
        }),
        Case::new("linux-domu_of_a_newer_version", Needs::Images, |context| {
            hotplug(context, "newer", Flavour::Newer)
        }),
        Case::new("linux-domu_ends_as_configured", Needs::Images, endings),
        Case::new("linux-domu_boots_from_its_disk", Needs::Images, root),
        Case::new("linux-domu_boots_packed_with_zstd", Needs::Images, zstd),
    ];
    cases.push(Case::new("linux-domu_with_any_number_of_vcpus", Needs::Images, matrix));
    cases
}

fn lab<'a>(name: &'a str, flavour: Flavour, smp: u32) -> Lab<'a> {
    let (script, disks, configs, files) = ("", Vec::new(), Vec::new(), Vec::new());
    Lab { name, smp, flavour, script, disks, configs, files, memory: 256 }
}

// ---- At the console ---------------------------------------------------------------------------------------------

fn at_the_console(context: &Context) -> Result<Outcome> {
    let mut lab = lab("console", Flavour::Generic, 1);
    lab.configs = vec![("linux", "")];
    let long = context.long;
    lab.run(context, |system| {
        let mut typed = boot(system, "linux")?;
        let sum = typed.must("echo $((6 * 7)) | tr 4 5", SHORT)?;
        claim(sum == "52", format!("the shell answers {sum:?}"))?;
        looks_like_xen(system, &mut typed)?;
        no_complaints(&mut typed)?;
        let drift = time_runs(&mut typed, Duration::from_secs(if long { 60 } else { 4 }))?;
        let idle = idles(system)?;
        typed.keys("poweroff -f\n")?;
        gone(system, "linux")?;
        Ok(format!("({drift}, {idle} % busy when idle)"))
    })
}

/// What the guest is told about its host, against what dom0 is told.
fn looks_like_xen(system: &System, typed: &mut Typed) -> Result<()> {
    let info = domu::json(system, &["info", "-o", "json"])?;
    let expected = [
        ("type", "xen".to_owned()),
        ("guest_type", "PV".to_owned()),
        ("version/major", info["xen_major"].to_string()),
        ("version/minor", info["xen_minor"].to_string()),
        ("version/extra", info["xen_extra"].as_str().unwrap_or_default().to_owned()),
        ("properties/virtual_start", "ffff800000000000".to_owned()),
        // What Xen 4.17 tells a PV guest, bit for bit.
        ("properties/features", "000220f0".to_owned()),
    ];
    for (name, value) in expected {
        let seen = typed.must(&format!("cat /sys/hypervisor/{name}"), SHORT)?;
        claim(seen == value, format!("/sys/hypervisor/{name} is {seen:?}, not {value:?}"))?;
    }
    let flags = typed.must("grep -m1 ^flags /proc/cpuinfo", SHORT)?;
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    for (flag, wanted) in
        [("hypervisor", true), ("syscall", true), ("smep", false), ("pse", false), ("mtrr", false)]
    {
        claim(has(flag) == wanted, format!("the processor's flags: {flag} is {}: {flags}", has(flag)))?;
    }
    let source = typed.must("cat /sys/devices/system/clocksource/clocksource0/current_clocksource", SHORT)?;
    claim(source == "xen", format!("the clock source is {source}"))
}

/// Whether the guest's clocks go as fast as the host's. Each reading lies between two of the host's, so that a slow
/// machine widens the bounds and never breaks them.
fn time_runs(typed: &mut Typed, span: Duration) -> Result<String> {
    let mut read = || -> Result<(Instant, f64, Instant)> {
        let before = Instant::now();
        let text = typed.must("cut -d' ' -f1 /proc/uptime", SHORT)?;
        let uptime = text.parse().map_err(|_| Failure::new(format!("uptime {text:?}")))?;
        Ok((before, uptime, Instant::now()))
    };
    let (before1, uptime1, after1) = read()?;
    std::thread::sleep(span);
    let (before2, uptime2, after2) = read()?;
    let elapsed = uptime2 - uptime1;
    let (least, most) = ((before2 - after1).as_secs_f64(), (after2 - before1).as_secs_f64());
    // Uptime has two decimals; a tenth of a percent is for the calibration.
    let slack = 0.02 + most / 1000.0;
    claim(
        elapsed > least - slack && elapsed < most + slack,
        format!("{elapsed:.2} s went by in the guest, {least:.2} to {most:.2} s here"),
    )?;
    Ok(format!("{elapsed:.2} s in the guest within {least:.2} to {most:.2} s here"))
}

/// How busy an idle guest keeps the machine, in percent of the time that goes by.
fn idles(system: &System) -> Result<u64> {
    let cpu_ns = || -> Result<u64> {
        let list = domu::json(system, &["list", "linux", "-o", "json"])?;
        list[0]["cpu_time_ns"].as_u64().ok_or_else(|| Failure::new(format!("no cpu_time_ns in {list}")))
    };
    let (start, before) = (Instant::now(), cpu_ns()?);
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu_ns()? - before;
    let share = used * 100 / u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
    claim(share < 15, format!("an idle guest was busy for {share} % of the time"))?;
    Ok(share)
}

// ---- Devices that come and go -----------------------------------------------------------------------------------

/// A disk with a file on it, of the directory `name`.
fn small_disk(name: &str) -> Result<PathBuf> {
    let dir = paths::target().join("linux").join(name);
    paths::write(&dir.join("tree/hello"), "hello\n")?;
    let image = dir.join("disk.img");
    domu::ext4(&image, &dir.join("tree"), "16M")?;
    Ok(image)
}

fn hotplug(context: &Context, name: &str, flavour: Flavour) -> Result<Outcome> {
    let disk = small_disk(name)?;
    let mut lab = lab(name, flavour, 2);
    lab.disks = vec![disk.clone()];
    lab.configs = vec![("linux", "vcpus = 2\nmaxvcpus = 4\nmaxmem = 192")];
    let outcome = lab.run(context, |system| {
        let before = settled(system, "linux")?;
        let mut typed = boot(system, "linux")?;
        disks_come_and_go(system, &mut typed)?;
        vcpus_come_and_go(system, &mut typed)?;
        memory_comes_and_goes(system, &mut typed)?;
        no_complaints(&mut typed)?;
        // Ended while the disk is in use.
        system.must(&["block-attach", "linux", "phy:vdb,xvdb,r"])?;
        until(&mut typed, "[ -b /dev/xvdb ]")?;
        typed.keys("while :; do dd if=/dev/xvdb of=/dev/null bs=64k iflag=direct 2>/dev/null; done &\n")?;
        system.must(&["destroy", "linux"])?;
        nothing_left(system, &before)?;
        Ok("(disk, vcpus, memory)".into())
    })?;
    match outcome {
        Outcome::Passed(_) => domu::fsck(&disk).map(|()| outcome),
        other => Ok(other),
    }
}

fn disks_come_and_go(system: &System, typed: &mut Typed) -> Result<()> {
    for round in 0..2 {
        system.must(&["block-attach", "linux", "phy:vdb,xvdb,w"])?;
        let twice = system.pvctl(&["block-attach", "linux", "phy:vdb,xvdb,w"])?;
        claim(twice.code == 1 && twice.text.contains("already"), format!("attached twice: {}", twice.text))?;
        until(typed, "[ -b /dev/xvdb ]")?;
        typed.must("mount -t ext4 /dev/xvdb /mnt && grep -q hello /mnt/hello", SHORT)?;
        typed.must(&format!("date >/mnt/round{round} && sync && umount /mnt"), SHORT)?;
        let list = system.must(&["block-list", "linux"])?;
        claim(list.lines().count() == 2 && list.contains("51728"), format!("block-list: {list}"))?;
        system.must(&["block-detach", "linux", "xvdb"])?;
        until(typed, "[ ! -b /dev/xvdb ]")?;
        let list = system.must(&["block-list", "linux"])?;
        claim(list.lines().count() == 1, format!("block-list after detaching: {list}"))?;
    }
    let absent = system.pvctl(&["block-detach", "linux", "xvdb"])?;
    claim(absent.code == 1 && absent.text.contains("no device"), format!("detached twice: {}", absent.text))
}

fn vcpus_come_and_go(system: &System, typed: &mut Typed) -> Result<()> {
    system.must(&["vcpu-set", "linux", "4"])?;
    // Linux registers them; to use them is left to its programs.
    for cpu in [2, 3] {
        let node = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        until(typed, &format!("[ -f {node} ]"))?;
        typed.must(&format!("echo 1 >{node}"), SHORT)?;
    }
    until(typed, "[ $(nproc) = 4 ]")?;
    typed
        .must("for c in 1 2 3 4; do (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done) & done; wait", SHORT)?;
    system.must(&["vcpu-set", "linux", "1"])?;
    until(typed, "[ $(nproc) = 1 ]")?;
    let wrong = system.pvctl(&["vcpu-set", "linux", "5"])?;
    claim(wrong.code == 1 && wrong.text.contains("between 1 and 4"), format!("vcpu-set 5: {}", wrong.text))
}

fn memory_comes_and_goes(system: &System, typed: &mut Typed) -> Result<()> {
    for mib in [96_u64, 192] {
        system.must(&["mem-set", "linux", &mib.to_string()])?;
        let end = Instant::now() + SHORT;
        loop {
            let list = domu::json(system, &["list", "linux", "-o", "json"])?;
            if list[0]["pages"].as_u64() == Some(mib * 256) {
                break;
            }
            claim(Instant::now() < end, format!("mem-set {mib}: {list}"))?;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    typed.must("head -c 100000000 /dev/zero | tail -c 1 | wc -c", SHORT)?;
    let wrong = system.pvctl(&["mem-set", "linux", "193"])?;
    claim(wrong.code == 1 && wrong.text.contains("between 1 and 192"), format!("mem-set 193: {}", wrong.text))
}

// ---- How it ends ------------------------------------------------------------------------------------------------

fn endings(context: &Context) -> Result<Outcome> {
    let disk = small_disk("endings")?;
    let mut lab = lab("endings", Flavour::Cloud, 1);
    // One domain is kept beside the next.
    lab.memory = 384;
    lab.disks = vec![disk];
    let broken = broken_kernel()?;
    lab.files = broken.into_iter().map(|file| (file, "broken")).collect();
    lab.configs = vec![
        (
            "again",
            "on_poweroff = 'destroy'\non_reboot = 'restart'\non_crash = 'rename-restart'\n\
             disk = [ 'phy:vdb,xvda,w' ]\nvif = [ 'bridge=inner' ]",
        ),
        ("once", "disk = [ 'phy:vdb,xvda,w' ]\non_crash = 'destroy'"),
        ("kept", "kernel = 'broken'\non_crash = 'preserve'"),
    ];
    let has_broken = !lab.files.is_empty();
    lab.run(context, |system| {
        let before = settled(system, "once")?;
        comes_again(system)?;
        nothing_left(system, &before)?;
        loses_its_disk(system)?;
        nothing_left(system, &before)?;
        if has_broken {
            faults_at_once(system)?;
            nothing_left(system, &before)?;
        }
        Ok("(reboot, panic, poweroff, lost disk, fault without a handler)".into())
    })
}

/// Reboots, panics, both of which start it again with the same devices, and powers off. What panicked is kept.
fn comes_again(system: &mut System) -> Result<()> {
    let mut typed = boot(system, "again")?;
    let mut number = system.must(&["domid", "again"])?;
    for keys in ["reboot -f\n", "echo c >/proc/sysrq-trigger\n"] {
        // The old console is held until they have arrived.
        typed.keys(keys)?;
        let old = std::mem::take(&mut number);
        number = domu::another(system, "again", &old)?;
        typed = attach(system, "again")?;
        until(&mut typed, "[ -b /dev/xvda ]")?;
        let kept = format!("again-{}", old.trim());
        let (is_kept, panicked) = (system.pvctl(&["destroy", &kept])?.code == 0, keys.contains("sysrq"));
        claim(is_kept == panicked, format!("{kept} is kept: {is_kept}"))?;
    }
    system.must(&["pause", "again"])?;
    system.must(&["unpause", "again"])?;
    typed.keys("poweroff -f\n")?;
    gone(system, "again")
}

fn loses_its_disk(system: &mut System) -> Result<()> {
    let mut typed = boot(system, "once")?;
    until(&mut typed, "[ -b /dev/xvda ]")?;
    typed.must("mount -t ext4 -o errors=panic /dev/xvda /mnt && cat /mnt/hello", SHORT)?;
    system.must(&["block-detach", "once", "xvda"])?;
    typed.keys("while :; do date >>/mnt/hello; sync; sleep 0.1; done\n")?;
    gone(system, "once")?;
    claim(system.session.console().contains("'once' ended: Crash"), "dom0 tells of another end")
}

fn faults_at_once(system: &mut System) -> Result<()> {
    system.must(&["create", "kept.cfg"])?;
    let end = Instant::now() + SHORT;
    loop {
        let list = domu::json(system, &["list", "kept", "-o", "json"])?;
        if list[0]["shutdown_reason"] == "crash" {
            break;
        }
        claim(Instant::now() < end, format!("a kernel without a handler goes on: {list}"))?;
        system.session.wait_for(Duration::from_millis(200), |_| false);
    }
    system.must(&["destroy", "kept"]).map(drop)
}

/// Linux's kernel with its first instruction spoiled: a fault before there is any handler, which on a machine of its
/// own would be a triple fault. `None` where there is no kernel.
fn broken_kernel() -> Result<Option<PathBuf>> {
    const UD2: [u8; 2] = [0x0f, 0x0b];
    let Some(kernel) = Flavour::Cloud.kernel() else { return Ok(None) };
    let mut elf = unpacked(&kernel)?;
    let at = {
        let image = pv_image::KernelImage::parse(&elf).map_err(|error| Failure::new(error.to_string()))?;
        let offset = image.entry().wrapping_sub(image.virt_base());
        let segment = image.segments().iter().find(|s| (s.paddr..s.end()).contains(&offset));
        let segment = segment.ok_or_else(|| Failure::new("the entry point lies in no segment"))?;
        segment.file_offset + usize::try_from(offset - segment.paddr).unwrap_or(usize::MAX)
    };
    let place =
        elf.get_mut(at..at.saturating_add(2)).ok_or_else(|| Failure::new("no entry point in the file"))?;
    place.copy_from_slice(&UD2);
    let file = paths::target().join("linux/broken");
    paths::write(&file, elf)?;
    Ok(Some(file))
}

// ---- Packed as other distributions pack it ----------------------------------------------------------------------

fn zstd(context: &Context) -> Result<Outcome> {
    let Some(kernel) = zstd_kernel()? else { return Ok(Outcome::Skipped("no Linux kernel here".into())) };
    let mut lab = lab("zstd", Flavour::Cloud, 1);
    lab.files = vec![(kernel, "zstd")];
    lab.configs = vec![("linux", "kernel = 'zstd'\nramdisk = 'ramdisk'")];
    lab.run(context, |system| {
        let mut typed = boot(system, "linux")?;
        no_complaints(&mut typed)?;
        typed.keys("poweroff -f\n")?;
        gone(system, "linux")?;
        Ok(String::new())
    })
}

/// Linux's kernel packed anew, with the window of 128 MiB that its own build takes. `None` where there is no kernel.
fn zstd_kernel() -> Result<Option<PathBuf>> {
    let Some(kernel) = Flavour::Cloud.kernel() else { return Ok(None) };
    setup::need(&[setup::ZSTD])?;
    let elf = unpacked(&kernel)?;
    let dir = paths::target().join("linux");
    let (plain, frame) = (dir.join("unpacked"), dir.join("unpacked.zst"));
    paths::write(&plain, &elf)?;
    let mut pack = tools::command("zstd");
    pack.args(["-q", "-f", "-6", "--long=27", "-o"]).arg(&frame).arg(&plain);
    tools::quietly("zstd", &mut pack)?;
    let mut payload = domu::read(&frame)?;
    payload.extend(u32::try_from(elf.len()).unwrap_or(u32::MAX).to_le_bytes());
    let file = dir.join("zstd");
    paths::write(&file, bad_kernels::packed(&payload))?;
    Ok(Some(file))
}

/// The ELF inside a kernel's file.
fn unpacked(kernel: &Path) -> Result<Vec<u8>> {
    let elf = pv_image::unpack(&domu::read(kernel)?, 256 << 20)
        .map_err(|error| Failure::new(format!("{}: {error}", kernel.display())))?
        .into_owned();
    Ok(elf)
}

// ---- From its disk ----------------------------------------------------------------------------------------------

/// The ramdisk's part: on to the disk.
const TO_DISK: &str = "i=0; until [ -b /dev/xvda ] || [ $i -gt 100 ]; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/xvda /mnt || echo 'no ext4 on xvda'
mount --move /dev /mnt/dev; mount --move /proc /mnt/proc; mount --move /sys /mnt/sys
exec switch_root /mnt /sbin/init
";

/// The disk's part.
const DISK_INIT: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/ PS1='# '
/bin/busybox --install -s /bin
echo 'GUEST IS READY'
exec setsid cttyhack sh
";

/// Writes a tree of files that the host can check without the guest's help.
const TREE: &str = "for d in 1 2 3 4; do mkdir -p /tree/$d && for f in 1 2 3; do \
                    yes $d.$f | head -c $((d * f * 1000)) >/tree/$d/$f; done; done; rm -r /tree/4; \
                    ln -s 1/2 /tree/link; sync";

fn root(context: &Context) -> Result<Outcome> {
    let Ok(parts) = domu::Parts::find(Flavour::Cloud) else {
        return Ok(Outcome::Skipped("no Linux kernel or static busybox here".into()));
    };
    let dir = paths::target().join("linux/root");
    let tree = dir.join("tree");
    for name in ["bin", "dev", "proc", "sys", "sbin", "tmp"] {
        paths::make_dir(&tree.join(name))?;
    }
    paths::copy(parts.busybox(), &tree.join("bin/busybox"))?;
    paths::write(&tree.join("sbin/init"), DISK_INIT)?;
    domu::executable(&tree.join("sbin/init"))?;
    let random: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    paths::write(&tree.join("random"), random)?;
    let image = dir.join("root.img");
    domu::ext4(&image, &tree, "64M")?;
    let sum =
        crate::tools::quietly("sha256sum", crate::tools::command("sha256sum").arg(tree.join("random")))?;
    let mut lab = lab("root", Flavour::Cloud, 2);
    lab.script = TO_DISK;
    let second = dir.join("second.img");
    paths::write(&second, vec![0_u8; 4 << 20])?;
    lab.disks = vec![image.clone(), second.clone()];
    lab.configs = vec![("linux", "vcpus = 2\ndisk = [ 'phy:vdb,xvda,w', 'phy:vdc,xvdb,w,persistent' ]")];
    let outcome = lab.run(context, |system| {
        let mut typed = boot(system, "linux")?;
        let digest = typed.must("sha256sum /random", SHORT)?;
        claim(
            digest.split(' ').next() == sum.split(' ').next(),
            format!("the guest reads {digest}, not {sum}"),
        )?;
        // A ring for each vcpu.
        let rings = typed.must("ls /sys/block/xvda/mq | wc -l", SHORT)?;
        claim(rings == "2", format!("xvda has {rings} rings, not 2"))?;
        typed.must(TREE, SHORT)?;
        let figures = throughput(&mut typed)?;
        discards(&mut typed, &image)?;
        persistent_grants(&mut typed)?;
        no_complaints(&mut typed)?;
        typed.keys("mount -o remount,ro /; poweroff -f\n")?;
        gone(system, "linux")?;
        Ok(figures)
    })?;
    match outcome {
        Outcome::Passed(_) => {
            check_tree(&image)?;
            let (written, kept) = (domu::read(&tree.join("random"))?, domu::read(&second)?);
            claim(kept.starts_with(&written), "the second disk does not hold what was written to it")?;
            Ok(outcome)
        }
        other => Ok(other),
    }
}

/// The second disk's grants are used again and again, the first one's are not; data comes and goes in pieces of several
/// sizes through either.
fn persistent_grants(typed: &mut Typed) -> Result<()> {
    for (disk, state) in [("xvda", "disabled"), ("xvdb", "enabled")] {
        let line = typed.must(&format!("dmesg | grep 'blkfront: {disk}:'"), SHORT)?;
        claim(line.contains(&format!("persistent grants: {state}")), format!("not {state}: {line}"))?;
    }
    typed.must("dd if=/random of=/dev/xvdb bs=28k conv=fsync 2>/dev/null", SHORT)?;
    let sum = typed.must("sha256sum </random", SHORT)?;
    for size in ["512", "4k", "100k"] {
        let line =
            format!("dd if=/dev/xvdb bs={size} iflag=direct 2>/dev/null | head -c 1600000 | sha256sum");
        let seen = typed.must(&line, SHORT)?;
        claim(seen == sum, format!("read in pieces of {size}: {seen}, written: {sum}"))?;
    }
    Ok(())
}

/// What the guest's file system needs no more, the host's file does not keep either.
fn discards(typed: &mut Typed, image: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let kept =
        || fs::metadata(image).map(|data| data.blocks() * 512).map_err(|error| Failure::at(image, &error));
    typed.must("dd if=/dev/urandom of=/spare bs=1M count=12 conv=fsync 2>/dev/null", SHORT)?;
    let before = kept()?;
    typed.must("rm /spare; sync; fstrim /", SHORT)?;
    let after = kept()?;
    claim(after + (8 << 20) <= before, format!("the host's file keeps {after} of {before} bytes"))
}

/// Reads and writes past the cache, for a person to look at: what it took, by the guest's clock.
fn throughput(typed: &mut Typed) -> Result<String> {
    let mut figures = Vec::new();
    for (what, words, count, unit) in [
        ("read 1 MiB", "if=/dev/xvda of=/dev/null bs=1M count=32 iflag=direct", 32.0, "MiB/s"),
        ("read 4 KiB", "if=/dev/xvda of=/dev/null bs=4k count=500 iflag=direct", 500.0, "/s"),
        (
            "read 4 KiB with persistent grants",
            "if=/dev/xvdb of=/dev/null bs=4k count=500 iflag=direct",
            500.0,
            "/s",
        ),
        ("write 1 MiB", "if=/dev/zero of=/big bs=1M count=16 oflag=direct", 16.0, "MiB/s"),
    ] {
        let line = format!(
            "a=$(cut -d' ' -f1 /proc/uptime); dd {words} 2>/dev/null && echo $a $(cut -d' ' -f1 /proc/uptime)"
        );
        let text = typed.must(&line, SHORT)?;
        let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [from, to] = times[..] else { return Err(Failure::new(format!("dd {words}: {text}"))) };
        figures.push(format!("{what} {:.0} {unit}", count / f64::max(to - from, 0.01)));
    }
    typed.must("rm /big", SHORT)?;
    Ok(format!("({})", figures.join(", ")))
}

/// What the host finds on the disk afterwards.
fn check_tree(image: &std::path::Path) -> Result<()> {
    domu::fsck(image)?;
    let cat = |file: &str| {
        let mut debugfs = crate::tools::command("debugfs");
        crate::tools::quietly("debugfs", debugfs.args(["-R", &format!("cat {file}")]).arg(image))
    };
    for (dir, file) in [(1_usize, 1_usize), (2, 3), (3, 2)] {
        let line = format!("{dir}.{file}\n");
        let mut expected = line.repeat(dir * file * 1000 / line.len() + 1);
        expected.truncate(dir * file * 1000);
        let seen = cat(&format!("/tree/{dir}/{file}"))?;
        claim(seen == expected, format!("/tree/{dir}/{file} has {} other bytes", seen.len()))?;
    }
    claim(cat("/tree/4/1")?.is_empty(), "a removed file is still there")
}

// ---- Vcpus and pcpus --------------------------------------------------------------------------------------------

/// Every number of vcpus on every number of pcpus; without `--long` one that has more vcpus than pcpus.
fn matrix(context: &Context) -> Result<Outcome> {
    let all = [1, 2, 4];
    let mut done = 0;
    for flavour in [Flavour::Cloud, Flavour::Generic] {
        for smp in all {
            let chosen: Vec<u32> = all
                .into_iter()
                .filter(|vcpus| context.long || (flavour, smp, *vcpus) == (Flavour::Cloud, 2, 4))
                .collect();
            if chosen.is_empty() {
                continue;
            }
            let outcome = one_row(context, flavour, smp, &chosen)?;
            let Outcome::Passed(_) = outcome else { return Ok(outcome) };
            done += chosen.len();
        }
    }
    Ok(Outcome::Passed(format!("({done} of vcpus on pcpus)")))
}

fn one_row(context: &Context, flavour: Flavour, smp: u32, chosen: &[u32]) -> Result<Outcome> {
    let mut lab = lab("matrix", flavour, smp);
    lab.configs = vec![("linux", "")];
    lab.run(context, |system| {
        let before = settled(system, "linux")?;
        for vcpus in chosen {
            system.must(&["create", "linux.cfg", &format!("vcpus={vcpus}")])?;
            let mut typed = attach(system, "linux")?;
            let seen = typed.must("nproc", SHORT)?;
            claim(seen == vcpus.to_string(), format!("{seen} of {vcpus} vcpus on {smp} pcpus"))?;
            typed.must("for c in 1 2 3 4; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo x >>/done) & done; wait; [ $(wc -l </done) = 4 ]", SHORT)?;
            no_complaints(&mut typed)?;
            typed.keys("poweroff -f\n")?;
            gone(system, "linux")?;
            nothing_left(system, &before)?;
        }
        Ok(String::new())
    })
}
