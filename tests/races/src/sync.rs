//! Files of hv-sync, over loom's atomics, and its lock as loom knows one.

use core::fmt;
use core::ops::{Deref, DerefMut};

#[path = "../../../xen-like-hv/sync/src/budget.rs"]
pub(crate) mod budget;
#[path = "../../../xen-like-hv/sync/src/byte_queue.rs"]
pub(crate) mod byte_queue;
#[path = "../../../xen-like-hv/sync/src/flush_note.rs"]
pub(crate) mod flush_note;
#[path = "../../../xen-like-hv/sync/src/rank.rs"]
pub mod rank;
#[path = "../../../xen-like-hv/sync/src/tickets.rs"]
pub(crate) mod tickets;

/// A lock. Its rank is checked by hv-sync's own tests and in debug builds; a deadlock fails an exploration anyway.
pub struct SpinLock<T>(loom::sync::Mutex<T>);

/// A held lock.
pub struct Guard<'a, T>(loom::sync::MutexGuard<'a, T>);

impl<T> SpinLock<T> {
    /// A free lock.
    pub fn new(_: rank::Rank, value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Takes it.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard(self.0.lock().unwrap())
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpinLock")
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Takes two locks of one rank.
pub fn lock_pair<'a, A, B>(first: &'a SpinLock<A>, second: &'a SpinLock<B>) -> (Guard<'a, A>, Guard<'a, B>) {
    let a = first.lock();
    (a, second.lock())
}
