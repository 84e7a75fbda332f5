//! How often something may be done: in a burst, and then as a budget refills with time. What exceeds it is counted.

use core::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU64;

/// What a budget allows.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How often at once.
    pub burst: u64,
    /// Nanoseconds until it may be done once more.
    pub refill_ns: u64,
}

/// A budget that all pcpus share.
#[derive(Debug, Default)]
pub struct Budget {
    /// When it would be full again, in the clock's nanoseconds.
    full_at: AtomicU64,
    /// How often it was refused and nobody was told.
    refused: AtomicU64,
}

impl Budget {
    /// A full one.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { full_at: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes one out at the time `now_ns`: tells how often it was refused since the last time it was granted, or nothing
    /// where it is refused now.
    pub fn take(&self, rate: Rate, now_ns: u64) -> Option<u64> {
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now_ns) + rate.refill_ns;
            (next - now_ns <= rate.burst * rate.refill_ns).then_some(next)
        });
        if taken.is_err() {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.refused.swap(0, Relaxed))
    }
}
