//! Where things are: the workspace, the images, and the scratch files of a run.

use crate::failure::{Failure, Result};
use crate::tools;
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The build directory; the images' documented paths are below it whatever `CARGO_TARGET_DIR` says.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where `build` leaves what QEMU starts.
pub(crate) fn images() -> PathBuf {
    target().join("images")
}

/// Scratch files of running machines: the control socket, volumes, module copies.
pub(crate) fn run() -> PathBuf {
    target().join("run")
}

/// MiB that are free where the build goes; nothing if `df` cannot tell.
pub(crate) fn free_mib() -> Option<u64> {
    let text = tools::output(tools::command("df").args(["--output=avail", "--block-size=1M"]).arg(root()))?;
    text.lines().last()?.trim().parse().ok()
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Failure::at(path, &error))
}

/// Copies a file, creating the directory it goes to.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    fs::copy(from, to).map(|_| ()).map_err(|error| Failure::at(from, &error))
}

/// Writes a file, creating the directory it goes to.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, bytes).map_err(|error| Failure::at(path, &error))
}

/// The names in a directory that satisfy a filter, sorted; none if there is no such directory.
pub(crate) fn list(dir: &Path, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| keep(path)).collect();
    found.sort();
    found
}

/// A path's file stem as text.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A path's last part as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
