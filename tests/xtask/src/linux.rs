//! The `linux` stage: a kernel that is not ours, Debian's, boots as dom0 and runs programs.
//!
//! The kernel and a static busybox are those of the machine; where it has none, Debian's packages are downloaded and
//! unpacked below `target/linux` (nothing is installed). Where that cannot be done the stage is skipped.

use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::guests;
use crate::paths;
use crate::qemu::{Echo, Module};
use crate::suite::{Case, Context, Needs, Outcome};
use crate::tools;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
/// A kernel of a newer version as dom0.
const NEWER: &str = "linux-newer_version_boots_as_dom0";

/// A machine for Linux and what its first program does there.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    smp: u32,
    script: &'static str,
}

/// What runs before each script. Verdicts go through the kernel's log: a kernel that is not made to be dom0 gives its
/// programs no console.
pub(crate) const PROLOGUE: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
say() { echo \"<1>$*\" >/dev/kmsg; }
fail() { say \"VERDICT: FAILURE $*\"; sleep 1; poweroff -f; sleep 60; }
";

/// What runs after it.
pub(crate) const EPILOGUE: &str = "say \"VERDICT: SUCCESS $(uname -r)\"\nsleep 1\npoweroff -f\nsleep 60\n";

const PLANS: [Plan; 3] = [
    Plan {
        name: "linux-boots_as_dom0_and_powers_off",
        smp: 1,
        script: "grep -q xen /sys/hypervisor/type || fail 'no hypervisor seen'
dmesg | grep -q 'Using FIFO-based ABI' || fail 'no FIFO events'
dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:' && fail 'the kernel complains'
",
    },
    Plan {
        name: "linux-runs_programs_and_signals",
        smp: 1,
        script: "i=0; while [ $i -lt 60 ]; do (exit 7); [ $? = 7 ] || fail 'fork or exit'; i=$((i+1)); done
a=$(sha256sum /bin/busybox); cp /bin/busybox /copy; b=$(sha256sum </copy)
[ \"${a%% *}\" = \"${b%% *}\" ] || fail 'a copied file differs'
sleep 100 & kill -TERM $!; wait $!; [ $? = 143 ] || fail 'a signal'
s=$(date +%s); sleep 2; e=$(date +%s); d=$((e-s)); [ $d -ge 2 ] && [ $d -le 20 ] || fail \"sleep 2 took $d s\"
yes | head -c 2000000 | sha256sum | grep -q ^ || fail 'a pipe'
",
    },
    Plan {
        name: "linux-brings_up_all_its_vcpus",
        smp: 2,
        script: "n=$(nproc); [ \"$n\" = \"$CPUS\" ] || fail \"$n of $CPUS vcpus\"
for c in 1 2 3 4; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo x >>/done) & done; wait
[ $(wc -l </done) = 4 ] || fail 'a lost child'
",
    },
];

/// The cases of this stage.
pub(crate) fn cases() -> Vec<Case> {
    let usual = |plan: &'static Plan| {
        Case::new(plan.name, Needs::Images, |context| boot(plan, plan.name, kernel(), context))
    };
    PLANS.iter().map(usual).chain([Case::new(NEWER, Needs::Images, newer)]).collect()
}

/// The newest kernel that has support for being dom0.
fn newer(context: &Context) -> Result<Outcome> {
    if !context.long {
        return Ok(Outcome::Skipped("downloads 100 MiB: --long".into()));
    }
    let kernel = Flavour::NewerGeneric.kernel();
    boot(&PLANS[2], NEWER, kernel, context)
}

fn boot(plan: &Plan, name: &str, kernel: Option<PathBuf>, context: &Context) -> Result<Outcome> {
    let smp = context.smp.unwrap_or(plan.smp);
    let script = format!("CPUS={smp}\n{}", plan.script);
    let Files { kernel, ramdisk } = match files_with(kernel, name, &script)? {
        Ok(files) => files,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let words = "console=hvc0 earlyprintk=xen panic=1 loglevel=6";
    let mut machine = context.machine(&kernel, words, plan.smp, 1024);
    machine.modules.push(Module { file: ramdisk, args: String::new() });
    Ok(guests::judge(&machine.run(LIMIT, Echo::Off)?))
}

/// A kernel and its ramdisk.
pub(crate) struct Files {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The ramdisk.
    pub(crate) ramdisk: PathBuf,
}

/// A kernel, and a ramdisk that runs a script; or why there are none.
pub(crate) fn files(name: &str, script: &str) -> Result<std::result::Result<Files, String>> {
    files_with(kernel(), name, script)
}

fn files_with(
    kernel: Option<PathBuf>,
    name: &str,
    script: &str,
) -> Result<std::result::Result<Files, String>> {
    let (kernel, busybox) = match (kernel, busybox()) {
        (Some(kernel), Some(busybox)) => (kernel, busybox),
        (None, _) => return Ok(Err("no Linux kernel here and none could be downloaded".into())),
        (_, None) => return Ok(Err("no static busybox here and none could be downloaded".into())),
    };
    let ramdisk = paths::target().join("linux").join(format!("{name}.cpio"));
    paths::write(&ramdisk, archive(&busybox, &format!("{PROLOGUE}{script}{EPILOGUE}"))?)?;
    Ok(Ok(Files { kernel, ramdisk }))
}

/// A ramdisk with a busybox whose first program is a script.
pub(crate) fn archive(busybox: &Path, script: &str) -> Result<Vec<u8>> {
    Ok(contents(busybox, script)?.finish())
}

/// The same, for more to be added.
pub(crate) fn contents(busybox: &Path, script: &str) -> Result<Archive> {
    let program = fs::read(busybox).map_err(|error| Failure::at(busybox, &error))?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys"] {
        archive.directory(dir);
    }
    archive.device("dev/console", (5, 1));
    archive.device("dev/null", (1, 3));
    archive.device("dev/kmsg", (1, 11));
    archive.file("bin/busybox", &program);
    archive.file("init", script.as_bytes());
    Ok(archive)
}

/// Where a kernel's modules are.
pub(crate) fn modules_of(kernel: &Path) -> PathBuf {
    let version = paths::file_name(kernel).trim_start_matches("vmlinuz-").to_owned();
    let root = kernel.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    root.join("lib/modules").join(version).join("kernel")
}

/// A module of a kernel, packed or not: busybox loads it either way.
pub(crate) fn module_of(kernel: &Path, name: &str) -> Option<PathBuf> {
    let dir = modules_of(kernel);
    ["ko", "ko.xz"].map(|ending| dir.join(format!("{name}.{ending}"))).into_iter().find(|file| file.is_file())
}

/// Modules that one kernel or the other has instead of built-in drivers; each needs those before it.
const GUEST_MODULES: [&str; 7] = [
    "drivers/block/xen-blkfront",
    "drivers/net/xen-netfront",
    "lib/crc16",
    "crypto/crc32c_generic",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
];

/// Puts what a guest needs of a kernel's modules into `modules`, by names that sort as they are to be loaded.
pub(crate) fn guest_modules(archive: &mut Archive, kernel: &Path) -> Result<()> {
    archive.directory("modules");
    for (number, file) in GUEST_MODULES.iter().filter_map(|name| module_of(kernel, name)).enumerate() {
        let code = fs::read(&file).map_err(|error| Failure::at(&file, &error))?;
        archive.file(&format!("modules/{number}-{}", paths::file_name(&file)), &code);
    }
    Ok(())
}

/// Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// For cloud machines, packed with LZ4.
    Cloud,
    /// For all machines, packed with XZ.
    Generic,
    /// For cloud machines, of the newest version that there is beside the release's own.
    Newer,
    /// For all machines, of that version.
    NewerGeneric,
}

impl Flavour {
    fn package(self) -> Option<String> {
        let known = || tools::output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]));
        match self {
            Self::Cloud => Some("linux-image-cloud-amd64".into()),
            Self::Generic => Some("linux-image-amd64".into()),
            Self::Newer => newest(&known()?, "-cloud-amd64"),
            Self::NewerGeneric => newest(&known()?, "-amd64"),
        }
    }

    /// The kernel, installed or downloaded.
    pub(crate) fn kernel(self) -> Option<PathBuf> {
        if matches!(self, Self::Newer | Self::NewerGeneric) {
            return downloaded_kernel(&self.package()?);
        }
        let fits = |path: &Path| {
            let name = paths::file_name(path);
            let is_cloud = name.ends_with("-cloud-amd64");
            let is_ours = name.starts_with("vmlinuz-") && name.ends_with("-amd64");
            is_ours && is_cloud == (self == Self::Cloud) && fs::File::open(path).is_ok()
        };
        paths::list(Path::new("/boot"), fits).pop().or_else(|| downloaded_kernel(&self.package()?))
    }
}

/// Debian's kernel for cloud machines, or the other, unless the caller has one of their own.
pub(crate) fn kernel() -> Option<PathBuf> {
    if let Some(file) = env::var_os("XTASK_LINUX") {
        return Some(PathBuf::from(file));
    }
    Flavour::Cloud.kernel().or_else(|| Flavour::Generic.kernel())
}

/// Of packages' names, the one that stands for a kernel's newest version: `linux-image-6.12-cloud-amd64`.
fn newest(names: &str, ending: &str) -> Option<String> {
    let version = |name: &str| {
        let text = name.strip_prefix("linux-image-")?.strip_suffix(ending)?;
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let known = names.lines().filter_map(|name| Some((version(name)?, name)));
    known.max().map(|(_, name)| name.to_owned())
}

fn downloaded_kernel(meta: &str) -> Option<PathBuf> {
    let text = tools::output(Command::new("apt-cache").args(["depends", meta]))?;
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?.trim().to_owned();
    let dir = unpacked(&package)?;
    paths::list(&dir.join("boot"), |path| paths::file_name(path).starts_with("vmlinuz-")).pop()
}

/// A busybox that needs no libraries.
pub(crate) fn busybox() -> Option<PathBuf> {
    let installed = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    if let Some(found) = installed.into_iter().find(|path| is_static(path)) {
        return Some(found);
    }
    let dir = unpacked("busybox-static")?;
    ["bin/busybox", "usr/bin/busybox"].map(|name| dir.join(name)).into_iter().find(|path| is_static(path))
}

/// Whether a program names no loader.
fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| !bytes.windows(8).take(4096).any(|window| window == b"ld-linux"))
}

/// Downloads a package of the distribution and unpacks it; where it is.
pub(crate) fn unpacked(package: &str) -> Option<PathBuf> {
    let dir = paths::target().join("linux").join(package);
    if dir.join("complete").exists() {
        return Some(dir);
    }
    paths::make_dir(&dir).ok()?;
    tools::say(&format!("downloading the package {package}"));
    // As root apt would download as another user, who may not write here.
    let download = ["-o", "APT::Sandbox::User=root", "-q", "download", package];
    tools::output(Command::new("apt-get").current_dir(&dir).args(download))?;
    let archive = paths::list(&dir, |path| path.extension().is_some_and(|ext| ext == "deb")).pop()?;
    tools::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&dir))?;
    paths::write(&dir.join("complete"), "").ok()?;
    Some(dir)
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_version_is_the_greatest_and_no_single_build() {
        let names = "linux-image-6.12.117+deb12-cloud-amd64\nlinux-image-6.9-cloud-amd64\nlinux-image-6.12-cloud-amd64\n\
                     linux-image-cloud-amd64\nlinux-image-6.13-amd64\nlinux-image-6.14-rt-amd64\n";
        assert_eq!(newest(names, "-cloud-amd64").as_deref(), Some("linux-image-6.12-cloud-amd64"));
        assert_eq!(newest(names, "-amd64").as_deref(), Some("linux-image-6.13-amd64"));
        assert_eq!(newest("linux-image-amd64\n", "-amd64"), None);
    }
}
