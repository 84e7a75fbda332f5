//! The two worlds in which the bare-metal images are built.
//!
//! A toolchain that has `x86_64-unknown-none` installed builds them with plain cargo. Elsewhere the distribution's
//! compiler does, with `core` and `alloc` built once from the distribution's sources into a private sysroot. That step
//! alone uses unstable features (`-Zbuild-std`); everything after it is ordinary cargo with `--sysroot`.

use crate::failure::{Failure, Result};
use crate::paths;
use crate::tools;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of every image.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// Where Debian and Ubuntu put the library sources.
const DISTRO_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";

/// Names under which distributions ship LLVM's linker.
const LINKERS: [&str; 8] =
    ["ld.lld", "ld.lld-21", "ld.lld-20", "ld.lld-19", "ld.lld-18", "ld.lld-16", "ld.lld-15", "ld.lld-14"];

/// How to build for bare metal on this machine.
#[derive(Debug, Clone)]
pub(crate) enum World {
    /// The toolchain in use has the target's libraries.
    Prebuilt,
    /// The distribution's compiler, with its library sources.
    Distro {
        /// The distribution's compiler.
        rustc: PathBuf,
        /// The cargo of the same version.
        cargo: PathBuf,
        /// LLVM's linker.
        linker: PathBuf,
    },
}

/// Finds the world to build in, or says what is missing. `XTASK_WORLD=distro|prebuilt` forces one.
pub(crate) fn detect() -> Result<World> {
    let forced = env::var("XTASK_WORLD").unwrap_or_default();
    if forced != "distro" && has_target() {
        return Ok(World::Prebuilt);
    }
    if forced == "prebuilt" {
        return Err(Failure::missing(format!("{TARGET} is not installed: run `rustup target add {TARGET}`")));
    }
    distro().ok_or_else(|| {
        Failure::missing(format!(
            "nothing here can build for {TARGET}. One of these is needed:\n  rustup target add {TARGET}\n  \
             apt install rustc-web cargo-web rust-web-src lld   (Debian 12)\n  \
             apt install rustc cargo rust-src lld               (newer Debian, Ubuntu)"
        ))
    })
}

fn distro() -> Option<World> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    let linker = tools::find(&LINKERS)?;
    let complete = rustc.exists() && cargo.exists() && Path::new(DISTRO_SOURCES).exists();
    complete.then_some(World::Distro { rustc, cargo, linker })
}

/// Whether the toolchain in use has the target's libraries.
fn has_target() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut ask = Command::new(rustc);
    ask.current_dir(paths::root()).args(["--print", "target-libdir", "--target", TARGET]);
    tools::output(&mut ask).is_some_and(|dir| {
        let is_core = |path: &Path| paths::stem(path).starts_with("libcore-");
        !paths::list(Path::new(&dir), is_core).is_empty()
    })
}

impl World {
    /// One line for a person.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Prebuilt => format!("the toolchain's own {TARGET}"),
            Self::Distro { rustc, linker, .. } => {
                format!("{} with {}, core and alloc from its sources", rustc.display(), linker.display())
            }
        }
    }

    /// A cargo command whose `--target x86_64-unknown-none` builds work in this world.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let Self::Distro { rustc, cargo, linker } = self else { return Ok(tools::cargo()) };
        let sysroot = sysroot(rustc, cargo)?;
        let mut command = Command::new(cargo);
        // Cargo appends these to the flags of .cargo/config.toml.
        let flags = format!("--sysroot={}", sysroot.display());
        command
            .current_dir(paths::root())
            .env("RUSTC", rustc)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", linker)
            .env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS", flags);
        Ok(command)
    }
}

/// The private sysroot of a distribution compiler, built on first use for each version of it.
fn sysroot(rustc: &Path, cargo: &Path) -> Result<PathBuf> {
    let version = tools::output(Command::new(rustc).arg("-V"))
        .ok_or_else(|| Failure::new(format!("{} -V failed", rustc.display())))?;
    let key: String =
        version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let dir = paths::target().join("sysroot").join(key);
    let libraries = dir.join("lib/rustlib").join(TARGET).join("lib");
    let stamp = libraries.join("complete");
    if stamp.exists() {
        return Ok(dir);
    }
    tools::say(&format!("building core and alloc for {TARGET} with {version} (once, about half a minute)"));
    let built = build_libraries(rustc, cargo)?;
    paths::make_dir(&libraries)?;
    for file in paths::list(&built, |path| path.extension().is_some_and(|ext| ext == "rlib")) {
        let name = file.file_name().unwrap_or_default();
        if !name.to_string_lossy().starts_with("libsysroot_make") {
            paths::copy(&file, &libraries.join(name))?;
        }
    }
    paths::write(&stamp, "")?;
    Ok(dir)
}

/// Builds the libraries in a throw-away package; the directory that holds the results.
fn build_libraries(rustc: &Path, cargo: &Path) -> Result<PathBuf> {
    let make = paths::target().join("sysroot/make");
    let manifest = "[package]\nname = \"sysroot-make\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
                    [profile.release]\ndebug = \"line-tables-only\"\n";
    paths::write(&make.join("Cargo.toml"), manifest)?;
    paths::write(&make.join("src/lib.rs"), "#![no_std]\n")?;
    let out = make.join("target");
    let mut build = Command::new(cargo);
    build
        .current_dir(&make)
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        // RUSTFLAGS beats every rustflags key of configuration files, so the workspace's do not reach core. Bitcode
        // is embedded so that link-time optimisation of the images can see into the libraries.
        .env(
            "RUSTFLAGS",
            "-Crelocation-model=pic -Cforce-frame-pointers=yes -Cno-redzone=yes -Cembed-bitcode=yes",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .args(["build", "--release", "--target", TARGET, "-Zbuild-std=core,alloc,compiler_builtins"])
        .args(["-Zbuild-std-features=compiler-builtins-mem", "--target-dir"])
        .arg(&out);
    tools::must("building core and alloc", &mut build)?;
    Ok(out.join(TARGET).join("release/deps"))
}

/// Removes half-built sysroots' scratch directory; what is complete stays.
pub(crate) fn tidy() {
    let scratch = paths::target().join("sysroot/make");
    if scratch.exists() && fs::remove_dir_all(&scratch).is_err() {
        tools::say("could not remove target/sysroot/make");
    }
}
