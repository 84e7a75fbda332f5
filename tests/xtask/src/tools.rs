//! Running other programs.

use crate::failure::{Failure, Result};
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Directories that hold tools such as `mke2fs` and are often missing from an ordinary user's path.
const EXTRA_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The first of `names` that is on the path (or in the system directories), as a full path.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(EXTRA_DIRS.iter().map(PathBuf::from)).collect();
    names.iter().find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(|file| file.is_file()))
}

/// A command for a tool, found also outside an ordinary user's path.
pub(crate) fn command(name: &str) -> Command {
    Command::new(find(&[name]).unwrap_or_else(|| PathBuf::from(name)))
}

/// The trimmed standard output of a command that succeeds; nothing otherwise.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let done = command.stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Runs a command with its output shown; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command with its output shown and fails if it does.
pub(crate) fn must(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| Failure::new(format!("{what}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{what} failed ({status})"))) }
}

/// Runs a command quietly; on failure its output is part of the error.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<String> {
    let done = command.output().map_err(|error| Failure::new(format!("{what}: {error}")))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    Err(Failure::new(format!(
        "{what} failed ({})\n{text}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    )))
}

/// The cargo that runs us, so that host builds use the same toolchain.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::paths::root());
    command
}

/// A line that tells what is being done now.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}
