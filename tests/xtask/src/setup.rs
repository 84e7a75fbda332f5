//! Installing what is missing, when it may, and saying exactly what to install when it may not.
//!
//! Packages come from apt, as root or through sudo. A missing rustup target is fetched only when a person waits for it
//! (not under `CI`, and with a time limit): where rustup's server cannot be reached, the distribution's compiler serves.

use crate::failure::{Failure, Result};
use crate::tools::{self, say};
use crate::worlds::{self, TARGET, World};
use std::env;
use std::io::IsTerminal as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// How long a fetch of the rustup target may take.
const RUSTUP_LIMIT_SECONDS: &str = "120";

/// A tool that verbs need, and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    binary: &'static str,
    package: &'static str,
}

/// The machine emulator.
pub(crate) const QEMU: Tool = Tool { binary: "qemu-system-x86_64", package: "qemu-system-x86" };
/// Makes ext4 images.
pub(crate) const MKE2FS: Tool = Tool { binary: "mke2fs", package: "e2fsprogs" };
/// Makes FAT volumes.
pub(crate) const MTOOLS: Tool = Tool { binary: "mformat", package: "mtools" };
/// Measures networks; only the long tests do.
pub(crate) const IPERF3: Tool = Tool { binary: "iperf3", package: "iperf3" };
/// Compiles libFuzzer.
pub(crate) const CXX: Tool = Tool { binary: "g++", package: "g++" };
/// Packs kernels as other distributions do.
pub(crate) const ZSTD: Tool = Tool { binary: "zstd", package: "zstd" };
/// Makes a distribution's root file system.
pub(crate) const DEBOOTSTRAP: Tool = Tool { binary: "debootstrap", package: "debootstrap" };
/// The debugger.
pub(crate) const GDB: Tool = Tool { binary: "gdb", package: "gdb" };

/// Makes sure the tools are there.
pub(crate) fn need(wanted: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|tool| tools::find(&[tool.binary]).is_none()).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing)?;
    match wanted.iter().find(|tool| tools::find(&[tool.binary]).is_none()) {
        None => Ok(()),
        Some(tool) => Err(Failure::missing(format!(
            "{} is still missing after installing {}",
            tool.binary, tool.package
        ))),
    }
}

/// Finds a way to build for bare metal, installing one if there is none.
pub(crate) fn need_world() -> Result<World> {
    let words = match worlds::detect() {
        Ok(world) => return Ok(world),
        Err(failure) => failure,
    };
    if env::var("XTASK_WORLD").as_deref() == Ok("prebuilt") {
        return Err(words);
    }
    if env::var("XTASK_WORLD").as_deref() != Ok("distro") && add_rustup_target() {
        return worlds::detect();
    }
    if tools::find(&["apt-get"]).is_none() {
        return Err(words);
    }
    apt_update()?;
    apt_install(rust_packages())?;
    worlds::detect()
}

/// Everything: a way to build, QEMU, and the tools that make volumes.
pub(crate) fn everything() -> Result<()> {
    need(&[QEMU, MKE2FS, MTOOLS])?;
    let world = need_world()?;
    world.cargo()?;
    worlds::tidy();
    say(&format!("ready: {}", world.describe()));
    Ok(())
}

/// Fetches the target with rustup when a person waits for it; whether it is there now.
fn add_rustup_target() -> bool {
    let quiet = env::var_os("CI").is_some() || env::var_os("XTASK_OFFLINE").is_some();
    if quiet || tools::find(&["rustup"]).is_none() {
        return false;
    }
    say(&format!("rustup target add {TARGET}"));
    let mut add = Command::new("timeout");
    add.args([RUSTUP_LIMIT_SECONDS, "rustup", "target", "add", TARGET])
        .current_dir(crate::paths::root())
        .stderr(Stdio::null());
    if tools::succeeds(&mut add) && matches!(worlds::detect(), Ok(World::Prebuilt)) {
        return true;
    }
    say("that did not work; trying the distribution's compiler");
    false
}

/// Whether a cargo subcommand works with the toolchain in use; the distribution's is installed if it may be.
pub(crate) fn has_cargo_tool(name: &str) -> bool {
    let works = || tools::output(tools::cargo().args([name, "--version"])).is_some();
    if works() {
        return true;
    }
    // rustup would have installed what rust-toolchain.toml lists; only a distribution's toolchain is left.
    if tools::find(&["rustup"]).is_some() || env::var_os("XTASK_OFFLINE").is_some() {
        return false;
    }
    let web = rust_packages().first() == Some(&"rustc-web");
    let package = match (name, web) {
        ("fmt", true) => "rustfmt-web",
        ("fmt", false) => "rustfmt",
        (_, true) => "rust-web-clippy",
        (_, false) => "rust-clippy",
    };
    apt_install(&[package]).is_ok() && works()
}

/// The distribution's compiler with its sources, under the names that this release has for them.
fn rust_packages() -> &'static [&'static str] {
    let has_web = tools::output(Command::new("apt-cache").args(["show", "rustc-web"]))
        .is_some_and(|text| !text.is_empty());
    if has_web {
        &["rustc-web", "cargo-web", "rust-web-src", "lld"]
    } else {
        &["rustc", "cargo", "rust-src", "lld"]
    }
}

/// apt-get as root, through sudo if need be.
fn apt_get(words: &[&str]) -> Result<Command> {
    let root = tools::output(Command::new("id").arg("-u")).as_deref() == Some("0");
    let mut command = if root {
        Command::new("apt-get")
    } else if tools::find(&["sudo"]).is_some() {
        let mut sudo = Command::new("sudo");
        // Without a person at the terminal a password prompt would hang.
        if !std::io::stdin().is_terminal() {
            sudo.arg("-n");
        }
        sudo.arg("apt-get");
        sudo
    } else {
        return Err(Failure::missing("neither root nor sudo"));
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args(words).stdin(Stdio::inherit());
    Ok(command)
}

/// Refreshes apt's lists, once per run: on a bare machine they are empty.
fn apt_update() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    say("apt-get update");
    // A stale list is better than none: what matters is whether the installation works.
    if !tools::succeeds(&mut apt_get(&["update", "-q"])?) {
        say("apt-get update failed; trying with what is known");
    }
    Ok(())
}

/// Installs packages, or fails with the exact words that a person should type.
fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = || Failure::missing(format!("please install: {0}\n  apt install {0}", packages.join(" ")));
    if tools::find(&["apt-get"]).is_none() {
        return Err(by_hand());
    }
    apt_update().map_err(|_| by_hand())?;
    say(&format!("apt-get install {}", packages.join(" ")));
    let mut words = vec!["install", "-y", "-q", "--no-install-recommends"];
    words.extend_from_slice(packages);
    if tools::succeeds(&mut apt_get(&words)?) {
        return Ok(());
    }
    if packages.contains(&QEMU.package) {
        // qemu-utils of a newer suite (backports) pins qemu's common files to its own version; the trailing minus
        // lets apt remove it. Nothing here needs qemu-utils.
        say("trying again without qemu-utils");
        words.push("qemu-utils-");
        if tools::succeeds(&mut apt_get(&words)?) {
            return Ok(());
        }
    }
    Err(by_hand())
}
