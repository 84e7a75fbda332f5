//! A lock that is safe against the kernel's own event handlers.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// A spin lock that masks events on this vcpu while it is held, so that an event handler can take it too.
///
/// Keep the time short: nothing that blocks, no user callbacks.
pub struct IrqLock<T: ?Sized> {
    inner: spin::mutex::SpinMutex<T, Backoff>,
}

/// How a vcpu waits for a lock: the holder may not be running, so it gives its time slice away now and then.
struct Backoff;

/// Turns around a lock between two hypercalls.
const SPINS: u32 = 256;
static TURNS: AtomicU32 = AtomicU32::new(0);

impl spin::RelaxStrategy for Backoff {
    fn relax() {
        core::hint::spin_loop();
        if TURNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(SPINS) {
            crate::sched::yield_now();
        }
    }
}

/// Access to what an [`IrqLock`] holds. Dropping it releases the lock, then restores the event mask.
pub struct IrqGuard<'a, T: ?Sized> {
    // Order matters: fields drop in order of declaration.
    inner: spin::mutex::SpinMutexGuard<'a, T, Backoff>,
    _masked: Masked,
}

/// Events are masked on this vcpu as long as this value lives (if they were not before).
///
/// Several may live at a time and end in any order: the vcpu counts them, and the last one opens events again.
pub struct Masked {
    _not_elsewhere: PhantomData<*const ()>,
}

impl Masked {
    /// Masks events.
    #[must_use]
    pub fn new() -> Self {
        let was_masked = crate::event::mask();
        crate::arch::percpu::enter_masked(was_masked);
        Self { _not_elsewhere: PhantomData }
    }
}

impl Default for Masked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        if crate::arch::percpu::leave_masked() {
            crate::event::unmask();
        }
    }
}

impl<T> IrqLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::mutex::SpinMutex::new(value) }
    }
}

impl<T: ?Sized> IrqLock<T> {
    /// Takes the lock, waiting if need be.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let masked = Masked::new();
        IrqGuard { inner: self.inner.lock(), _masked: masked }
    }

    /// Takes the lock where events are masked anyway and stay so: in an upcall. Does without the counting.
    pub(crate) fn lock_in_upcall(&self) -> impl DerefMut<Target = T> {
        self.inner.lock()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let masked = Masked::new();
        self.inner.try_lock().map(|inner| IrqGuard { inner, _masked: masked })
    }
}

impl<T: ?Sized> Deref for IrqGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
