//! State that belongs to vcpu 0 alone.

#![expect(unsafe_code, reason = "shares a value that only one vcpu can reach")]

/// A value that only code on vcpu 0 can reach, so it need not be `Sync`. Event handlers on vcpu 0 can reach it too:
/// the value must cope with that (a `RefCell` that a handler borrows must never be borrowed with events open).
pub struct BootLocal<T>(T);

// SAFETY: `get` checks that the caller runs on vcpu 0, so there is one thread of execution.
unsafe impl<T> Sync for BootLocal<T> {}

impl<T> BootLocal<T> {
    /// Wraps the value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value.
    ///
    /// # Panics
    /// On a vcpu other than 0.
    pub fn get(&self) -> &T {
        assert_eq!(crate::arch::percpu::vcpu_id(), 0, "this belongs to vcpu 0");
        &self.0
    }
}
