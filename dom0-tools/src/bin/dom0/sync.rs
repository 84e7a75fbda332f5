//! What tasks share beyond the SDK's primitives: a bounded byte pipe, and a bounded amount of something.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

use dom0_tools::waiters::Waiters;

/// So much of something, of which tasks take shares for a time.
pub(crate) struct Budget {
    left: Cell<usize>,
    waiters: Waiters,
}

/// A part of a [`Budget`]; goes back when dropped.
pub(crate) struct Share {
    budget: Rc<Budget>,
    amount: usize,
}

impl Budget {
    /// All of it.
    pub(crate) fn new(amount: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(amount), waiters: Waiters::new() })
    }

    /// Takes a share, at most all that there is, as soon as so much is left.
    pub(crate) async fn take(self: &Rc<Self>, amount: usize) -> Share {
        poll_fn(|cx| match self.left.get().checked_sub(amount) {
            Some(left) => {
                self.left.set(left);
                Poll::Ready(Share { budget: self.clone(), amount })
            }
            None => {
                self.waiters.add(cx.waker());
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.amount);
        self.budget.waiters.wake();
    }
}

/// Bytes on their way from one task to another. What does not fit pushes out what is oldest, so that a writer
/// never waits for a reader that went away.
pub(crate) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    limit: usize,
    waiters: Waiters,
}

impl Pipe {
    /// An empty pipe that keeps up to `limit` bytes.
    pub(crate) const fn new(limit: usize) -> Self {
        Self { bytes: RefCell::new(VecDeque::new()), limit, waiters: Waiters::new() }
    }

    /// Adds bytes.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut queue = self.bytes.borrow_mut();
        queue.extend(bytes);
        let excess = queue.len().saturating_sub(self.limit);
        queue.drain(..excess);
        drop(queue);
        self.waiters.wake();
    }

    /// Waits for bytes; never gives an empty vector.
    pub(crate) async fn read(&self) -> Vec<u8> {
        poll_fn(|cx| {
            let mut queue = self.bytes.borrow_mut();
            if queue.is_empty() {
                self.waiters.add(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(queue.drain(..).collect())
        })
        .await
    }
}
