//! Connections to a disk that are over while the disk still has requests of theirs.
//!
//! What they asked for reaches the disk some time, and the disk may be another guest's by then. So a new connection begins
//! only when nothing of the earlier ones is on its way.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;

use crate::waiters::Waiters;

/// The connections of one disk that are on their way out.
#[derive(Debug, Default)]
pub struct Leaving {
    count: Cell<usize>,
    waiting: Waiters,
}

impl Leaving {
    /// A connection is over.
    pub fn begin(&self) {
        self.count.set(self.count.get() + 1);
        // It may be one of those that wait.
        self.waiting.wake();
    }

    /// Nothing of a connection that was over is on its way any more.
    pub fn end(&self) {
        self.count.set(self.count.get().saturating_sub(1));
        self.waiting.wake();
    }

    /// Ends when there are none, or when the connection that waits is over itself.
    pub async fn none_is_left(&self, is_over: impl Fn() -> bool) {
        poll_fn(|cx| {
            if self.count.get() == 0 || is_over() {
                return Poll::Ready(());
            }
            self.waiting.add(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use core::pin::pin;
    use core::sync::atomic::AtomicUsize;
    use core::sync::atomic::Ordering::Relaxed;
    use core::task::{Context, Waker};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_connection_begins_when_all_that_went_before_are_gone() {
        let (leaving, woken) = (Leaving::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(pin!(leaving.none_is_left(|| false)).poll(&mut cx).is_ready());
        leaving.begin();
        leaving.begin();
        let mut waits = pin!(leaving.none_is_left(|| false));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        leaving.end();
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(waits.as_mut().poll(&mut cx).is_pending(), "one is left");
        leaving.end();
        assert_eq!(woken.0.load(Relaxed), 2);
        assert!(waits.poll(&mut cx).is_ready());
    }

    #[test]
    fn one_that_is_over_itself_waits_for_nobody() {
        let (leaving, woken) = (Leaving::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let over = Cell::new(false);
        leaving.begin();
        let mut waits = pin!(leaving.none_is_left(|| over.get()));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        over.set(true);
        leaving.begin();
        assert_eq!(woken.0.load(Relaxed), 1, "it is told");
        assert!(waits.poll(&mut cx).is_ready());
    }
}
