//! When a pcpu last forgot all its translations of guests, by a clock that all pcpus share.
//!
//! Each full flush advances the clock, then flushes, then notes the clock's value. What was stamped with a value below the
//! noted one was unmapped before that flush began, so no translation of it is left. A pcpu without a guest's root has no
//! translation of a guest; it notes a value later than every stamp, so that nobody interrupts it for a flush.

use core::sync::atomic::Ordering::SeqCst;

use crate::atomic::AtomicU64;

/// What a pcpu notes while no guest's root is loaded: later than every stamp.
const NO_GUEST: u64 = u64::MAX;

/// The clock that flushes advance: a word, which assembly may advance too.
#[derive(Debug)]
#[repr(transparent)]
pub struct FlushClock(AtomicU64);

impl FlushClock {
    /// At its start. It never shows 0, which stands for "never mapped".
    #[cfg(not(loom))]
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a static's initial value")]
    pub const fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    /// The same over atomics that are made at run time.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    /// The time: what a mapping that ends is stamped with.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Begins a flush. 64 bits do not wrap around.
    fn advance(&self) -> u64 {
        self.0.fetch_add(1, SeqCst) + 1
    }
}

/// A pcpu's note: a word. Only the pcpu itself writes it, by these functions or by assembly that does the same.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct FlushNote(AtomicU64);

impl FlushNote {
    /// Of a pcpu that has never flushed.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether what was stamped with `stamp` is forgotten.
    #[must_use]
    pub fn covers(&self, stamp: u64) -> bool {
        self.0.load(SeqCst) > stamp
    }

    /// Forgets all translations by `flush`, the root staying as it is.
    #[inline]
    pub fn flush(&self, clock: &FlushClock, flush: impl FnOnce()) {
        // Before the flush: what is stamped from here on is not covered by it.
        let now = clock.advance();
        let without_guest = self.0.load(SeqCst) == NO_GUEST;
        flush();
        if !without_guest {
            self.0.store(now, SeqCst);
        }
    }

    /// Loads a root of a guest by `load`, which forgets all translations.
    #[inline]
    pub fn load_guest_root(&self, clock: &FlushClock, load: impl FnOnce()) {
        let now = clock.advance();
        if self.0.load(SeqCst) == NO_GUEST {
            // From here on there may be translations; what was unmapped before is not in the tables any more.
            self.0.store(now, SeqCst);
        }
        load();
        // Not before: until the load, translations of the former root are left.
        self.0.store(now, SeqCst);
    }

    /// Loads a root without anything of a guest in it by `load`.
    #[inline]
    pub fn load_root_without_guest(&self, load: impl FnOnce()) {
        load();
        self.0.store(NO_GUEST, SeqCst);
    }
}
