//! Debian's Xen, to be compared with.
//!
//! Where the package is not installed it is downloaded and unpacked below `target/linux`; nothing is installed by that.

use crate::failure::{Failure, Result};
use crate::linux;
use crate::paths;
use crate::tools;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "xen-hypervisor-4.17-amd64";

/// The hypervisor as QEMU starts it: an ELF file that is not compressed.
pub(crate) fn image() -> Result<PathBuf> {
    let packed = find(Path::new("/boot"))
        .or_else(|| find(&linux::unpacked(PACKAGE)?.join("boot")))
        .ok_or_else(|| Failure::missing(format!("there is no Xen to compare with: apt install {PACKAGE}")))?;
    let image = paths::target().join("xen").join(paths::stem(&packed));
    if !image.exists() {
        let done = Command::new("gzip").arg("-dc").arg(&packed).output()?;
        if !done.status.success() {
            return Err(Failure::new(format!("gzip -dc {} failed", packed.display())));
        }
        paths::write(&image, done.stdout)?;
    }
    Ok(image)
}

fn find(boot: &Path) -> Option<PathBuf> {
    let is_xen = |path: &Path| {
        let name = paths::file_name(path);
        name.starts_with("xen-4.17") && name.ends_with(".gz") && fs::File::open(path).is_ok()
    };
    paths::list(boot, is_xen).pop()
}

/// What Xen calls itself, for the head of a table.
pub(crate) fn version() -> String {
    let installed = tools::output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", PACKAGE]));
    installed.map_or_else(|| "4.17".into(), |text| text.trim().to_owned())
}
