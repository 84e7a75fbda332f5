//! The command line.

use crate::bench::BenchArgs;
use crate::boot::BootArgs;
use crate::check;
use crate::demo::DemoArgs;
use crate::failure::Result;
use crate::fuzz::FuzzArgs;
use crate::images::{self, Profile};
use crate::live::{self, GdbArgs, RunArgs};
use crate::setup;
use crate::stretch::StretchArgs;
use crate::suite::TestArgs;

/// Build, run, test and measure the hypervisor.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Install what is missing (apt as root or through sudo; rustup's target), or say what to install
    Setup,
    /// Build the images: target/images/xen-like-hv, dom0 and guests/<name>
    Build {
        /// With debug assertions (lock ranks are checked) and less optimisation
        #[arg(long)]
        dev: bool,
    },
    /// Boot a PV kernel as dom0 and exit by its shutdown reason
    Boot(BootArgs),
    /// Build everything, boot QEMU and end in dom0's shell
    Run(RunArgs),
    /// Show the whole system at work without a person, and check what it did
    Demo(DemoArgs),
    /// Count the instructions of the hot paths, guest side included
    Bench(BenchArgs),
    /// Measure the longest stretches of the hypervisor without a preemption point, in instructions
    Stretch(StretchArgs),
    /// Run the host's pvctl against the system that `run` started
    #[command(disable_help_flag = true)]
    Pvctl {
        /// pvctl's words
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
        words: Vec<String>,
    },
    /// Debug the hypervisor: start a stopped machine and attach gdb with symbols
    Gdb(GdbArgs),
    /// Run the tests: host, lints, and guests in QEMU
    Test(TestArgs),
    /// Feed the fuzz targets: NAME, all, or list
    Fuzz(FuzzArgs),
    /// Check the rules that no compiler knows: table rows without handler, page or test; sizes; leftovers
    Check {
        /// Bring the pages up to date that are made from the sources: docs/verification.md, docs/advisories.md
        #[arg(long)]
        write: bool,
    },
}

impl Verb {
    /// Does it; the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        match self {
            Self::Setup => setup::everything().map(|()| 0),
            Self::Build { dev } => {
                images::build_all(if *dev { Profile::Dev } else { Profile::Release }).map(|()| 0)
            }
            Self::Boot(args) => args.run(),
            Self::Run(args) => args.run(),
            Self::Demo(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Stretch(args) => args.run(),
            Self::Pvctl { words } => live::pvctl(words),
            Self::Gdb(args) => args.run(),
            Self::Test(args) => args.run(),
            Self::Fuzz(args) => args.run(),
            Self::Check { write } => check::run(*write),
        }
    }
}
