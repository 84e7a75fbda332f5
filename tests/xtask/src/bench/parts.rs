//! What there is to measure.

use super::figures::{self, Clock, Figure, Side};
use super::{growth, io, load};
use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::images;
use crate::qemu::Accel;
use crate::system::Plan;
use crate::volume::Volume;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
/// The guest that measures what one domain can do alone, and the kind of which two work together.
const ALONE: &str = "bench";
const PAIR: &str = "bench_pair";
/// Memory of our dom0.
pub(crate) const DOM0_MIB: u32 = 320;
/// What a guest says in the end.
const PROOF: &str = "VERDICT: SUCCESS";

/// A part of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Part {
    /// Operations that one domain can do alone
    Alone,
    /// Two domains that work together, made by our dom0 on either hypervisor
    Pair,
    /// Debian's Linux as dom0 and as a guest, with a load of ordinary programs
    Linux,
    /// Disks, networks and creation of Debian's Linux, against Xen with Linux as dom0 and its own toolstack
    Io,
    /// The same operations with more domains, pcpus, event channels and grant frames
    Growth,
}

impl Part {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Alone, Self::Pair, Self::Linux, Self::Io, Self::Growth];
    /// Those whose rows are single operations of the ABI.
    pub(crate) const OPERATIONS: [Self; 2] = [Self::Alone, Self::Pair];

    /// Its name.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Pair => "pair",
            Self::Linux => "linux",
            Self::Io => "io",
            Self::Growth => "growth",
        }
    }

    /// Its heading in the documentation.
    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::Alone => "One domain alone",
            Self::Pair => "Two domains",
            Self::Linux => "Linux as the load",
            Self::Io => "Disks, networks, creation",
            Self::Growth => "Growth",
        }
    }

    /// How it is measured, for the documentation.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Alone => {
                "`tests/guests/src/bin/bench` is booted as dom0, with handlers of a few instructions."
            }
            Self::Pair => {
                "`tests/guests/src/bin/bench_pair.rs`: two guests that our dom0 makes on either hypervisor. With 2 pcpus the \
                 instructions of both count."
            }
            Self::Linux => {
                "Debian's kernels with a ramdisk of busybox, on one pcpu: as a guest that our dom0 makes on either hypervisor \
                 (`linux_guest`), and as dom0 (`linux_dom0`). Linux's clock goes by instructions here and is read in steps of \
                 10 ms, so small differences mean nothing. Times to init are by the kernel's own clock."
            }
            Self::Io => {
                "Guests are Debian's Linux with one vcpu, on one pcpu: on our hypervisor with our dom0, on Xen with Debian's Linux as \
                 dom0 and Xen's own toolstack; the same guests, the same disk. These are no instructions but nanoseconds of \
                 processor time that QEMU needs for one operation, with all its threads, the guest's and dom0's side included \
                 (`-accel tcg` without counting): they are the host's, and only the ratio means something, to about a tenth; for the network \
                 Xen's figures were up to twice as large in one run as in another. By the wall's \
                 clock is what the guest's own clock says of the same loads, waits included. `io_idle_second` is a second in which \
                 two guests have nothing to do."
            }
            Self::Growth => "",
        }
    }

    /// Whether its figures have processor time and time that passed, from the same run.
    pub(crate) fn has_both_clocks(self) -> bool {
        self == Self::Io
    }

    /// Measures it on a hypervisor. Rows whose name does not contain `only` may be missing.
    pub(crate) fn measure(self, side: &Side, clock: Clock, only: &str) -> Result<Vec<Figure>> {
        match self {
            Self::Alone => alone(side, clock, ""),
            Self::Pair => pair(side, clock),
            Self::Linux => load::measure(side),
            Self::Io => io::measure(side, only),
            Self::Growth => growth::measure(side),
        }
    }
}

impl Clock {
    /// For messages.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Wall => "by the wall's clock",
        }
    }
}

/// The measuring guest as dom0, with words on its command line.
pub(crate) fn alone(side: &Side, clock: Clock, words: &str) -> Result<Vec<Figure>> {
    // The guest's short upcall knows the bitmaps in the shared page, which both hypervisors have.
    let mut machine = side.machine(clock, &images::guest(ALONE), &format!("events=2l {words}"));
    machine.hypervisor_args.push_str(" dom0_mem=256M");
    figures::boot(&machine, LIMIT, PROOF)
}

/// A system with our dom0, whose commands are on its command line; nobody outside takes part.
pub(crate) struct Scene {
    /// Names its scratch directory.
    pub(crate) name: String,
    /// Number of pcpus.
    pub(crate) smp: u32,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// What is on the volume.
    pub(crate) volume: Volume,
    /// Commands of dom0's shell.
    pub(crate) commands: String,
}

impl Scene {
    /// Boots it on a hypervisor until it has said `proof` and ended; the console.
    pub(crate) fn console(self, side: &Side, clock: Clock, limit: Duration, proof: &str) -> Result<String> {
        let extra = match clock {
            Clock::Instructions => figures::COUNTING.map(str::to_owned).to_vec(),
            Clock::Wall => Vec::new(),
        };
        let hardware = Hardware {
            smp: self.smp,
            memory: self.memory,
            accel: Accel::Tcg,
            hv: Some(side.image.clone()),
            hv_args: None,
            extra,
        };
        let plan = Plan {
            name: format!("bench-{}", self.name),
            hardware,
            dom0_args: format!("run=\"{}; poweroff\"", self.commands),
            volume: self.volume,
            disks: Vec::new(),
        };
        let mut machine = plan.machine()?;
        // An unpacked Linux has to fit twice.
        machine.hypervisor_args = format!("{} dom0_mem={DOM0_MIB}M", figures::ARGS);
        figures::console(&machine, limit, proof)
    }
}

/// Two guests, on one pcpu and on two.
fn pair(side: &Side, clock: Clock) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for (smp, suffix) in [(1, ""), (2, "_on_2_pcpus")] {
        let mut volume = Volume::default();
        volume.add(&images::guest(PAIR), PAIR);
        // The domains' numbers are known: they are the first ones that dom0 makes. A port can be left for a domain
        // only once it is there.
        for (name, words) in [("left", format!("accept=2 suffix={suffix}")), ("right", "offer=1".to_owned())]
        {
            let config = format!(
                "name = \"{name}\"\nkernel = \"{PAIR}\"\nmemory = 32\nvcpus = 1\nextra = \"events=2l {words}\"\non_crash = \"destroy\"\n"
            );
            volume.add_text(&format!("{name}.cfg"), &config);
        }
        let scene = Scene {
            name: format!("pair-{smp}"),
            smp,
            memory: 640,
            volume,
            commands: "create left.cfg; create right.cfg; wait left; log left; log right".into(),
        };
        let figures = figures::read(&scene.console(side, clock, LIMIT, PROOF)?);
        if figures.is_empty() {
            return Err(Failure::new("the pair of guests measured nothing"));
        }
        all.extend(figures);
    }
    Ok(all)
}
