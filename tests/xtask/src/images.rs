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

/// Binaries that are built together.
struct Part {
    title: &'static str,
    /// Cargo's words for the profile, and the directory it builds them in.
    profile: (&'static [&'static str], &'static str),
    binaries: Vec<Binary>,
}

/// A bare-metal binary.
struct Binary {
    package: &'static str,
    /// Cargo's word for its kind, and where cargo puts such below the profile's directory.
    kind: (&'static str, &'static str),
    name: String,
    /// Where it goes.
    image: PathBuf,
}

const BIN: (&str, &str) = ("--bin", "");
const EXAMPLE: (&str, &str) = ("--example", "examples");

impl Profile {
    /// The hypervisor is optimised as a whole, and so is dom0; the guests are many and less in need of it.
    fn hypervisor(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Release => (&["--release"], "release"),
            Self::Dev => (&[], "debug"),
        }
    }

    fn dom0(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Release => (&["--profile", "dom0"], "dom0"),
            Self::Dev => (&[], "debug"),
        }
    }

    fn guests(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Release => (&["--profile", "guest"], "guest"),
            Self::Dev => (&[], "debug"),
        }
    }
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

fn hypervisor_part(profile: Profile) -> Part {
    let name = "xen-like-hv";
    let binary = Binary { package: name, kind: BIN, name: name.into(), image: hypervisor() };
    Part { title: "hypervisor", profile: profile.hypervisor(), binaries: vec![binary] }
}

/// The hypervisor that measures its longest stretches.
pub(crate) fn stretch_hypervisor() -> PathBuf {
    paths::images().join("xen-like-hv-stretch")
}

/// Builds the guests, and the hypervisor that measures its longest stretches.
pub(crate) fn build_for_stretches() -> Result<()> {
    let mut part = hypervisor_part(Profile::Release);
    part.profile.0 = &["--release", "--features", "xen-like-hv/stretch"];
    part.binaries.iter_mut().for_each(|binary| binary.image = stretch_hypervisor());
    build(&[part, dom0_part(Profile::Release), guests_part(Profile::Release)])
}

fn dom0_part(profile: Profile) -> Part {
    let binary = Binary { package: "dom0-tools", kind: BIN, name: "dom0".into(), image: dom0() };
    Part { title: "dom0", profile: profile.dom0(), binaries: vec![binary] }
}

fn guests_part(profile: Profile) -> Part {
    let mut binaries = Vec::new();
    for (package, kind, names) in
        [("pv-guest-kernel", EXAMPLE, examples()), ("test-guests", BIN, test_guests())]
    {
        binaries.extend(names.into_iter().map(|name| {
            let image = guest(&name);
            Binary { package, kind, name, image }
        }));
    }
    Part { title: "guests", profile: profile.guests(), binaries }
}

/// Builds everything that QEMU starts.
pub(crate) fn build_all(profile: Profile) -> Result<()> {
    build(&[hypervisor_part(profile), dom0_part(profile), guests_part(profile)])
}

/// Builds what a machine needs that runs our hypervisor, or another one.
pub(crate) fn build_for(other: Option<&Path>) -> Result<()> {
    match other {
        None => build_all(Profile::Release),
        Some(_) => build(&[dom0_part(Profile::Release), guests_part(Profile::Release)]),
    }
}

fn build(parts: &[Part]) -> Result<()> {
    let world = setup::need_world()?;
    say(&format!("building with {}", world.describe()));
    let mut broken = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        say(&format!("[{}/{}] {} ({} files)", number + 1, parts.len(), part.title, part.binaries.len()));
        if let Err(failure) = build_part(&world, part) {
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

fn build_part(world: &World, part: &Part) -> Result<()> {
    let mut cargo = world.cargo()?;
    let out = paths::target();
    cargo
        .args(["build", "--keep-going", "--target", TARGET])
        .args(part.profile.0)
        .arg("--target-dir")
        .arg(&out);
    let mut packages: Vec<&str> = part.binaries.iter().map(|binary| binary.package).collect();
    packages.dedup();
    for package in packages {
        cargo.args(["-p", package]);
    }
    if part.binaries.iter().any(|binary| binary.package == "pv-guest-kernel") {
        // Examples may need any of the SDK's features.
        cargo.args(["--features", "pv-guest-kernel/smoltcp"]);
    }
    for binary in &part.binaries {
        cargo.arg(binary.kind.0).arg(&binary.name);
    }
    tools::must(&format!("building {}", part.title), &mut cargo)?;
    let built = out.join(TARGET).join(part.profile.1);
    for binary in &part.binaries {
        paths::copy(&built.join(binary.kind.1).join(&binary.name), &binary.image)?;
        if binary.package == "xen-like-hv" {
            symbols::embed(&binary.image)?;
        }
    }
    Ok(())
}
