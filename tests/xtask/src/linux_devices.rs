//! Debian's Linux as dom0 of a machine with a virtio disk: it drives the disk by message-signalled interrupts.
//!
//! Debian's kernel for all machines, since the one for cloud machines is not made to be dom0.

use crate::failure::{Failure, Result};
use crate::guests;
use crate::linux::{self, EPILOGUE, Flavour, PROLOGUE};
use crate::paths;
use crate::qemu::{Echo, Module};
use crate::suite::{Case, Context, Needs, Outcome};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);

/// Each needs those before it.
const MODULES: [&str; 6] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
];

/// Writes and reads the disk past every cache, and counts what the disk's queue has sent meanwhile; then takes the driver
/// away and does it all once more, with messages that were given back.
const SCRIPT: &str = "mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m || fail \"no module $m\"; done
messages() { sed -n 's/^ *[0-9]*: *\\([0-9]*\\) .*xen-pirq *-msi-x *virtio.*-req.0$/\\1/p' /proc/interrupts; }
use_disk() {
  i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do usleep 100000; i=$((i+1)); done
  before=$(messages); [ -n \"$before\" ] || fail 'the disk has no message of its own'
  head -c 262144 /bin/busybox >/data
  dd if=/data of=/dev/vda bs=4096 oflag=direct conv=notrunc 2>/dev/null || fail 'writing'
  dd if=/dev/vda of=/back bs=4096 count=64 iflag=direct 2>/dev/null || fail 'reading'
  cmp /data /back || fail 'the disk gives back something else'
  after=$(messages); [ $((after-before)) -ge 64 ] || fail \"$before messages, then $after\"
}
use_disk
rmmod virtio_blk && rmmod virtio_pci || fail 'the driver stays'
grep -q msi-x /proc/interrupts && fail 'messages without a driver'
insmod /modules/4-* && insmod /modules/5-* || fail 'the driver does not come back'
use_disk
dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|xen map irq failed' && fail 'the kernel complains'
";

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-drives_its_disk_by_messages", Needs::Images, boot)]
}

fn boot(context: &Context) -> Result<Outcome> {
    let (Some(kernel), Some(busybox)) = (Flavour::Generic.kernel(), linux::busybox()) else {
        return Ok(Outcome::Skipped("no kernel or no busybox here and none could be downloaded".into()));
    };
    let ramdisk = ramdisk(&kernel, &busybox)?;
    let disk = paths::run().join("linux-messages.img");
    paths::write(&disk, vec![0; 1 << 20])?;
    let mut machine = context.machine(&kernel, "console=hvc0 earlyprintk=xen panic=1 loglevel=6", 1, 1024);
    machine.modules.push(Module { file: ramdisk, args: String::new() });
    machine.extra.extend(["-drive".into(), format!("file={},if=none,id=disk,format=raw", disk.display())]);
    machine.extra.extend(["-device".into(), "virtio-blk-pci,drive=disk".into()]);
    Ok(guests::judge(&machine.run(LIMIT, Echo::Off)?))
}

fn ramdisk(kernel: &Path, busybox: &Path) -> Result<PathBuf> {
    let mut archive = linux::contents(busybox, &format!("{PROLOGUE}{SCRIPT}{EPILOGUE}"))?;
    archive.directory("modules");
    for (number, module) in MODULES.iter().enumerate() {
        let file = linux::module_of(kernel, module)
            .ok_or_else(|| Failure::missing(format!("no {module} beside the kernel")))?;
        let code = fs::read(&file).map_err(|error| Failure::at(&file, &error))?;
        archive.file(&format!("modules/{number}-{}", paths::file_name(&file)), &code);
    }
    let ramdisk = paths::target().join("linux").join("messages.cpio");
    paths::write(&ramdisk, archive.finish())?;
    Ok(ramdisk)
}
