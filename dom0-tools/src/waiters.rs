//! A list of waiting tasks.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

/// Wakers of everybody who waits for one thing. All are woken: one of them may belong to a future that is gone.
#[derive(Debug, Default)]
pub struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// Remembers a task.
    pub fn add(&self, waker: &Waker) {
        let mut list = self.0.borrow_mut();
        if !list.iter().any(|known| known.will_wake(waker)) {
            list.push(waker.clone());
        }
    }

    /// Wakes everybody.
    pub fn wake(&self) {
        let list = core::mem::take(&mut *self.0.borrow_mut());
        list.into_iter().for_each(Waker::wake);
    }
}
