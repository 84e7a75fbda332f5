//! Building the images and collecting them where the documentation says they are.

use crate::failure::{Failure, Result};
use crate::paths;
use crate::setup;
use crate::symbols;
use crate::tools::{self, say};
use crate::worlds::{self, TARGET, World};
use std::path::{Path, PathBuf};

/// The hypervisor.
pub(crate) fn hypervisor() -> PathBuf {
    paths::images().join("xen-like-hv")
}

/// The default dom0.
pub(crate) fn dom0() -> PathBuf {
    paths::images().join("dom0")
}

/// A guest kernel by name.
pub(crate) fn guest(name: &str) -> PathBuf {
    paths::images().join("guests").join(name)
}

/// What optimisation the images are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What users run.
    Release,
    /// With debug assertions: lock ranks are checked.
    Dev,
}

impl Profile {
    fn dir(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// A package's bare-metal binaries.
struct Part {
    title: &'static str,
    package: &'static str,
    /// Where cargo puts them below the profile's directory.
    subdir: &'static str,
    /// What to build: (cargo's word for the kind, name, where it goes).
    binaries: Vec<(&'static str, String, PathBuf)>,
}

/// The names of the guest kernels in the sources: the SDK's examples and the test guests.
pub(crate) fn guest_names() -> Vec<String> {
    examples().into_iter().chain(test_guests()).collect()
}

/// The names of the test guests.
pub(crate) fn test_guests() -> Vec<String> {
    sources("tests/guests/src/bin")
}

fn examples() -> Vec<String> {
    sources("pv-guest-kernel/examples")
}

/// The binaries that cargo finds by itself in a directory: files, and directories with a `main.rs`.
fn sources(dir: &str) -> Vec<String> {
    let is_binary =
        |path: &Path| path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").is_file();
    paths::list(&paths::root().join(dir), is_binary).iter().map(|path| paths::stem(path)).collect()
}

fn parts() -> Vec<Part> {
    let guests = |kind: &'static str, names: Vec<String>| {
        names.into_iter().map(|name| (kind, name.clone(), guest(&name))).collect()
    };
    vec![
        Part {
            title: "hypervisor",
            package: "xen-like-hv",
            subdir: "",
            binaries: vec![("--bin", "xen-like-hv".into(), hypervisor())],
        },
        Part {
            title: "dom0",
            package: "dom0-tools",
            subdir: "",
            binaries: vec![("--bin", "dom0".into(), dom0())],
        },
        Part {
            title: "SDK examples",
            package: "pv-guest-kernel",
            subdir: "examples",
            binaries: guests("--example", examples()),
        },
        Part {
            title: "test guests",
            package: "test-guests",
            subdir: "",
            binaries: guests("--bin", test_guests()),
        },
    ]
}

/// Builds everything that QEMU starts.
pub(crate) fn build_all(profile: Profile) -> Result<()> {
    build(parts(), profile)
}

/// Builds what a machine needs that runs our hypervisor, or another one.
pub(crate) fn build_for(other: Option<&Path>) -> Result<()> {
    let needed = |part: &Part| other.is_none() || part.package != "xen-like-hv";
    build(parts().into_iter().filter(needed).collect(), Profile::Release)
}

fn build(parts: Vec<Part>, profile: Profile) -> Result<()> {
    let world = setup::need_world()?;
    say(&format!("building with {}", world.describe()));
    let parts: Vec<Part> = parts.into_iter().filter(|part| !part.binaries.is_empty()).collect();
    let mut broken = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        say(&format!("[{}/{}] {}", number + 1, parts.len(), part.title));
        if let Err(failure) = build_part(&world, part, profile) {
            say(&failure.to_string());
            broken.push(part.title);
        }
    }
    worlds::tidy();
    if !broken.is_empty() {
        return Err(Failure::new(format!("not built: {}", broken.join(", "))));
    }
    say(&format!("images are in {}", paths::images().display()));
    Ok(())
}

fn build_part(world: &World, part: &Part, profile: Profile) -> Result<()> {
    let mut cargo = world.cargo()?;
    let out = paths::target();
    cargo.args(["build", "--target", TARGET, "-p", part.package, "--target-dir"]).arg(&out);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    for (kind, name, _) in &part.binaries {
        cargo.arg(kind).arg(name);
    }
    tools::must(&format!("building {}", part.title), &mut cargo)?;
    let built = out.join(TARGET).join(profile.dir()).join(part.subdir);
    for (_, name, image) in &part.binaries {
        let file = built.join(name);
        if !file.is_file() {
            return Err(Failure::new(format!("cargo left no {}", file.display())));
        }
        paths::copy(&file, image)?;
        if part.package == "xen-like-hv" {
            symbols::embed(image)?;
        }
    }
    Ok(())
}
