//! What `cargo xtask run --linux` adds to the volume: Debian's kernel, a ramdisk with a shell, and a configuration; and the
//! case that tries it.

use crate::domu::{self, BOOT_LIMIT, SHORT};
use crate::failure::{Failure, Result};
use crate::linux::{self, Flavour};
use crate::networks;
use crate::paths;
use crate::setup;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::System;
use crate::typed::Typed;
use crate::volume::Volume;
use std::path::{Path, PathBuf};

/// The ramdisk's first program: on to the disk that `root=` names, else a shell, with which the domain ends. `SELF` comes
/// from the kernel's command line.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/ PS1='# '
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
for word in $(cat /proc/cmdline); do case $word in root=*) root=${word#root=};; esac; done
if [ -n "$root" ]; then
  i=0; until [ -b "$root" ] || [ $i = 100 ]; do usleep 100000; i=$((i+1)); done
  # Debian's is a link that leads nowhere from here.
  if mount -t ext4 "$root" /mnt && { [ -x /mnt/sbin/init ] || [ -L /mnt/sbin/init ]; }; then
    mount --move /dev /mnt/dev; umount /proc /sys; exec switch_root /mnt /sbin/init
  fi
  echo "$root: no ext4 with a /sbin/init; here is a shell of the ramdisk"
fi
ip link set lo up
i=0; until [ -d /sys/class/net/eth0 ] || [ $i = 20 ]; do usleep 100000; i=$((i+1)); done
[ -n "$SELF" ] && [ -d /sys/class/net/eth0 ] && ip addr add $SELF/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
echo "Linux $(uname -r) is up; its end is: exit"
setsid cttyhack sh
poweroff -f
"#;

/// What the kernel runs when dom0 wants the guest to end (`pvctl shutdown`, `pvctl reboot`).
const ENDS: [(&str, &str); 2] = [
    ("sbin/poweroff", "#!/bin/busybox sh\nsync; exec /bin/busybox poweroff -f\n"),
    ("sbin/reboot", "#!/bin/busybox sh\nsync; exec /bin/busybox reboot -f\n"),
];

/// The address that the guest takes unless its configuration says another.
const ADDRESS: &str = "10.0.2.21";

/// Adds `vmlinuz`, `ramdisk` and `linux.cfg`; the guest has the first `disks` disks from vdb on.
pub(crate) fn add(volume: &mut Volume, flavour: Flavour, disks: usize) -> Result<()> {
    let missing = |what| Failure::missing(format!("no {what} here and none could be downloaded"));
    let kernel = flavour.kernel().ok_or_else(|| missing("Linux kernel"))?;
    let busybox = linux::busybox().ok_or_else(|| missing("static busybox"))?;
    volume.add(&kernel, "vmlinuz");
    volume.add(&ramdisk(&kernel, &busybox)?, "ramdisk");
    volume.add_text("linux.cfg", &config(disks));
    Ok(())
}

/// MiB of the machine at least. Kernels of newer versions are packed with Zstandard and a window as large as what they
/// unpack to: together some 200 MiB.
pub(crate) fn least_memory(flavour: Flavour) -> u32 {
    match flavour {
        Flavour::Cloud | Flavour::Generic => 0,
        Flavour::Newer | Flavour::NewerGeneric => 1024,
    }
}

fn ramdisk(kernel: &Path, busybox: &Path) -> Result<PathBuf> {
    let mut archive = linux::contents(busybox, INIT)?;
    linux::guest_modules(&mut archive, kernel)?;
    for dir in ["mnt", "sbin"] {
        archive.directory(dir);
    }
    for (name, script) in ENDS {
        archive.file(name, script.as_bytes());
    }
    let file = paths::target().join("linux/run.cpio");
    paths::write(&file, archive.finish())?;
    Ok(file)
}

fn config(disks: usize) -> String {
    let entries = ('b'..='z').zip('a'..='z').take(disks);
    let disks: Vec<String> = entries.map(|(ours, theirs)| format!("'phy:vd{ours},xvd{theirs},w'")).collect();
    let disks = if disks.is_empty() { String::new() } else { format!("disk = [ {} ]\n", disks.join(", ")) };
    format!(
        "name = 'linux'\nkernel = 'vmlinuz'\nramdisk = 'ramdisk'\nmemory = 160\nvif = [ '' ]\n{disks}\
         extra = 'console=hvc0 SELF={ADDRESS}'\n"
    )
}

// ---- The case -------------------------------------------------------------------------------------------------------

/// What the ramdisk says when its shell is there.
const UP: &str = "its end is: exit";
/// What the disk's first program says.
const FROM_DISK: &str = "THIS IS THE DISK";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-run_has_one_to_try", Needs::Images, one_to_try)]
}

/// The machine of `cargo xtask run --linux --net --disk FILE`, and what the documentation does with it.
fn one_to_try(context: &Context) -> Result<Outcome> {
    setup::need(&[setup::QEMU, setup::MTOOLS])?;
    let disk = disk()?;
    let mut volume = Volume::default();
    if let Err(failure) = add(&mut volume, Flavour::Cloud, 1) {
        return Ok(Outcome::Skipped(failure.to_string()));
    }
    let extra = networks::card(&[]);
    let mut system = networks::system("to-try", context, 512, volume, vec![disk], extra)?;
    let seen = tried(&mut system);
    networks::finish(system, seen)
}

/// A disk to go on to.
fn disk() -> Result<PathBuf> {
    let dir = paths::target().join("linux/to-try");
    let busybox = linux::busybox().ok_or_else(|| Failure::missing("no static busybox"))?;
    paths::copy(&busybox, &dir.join("tree/bin/busybox"))?;
    let init = dir.join("tree/sbin/init");
    paths::write(&init, format!("#!/bin/busybox sh\necho '{FROM_DISK}'\n/bin/busybox poweroff -f\n"))?;
    for program in [init, dir.join("tree/bin/busybox")] {
        domu::executable(&program)?;
    }
    paths::make_dir(&dir.join("tree/dev"))?;
    let image = dir.join("disk.img");
    domu::ext4(&image, &dir.join("tree"), "16M")?;
    Ok(image)
}

fn tried(system: &mut System) -> Result<String> {
    let before = domu::settled(system, "linux")?;
    system.must(&["create", "linux.cfg"])?;
    let mut typed = up(system)?;
    typed.must("ping -c 1 -w 20 10.0.2.2", SHORT)?;
    domu::no_complaints(&mut typed)?;
    // Asked through xenstore, Linux ends itself by its own programs.
    let old = system.must(&["domid", "linux"])?;
    system.must(&["reboot", "-w", "linux"])?;
    domu::another(system, "linux", &old)?;
    up(system)?;
    system.must(&["shutdown", "-w", "linux"])?;
    domu::gone(system, "linux")?;
    domu::nothing_left(system, &before)?;
    let mut typed = {
        system.must(&["create", "linux.cfg", "root='/dev/xvda'"])?;
        Typed::attach(system, "linux")?
    };
    typed.wait(FROM_DISK, BOOT_LIMIT)?;
    domu::gone(system, "linux")?;
    domu::nothing_left(system, &before)?;
    Ok("(network, reboot, shutdown, root on its disk)".into())
}

/// Waits for the ramdisk's shell.
fn up(system: &System) -> Result<Typed> {
    let mut typed = Typed::attach(system, "linux")?;
    let at = typed.wait(UP, BOOT_LIMIT)?;
    typed.wait_from(at, "\n# ", SHORT)?;
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use super::config;

    #[test]
    fn the_disks_of_dom0_are_the_guests() {
        assert!(!config(0).contains("phy:"));
        assert!(config(2).contains("disk = [ 'phy:vdb,xvda,w', 'phy:vdc,xvdb,w' ]\n"));
    }
}
