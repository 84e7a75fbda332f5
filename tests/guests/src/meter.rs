//! Running an operation again and again and telling what it costs.

use crate::{Claim, Trouble};
use pv_guest_kernel::arch::cpu::rdtsc_ordered;
use pv_guest_kernel::{Context, println, time};

/// Operations of a batch, unless the command line says otherwise.
const ROUNDS: u64 = 32;
/// Batches; the cheapest counts, so that an interrupt in one of them changes nothing.
const BATCHES: u64 = 6;
/// Rounds before the count: pages are touched and counters settle.
const WARM_UP: u64 = 4;

/// What to measure, and how often.
pub struct Meter {
    only: Option<&'static str>,
    rounds: u64,
}

impl Meter {
    /// As the command line says.
    pub fn new(context: &'static Context) -> Claim<Self> {
        let rounds = match context.option("rounds") {
            Some(text) => text.parse().map_err(|_| Trouble::error("rounds= takes a number"))?,
            None => ROUNDS,
        };
        Ok(Self { only: context.option("only"), rounds })
    }

    /// Whether this row is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }

    /// Prints the cost of `operation` for each of the `parts` that one run of it has.
    pub fn row(&self, name: &str, parts: u64, mut operation: impl FnMut() -> Claim) -> Claim {
        let rounds = self.rounds;
        self.batches(name, rounds * parts, || {
            for _ in 0..rounds {
                operation()?;
            }
            Ok(())
        })
    }

    /// As [`row`](Self::row) for an operation that takes long: an eighth of the rounds.
    pub fn long_row(&self, name: &str, parts: u64, mut operation: impl FnMut() -> Claim) -> Claim {
        let rounds = (self.rounds / 8).max(1);
        self.batches(name, rounds * parts, || {
            for _ in 0..rounds {
                operation()?;
            }
            Ok(())
        })
    }

    /// As [`row`](Self::row) for something that goes round by itself: `batch` is told how often.
    pub fn loop_row(&self, name: &str, mut batch: impl FnMut(u64) -> Claim) -> Claim {
        let rounds = self.rounds;
        self.batches(name, rounds, || batch(rounds))
    }

    fn batches(&self, name: &str, operations: u64, mut batch: impl FnMut() -> Claim) -> Claim {
        if !self.wants(name) {
            return Ok(());
        }
        for _ in 0..WARM_UP.div_ceil(self.rounds) {
            batch()?;
        }
        let mut best = (u64::MAX, u64::MAX);
        for _ in 0..BATCHES {
            let (clock, start) = (time::now_ns(), rdtsc_ordered());
            batch()?;
            let cost = rdtsc_ordered() - start;
            best = best.min((cost, time::now_ns() - clock));
        }
        println!("BENCH {name} {operations} {} {}", best.0 / operations, best.1 / operations);
        Ok(())
    }
}
