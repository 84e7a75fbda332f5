//! Figures: from the console of a machine, and booted for.

use crate::failure::{Failure, Result};
use crate::images;
use crate::qemu::{Accel, Echo, Machine};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What precedes a figure on a guest's console.
const MARK: &str = "BENCH ";
/// The machine counts instructions: one of them is a nanosecond, and idle time passes at once.
pub(crate) const COUNTING: [&str; 2] = ["-icount", "shift=0,sleep=off"];
/// What every hypervisor is told.
pub(crate) const ARGS: &str = "console=com1 com1=115200,8n1";

/// Our side's name.
const OURS: &str = "ours";

/// A figure: the cost of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// The row.
    pub(crate) name: String,
    /// How many operations a batch had.
    pub(crate) operations: u64,
    /// Instructions, or ticks of the time stamp counter where none are counted.
    pub(crate) instructions: u64,
    /// By the clock that the hypervisor shows.
    pub(crate) nanoseconds: u64,
}

/// By what a machine's time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// By the instructions it executes: the same every time.
    Instructions,
    /// By the clock on the wall.
    Wall,
}

/// A hypervisor to measure.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// How it is called in tables.
    pub(crate) name: &'static str,
    /// Its image.
    pub(crate) image: PathBuf,
}

impl Side {
    /// Our hypervisor, or the one that stands for it.
    pub(crate) fn ours(other: Option<&Path>) -> Self {
        Self { name: OURS, image: other.map_or_else(images::hypervisor, Path::to_path_buf) }
    }

    /// Whether this is our hypervisor, or the one that stands for it.
    pub(crate) fn is_ours(&self) -> bool {
        self.name == OURS
    }

    /// A machine with a kernel as dom0.
    pub(crate) fn machine(&self, clock: Clock, dom0: &Path, args: &str) -> Machine {
        let mut machine = Machine::new(&self.image, dom0, args);
        machine.accel = Accel::Tcg;
        ARGS.clone_into(&mut machine.hypervisor_args);
        if clock == Clock::Instructions {
            machine.extra = COUNTING.map(str::to_owned).to_vec();
        }
        machine
    }
}

/// Boots a machine that has to say `proof`, and reads its figures.
pub(crate) fn boot(machine: &Machine, limit: Duration, proof: &str) -> Result<Vec<Figure>> {
    console(machine, limit, proof).map(|console| read(&console))
}

/// Boots a machine that has to say `proof`; all it printed.
pub(crate) fn console(machine: &Machine, limit: Duration, proof: &str) -> Result<String> {
    let ended = machine.run(limit, Echo::Off)?;
    if !ended.console.contains(proof) {
        let how = if ended.timed_out { "did not end in time" } else { "failed" };
        return Err(Failure::new(format!(
            "the measurement on {} {how}\n{}",
            machine.hypervisor.display(),
            ended.console
        )));
    }
    Ok(ended.console)
}

/// The figures on a console: lines `BENCH name operations instructions nanoseconds`.
pub(crate) fn read(console: &str) -> Vec<Figure> {
    let figure = |line: &str| {
        let mut words = line.split_once(MARK)?.1.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some(Figure { name, operations: number()?, instructions: number()?, nanoseconds: number()? })
    };
    console.lines().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_are_read_from_the_console() {
        let console = "x\nBENCH null_hypercall 32 78 80\r\nd0: BENCH other 4 5 6\nBENCH broken 1 2\n";
        let names: Vec<_> =
            super::read(console).into_iter().map(|figure| (figure.name, figure.instructions)).collect();
        assert_eq!(names, vec![("null_hypercall".to_owned(), 78), ("other".to_owned(), 5)]);
    }
}
