//! The `lint` stage: format, clippy for the host and for the bare target, documentation, and the project's own rules.

use crate::check;
use crate::setup;
use crate::suite::{Case, Needs, Outcome};
use crate::tools;
use crate::worlds::{self, TARGET, World};

/// The bare-metal packages with the words that choose their binaries.
const BARE: [(&str, &str); 4] = [
    ("xen-like-hv", "--bins"),
    ("pv-guest-kernel", "--examples"),
    ("test-guests", "--bins"),
    ("dom0-tools", "--bin=dom0"),
];

/// The cases of this stage.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("lint-format", Needs::Sources, |_| {
            Ok(cargo_lint("fmt", &["fmt", "--all", "--", "--check"]))
        }),
        Case::new("lint-clippy-host", Needs::Sources, |_| Ok(clippy_host())),
        Case::new("lint-clippy-bare", Needs::Sources, |_| Ok(clippy_bare())),
        Case::new("lint-rules", Needs::Sources, |_| Ok(rules())),
    ]
}

fn clippy_host() -> Outcome {
    cargo_lint(
        "clippy",
        &["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    )
}

/// Runs a cargo subcommand that may not be installed.
fn cargo_lint(tool: &str, words: &[&str]) -> Outcome {
    if !setup::has_cargo_tool(tool) {
        return Outcome::Skipped(format!("cargo {tool} is not installed here"));
    }
    match tools::quietly(&format!("cargo {tool}"), tools::cargo().args(words)) {
        Ok(_) => Outcome::Passed(String::new()),
        Err(failure) => {
            Outcome::Failed { why: format!("cargo {tool} complains"), output: failure.to_string() }
        }
    }
}

fn clippy_bare() -> Outcome {
    if !matches!(worlds::detect(), Ok(World::Prebuilt)) {
        return Outcome::Skipped(format!(
            "the toolchain has no {TARGET}; lint-clippy-host covers the same files through cfg(clippy)"
        ));
    }
    for (package, binaries) in BARE {
        let words =
            ["clippy", "--quiet", "--target", TARGET, "-p", package, "--all-features", "--lib", binaries];
        let words: Vec<&str> =
            words.into_iter().filter(|word| *word != "--lib" || package != "xen-like-hv").collect();
        let outcome = cargo_lint("clippy", &[words.as_slice(), &["--", "-D", "warnings"]].concat());
        if !matches!(outcome, Outcome::Passed(_)) {
            return outcome;
        }
    }
    Outcome::Passed(String::new())
}

fn rules() -> Outcome {
    let faults = check::faults();
    if faults.is_empty() {
        return Outcome::Passed(String::new());
    }
    Outcome::Failed { why: format!("{} rules broken", faults.len()), output: faults.join("\n") }
}
