//! State that belongs to vcpu 0 alone.

#![expect(unsafe_code, reason = "shares a value that only one vcpu can reach")]

use core::sync::atomic::{AtomicU32, Ordering};

/// A value that only code on vcpu 0 can reach, so it need not be `Sync`. Event handlers cannot: one could come between
/// any two instructions of whoever uses the value.
pub struct BootLocal<T>(T);

/// Event handlers that vcpu 0 is in. It alone writes this.
static HANDLING: AtomicU32 = AtomicU32::new(0);

/// Marks that this vcpu runs an event handler, as long as it lives.
pub(crate) struct Handling(());

impl Handling {
    pub(crate) fn begin() -> Self {
        count(1);
        Self(())
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        count(u32::MAX);
    }
}

fn count(change: u32) {
    if crate::arch::percpu::vcpu_id() == 0 {
        HANDLING.store(HANDLING.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }
}

// SAFETY: `get` checks that the caller runs on vcpu 0 and in no event handler, so there is one thread of execution.
unsafe impl<T> Sync for BootLocal<T> {}

impl<T> BootLocal<T> {
    /// Wraps the value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value.
    ///
    /// # Panics
    /// On a vcpu other than 0, and in an event handler.
    pub fn get(&self) -> &T {
        assert_eq!(crate::arch::percpu::vcpu_id(), 0, "this belongs to vcpu 0");
        assert_eq!(HANDLING.load(Ordering::Relaxed), 0, "this is not for event handlers");
        &self.0
    }
}
