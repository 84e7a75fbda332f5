//! Linux as dom0 with Xen's own toolstack: a ramdisk of Debian's packages, for comparisons.
//!
//! The packages are downloaded and unpacked below `target/linux`; nothing is installed.

use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::linux::{self, Flavour};
use crate::paths;
use std::fs;
use std::path::{Path, PathBuf};

/// Programs, and the package that brings each.
const PROGRAMS: [(&str, &str); 6] = [
    ("xen-utils-4.17", "usr/lib/xen-4.17/bin/xl"),
    ("xen-utils-4.17", "usr/lib/xen-4.17/bin/xenstored"),
    ("xen-utils-4.17", "usr/lib/xen-4.17/bin/xen-init-dom0"),
    ("xen-utils-4.17", "usr/lib/xen-4.17/bin/xenconsoled"),
    ("xenstore-utils", "usr/bin/xenstore-read"),
    ("xenstore-utils", "usr/bin/xenstore-write"),
];

/// Packages of the libraries that they need.
const LIBRARIES: [&str; 17] = [
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libc6",
    "libgcc-s1",
    "libuuid1",
    "zlib1g",
    "liblzma5",
    "libzstd1",
];

/// Where packages put libraries.
const LIBRARY_DIRS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// The program loader's name inside every program.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Modules of the kernel, in the order in which they need one another.
const MODULES: [&str; 16] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/xen/xen-privcmd",
    "drivers/xen/xenfs/xenfs",
    "drivers/xen/xen-evtchn",
    "drivers/xen/xen-gntdev",
    "drivers/xen/xen-gntalloc",
    "drivers/block/xen-blkback/xen-blkback",
    "drivers/net/xen-netback/xen-netback",
];

/// What the first program does: the toolstack's daemons, and a bridge `xenbr0`. `show NAME` lets a domain's console
/// appear on dom0's own; the process that does it is `$shown`, and ends with the domain.
const PROLOGUE: &str = "#!/bin/busybox sh
export PATH=/bin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir /dev/pts; mount -t devpts devpts /dev/pts
ln -s /run /var/run; mkdir /run/lock
for module in /modules/*; do insmod $module; done
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid && xen-init-dom0 && xenconsoled --log=guest --log-dir=/run
brctl addbr xenbr0 && ip link set xenbr0 up
show() { cat $(xenstore-read /local/domain/$(xl domid $1)/console/tty) 2>/dev/null & shown=$!; }
";

/// Tells the block back end which device it serves, as Xen's script of this name does.
const BLOCK_SCRIPT: &str = "#!/bin/busybox sh
export PATH=/bin
[ \"$1\" = add ] || exit 0
set -- $(ls -lL $(xenstore-read $XENBUS_PATH/params) | tr -d ,)
xenstore-write $XENBUS_PATH/physical-device $(printf '%x:%x' $5 $6) $XENBUS_PATH/hotplug-status connected
";

/// Puts an interface on the bridge.
const VIF_SCRIPT: &str = "#!/bin/busybox sh
export PATH=/bin
[ \"$1\" = online ] || exit 0
brctl addif xenbr0 $vif; ip link set $vif up
xenstore-write $XENBUS_PATH/hotplug-status connected
";

/// dom0's kernel and its ramdisk.
pub(crate) struct Dom0 {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The ramdisk.
    pub(crate) ramdisk: PathBuf,
}

/// Makes a dom0 that starts the toolstack and then does what `script` says, with `files` of the host under names.
pub(crate) fn dom0(name: &str, script: &str, files: &[(PathBuf, String)]) -> Result<Dom0> {
    let kernel = Flavour::Generic.kernel().ok_or_else(|| missing("linux-image-amd64"))?;
    let mut archive = Archive::default();
    for dir in DIRECTORIES {
        archive.directory(dir);
    }
    archive.device("dev/console", (5, 1));
    archive.file("bin/busybox", &read(&linux::busybox().ok_or_else(|| missing("busybox-static"))?)?);
    for (package, path) in PROGRAMS {
        let program = unpacked(package)?.join(path);
        archive.file(&format!("bin/{}", paths::file_name(&program)), &read(&program)?);
    }
    libraries(&mut archive)?;
    modules(&mut archive, &kernel)?;
    archive.file("etc/xen/xl.conf", b"autoballoon=\"off\"\n");
    archive.file("etc/xen/scripts/block", BLOCK_SCRIPT.as_bytes());
    archive.file("etc/xen/scripts/vif-bridge", VIF_SCRIPT.as_bytes());
    for (file, name) in files {
        archive.file(name, &read(file)?);
    }
    archive.file("init", format!("{PROLOGUE}{script}").as_bytes());
    let ramdisk = paths::target().join("linux").join(format!("{name}.cpio"));
    paths::write(&ramdisk, archive.finish())?;
    Ok(Dom0 { kernel, ramdisk })
}

const DIRECTORIES: [&str; 22] = [
    "bin",
    "dev",
    "etc",
    "etc/xen",
    "etc/xen/scripts",
    "guests",
    "lib",
    "lib/x86_64-linux-gnu",
    "lib64",
    "modules",
    "proc",
    "run",
    "run/xen",
    "run/xenstored",
    "sys",
    "tmp",
    "var",
    "var/lib",
    "var/lib/xen",
    "var/lib/xenstored",
    "var/log",
    "var/log/xen",
];

fn missing(package: &str) -> Failure {
    Failure::missing(format!("Debian's package {package} is not here and could not be downloaded"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Failure::at(path, &error))
}

fn unpacked(package: &str) -> Result<PathBuf> {
    linux::unpacked(package).ok_or_else(|| missing(package))
}

/// Whether a file is a library under the name by which programs know it: `libx.so.1`.
fn is_library(name: &str) -> bool {
    name.split_once(".so.").is_some_and(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn libraries(archive: &mut Archive) -> Result<()> {
    for package in LIBRARIES {
        let root = unpacked(package)?;
        for dir in LIBRARY_DIRS.map(|dir| root.join(dir)) {
            for file in paths::list(&dir, |path| is_library(&paths::file_name(path))) {
                let name = paths::file_name(&file);
                let program = read(&file)?;
                archive.file(&format!("lib/x86_64-linux-gnu/{name}"), &program);
                if LOADER.ends_with(&*name) {
                    archive.file(LOADER, &program);
                }
            }
        }
    }
    Ok(())
}

/// Their names begin with their places, so that a list of them is in the right order.
fn modules(archive: &mut Archive, kernel: &Path) -> Result<()> {
    for (place, module) in MODULES.iter().enumerate() {
        let file = linux::module_of(kernel, module).ok_or_else(|| missing(module))?;
        archive.file(&format!("modules/{place:02}-{}", paths::file_name(&file)), &read(&file)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_library;

    #[test]
    fn a_library_is_known_by_its_versioned_name() {
        assert!(is_library("libxenctrl.so.4.17") && is_library("ld-linux-x86-64.so.2"));
        assert!(!is_library("libxenctrl.so") && !is_library("libc.a") && !is_library("x.so.conf"));
    }
}
