//! Debian's GRUB for PV guests as an ordinary domain: it finds its disk and boots a Linux from it.

use crate::domu::{self, BOOT_LIMIT, Lab, Parts, SHORT, claim, gone, no_complaints};
use crate::failure::Result;
use crate::linux::{self, Flavour};
use crate::paths;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::typed::Typed;
use std::path::{Path, PathBuf};

/// Where the package has it.
const IMAGE: &str = "usr/lib/grub-xen/grub-x86_64-xen.bin";

/// What GRUB reads on the disk.
const MENU: &str = "set timeout=0
menuentry linux {
  echo GRUB LOADS
  linux /boot/vmlinuz console=hvc0 panic=1 loglevel=3 from=grub
  initrd /boot/ramdisk
}
";

/// The case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-grub_boots_linux_from_its_disk", Needs::Images, grub)]
}

/// GRUB's image, installed or downloaded.
fn image() -> Option<PathBuf> {
    let installed = Path::new("/").join(IMAGE);
    if installed.is_file() {
        return Some(installed);
    }
    let file = linux::unpacked("grub-xen-host")?.join(IMAGE);
    file.is_file().then_some(file)
}

fn grub(context: &Context) -> Result<Outcome> {
    let Some(grub) = image() else {
        return Ok(Outcome::Skipped("no GRUB for Xen here and none could be downloaded".into()));
    };
    // GRUB unpacks XZ, not LZ4.
    let parts = match Parts::find(Flavour::Generic) {
        Ok(parts) => parts,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let dir = paths::target().join("linux/grub");
    let boot = dir.join("tree/boot");
    paths::copy(&parts.kernel, &boot.join("vmlinuz"))?;
    paths::copy(&parts.ramdisk("grub", "")?, &boot.join("ramdisk"))?;
    paths::write(&boot.join("grub/grub.cfg"), MENU)?;
    let disk = dir.join("disk.img");
    domu::ext4(&disk, &dir.join("tree"), "32M")?;
    let lab = Lab {
        name: "grub",
        smp: 1,
        flavour: Flavour::Generic,
        script: "",
        disks: vec![disk],
        configs: vec![("linux", "kernel = 'grub'\nmemory = 256\ndisk = [ 'phy:vdb,xvda,w' ]")],
        files: vec![(grub, "grub")],
        memory: 320,
    };
    lab.run(context, |system| {
        let before = domu::settled(system, "linux")?;
        system.must(&["create", "linux.cfg"])?;
        let mut typed = Typed::attach(system, "linux")?;
        typed.wait("GRUB LOADS", BOOT_LIMIT)?;
        domu::shell(&mut typed)?;
        let line = typed.must("cat /proc/cmdline", SHORT)?;
        claim(line.contains("from=grub"), format!("another command line: {line}"))?;
        domu::until(&mut typed, "[ -b /dev/xvda ]")?;
        // GRUB has let go of the disk, and Linux takes it up again: ext4's mark is there. (ext4 itself is a module.)
        typed
            .must("dd if=/dev/xvda bs=1k skip=1 count=1 2>/dev/null | hexdump -C | grep -q '53 ef'", SHORT)?;
        no_complaints(&mut typed)?;
        typed.keys("poweroff -f\n")?;
        gone(system, "linux")?;
        domu::nothing_left(system, &before)?;
        Ok("(GRUB, then Linux)".into())
    })
}
