//! A multicall's list in memory that the guest can read while the batch is under way.

use crate::call;
use crate::{Claim, Trouble};
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::hypercall::Hypercall;
use pv_guest_kernel::memory::SharedPages;

/// Words of one entry: op, result, six arguments.
const WORDS: usize = 8;
const PAGE_BYTES: usize = 4096;

/// What results hold before the batch runs; no call answers this.
pub const UNTOUCHED: u64 = 0x5555_aaaa_5555_aaaa;

/// A list of calls.
#[derive(Debug)]
pub struct Entries {
    pages: SharedPages,
    count: usize,
}

impl Entries {
    /// Room for `most` calls.
    pub fn new(most: usize) -> Claim<Self> {
        let pages = SharedPages::new((most * WORDS * 8).div_ceil(PAGE_BYTES));
        Ok(Self { pages: pages.ok_or(Trouble::error("no memory for the list"))?, count: 0 })
    }

    fn word(&self, entry: usize, word: usize) -> &AtomicU64 {
        self.pages.area().view((entry * WORDS + word) * 8)
    }

    /// Appends a call by its number.
    pub fn push<const N: usize>(&mut self, number: u64, args: [u64; N]) {
        self.word(self.count, 0).store(number, Ordering::Relaxed);
        self.word(self.count, 1).store(UNTOUCHED, Ordering::Relaxed);
        for (slot, value) in args.into_iter().enumerate() {
            self.word(self.count, 2 + slot).store(value, Ordering::Relaxed);
        }
        self.count += 1;
    }

    /// Forgets the results of the last run.
    pub fn rewind(&self) {
        for entry in 0..self.count {
            self.word(entry, 1).store(UNTOUCHED, Ordering::Relaxed);
        }
    }

    /// How many calls there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The result of a call, as the hypervisor wrote it.
    #[must_use]
    pub fn result(&self, entry: usize) -> i64 {
        self.word(entry, 1).load(Ordering::Acquire).cast_signed()
    }

    /// How many calls have a result.
    #[must_use]
    pub fn finished(&self) -> usize {
        (0..self.count).filter(|entry| self.result(*entry).cast_unsigned() != UNTOUCHED).count()
    }

    /// Runs the batch.
    #[must_use]
    pub fn run(&self) -> i64 {
        call::call(Hypercall::Multicall, [self.pages.va(), self.count as u64])
    }
}
