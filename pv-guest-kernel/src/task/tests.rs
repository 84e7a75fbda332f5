//! Futures polled by hand: the host has no hypervisor to block in.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};

use super::{Channel, Either, Mutex, Notify, join, join_all, oneshot, select, yield_now};

/// Counts how often it was woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn counter() -> (Arc<Counter>, Waker) {
    let counter = Arc::new(Counter::default());
    (Arc::clone(&counter), Waker::from(counter))
}

/// Polls until the future is ready; only for futures that wake themselves.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

#[test]
fn a_notification_before_the_wait_is_not_lost() {
    let notify = Notify::new();
    notify.notify();
    notify.notify();
    let (_, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    assert!(pin!(notify.wait()).poll(&mut cx).is_ready());
    // Two count as one.
    assert!(pin!(notify.wait()).poll(&mut cx).is_pending());
}

#[test]
fn a_notification_wakes_whoever_waits_once() {
    let notify = Notify::new();
    let (woken, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    let mut wait = pin!(notify.wait());
    assert!(wait.as_mut().poll(&mut cx).is_pending());
    notify.notify();
    notify.notify();
    assert_eq!(woken.count(), 1);
    assert!(wait.poll(&mut cx).is_ready());
}

#[test]
fn a_oneshot_ends_when_its_sender_goes() {
    let (sender, receiver) = oneshot::<u32>();
    let (woken, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    let mut receive = pin!(receiver.receive());
    assert!(receive.as_mut().poll(&mut cx).is_pending());
    drop(sender);
    assert_eq!(woken.count(), 1);
    assert_eq!(receive.poll(&mut cx), Poll::Ready(None));
    let (sender, receiver) = oneshot();
    sender.send(5);
    assert_eq!(run(receiver.receive()), Some(5));
}

#[test]
fn a_channel_keeps_the_order() {
    let channel = Channel::new();
    let (woken, waker) = counter();
    let mut receive = pin!(channel.receive());
    assert!(receive.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    channel.send(1);
    channel.send(2);
    assert_eq!(woken.count(), 1);
    assert_eq!(run(receive), 1);
    assert_eq!(run(channel.receive()), 2);
    assert!(channel.is_empty());
}

#[test]
fn a_mutex_lets_one_in_at_a_time() {
    let mutex = Mutex::new(Vec::new());
    let first = run(mutex.lock());
    let (woken, waker) = counter();
    let mut second = pin!(mutex.lock());
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(first);
    assert_eq!(woken.count(), 1);
    run(second).push(1);
    assert_eq!(*run(mutex.lock()), [1]);
}

#[test]
fn combinators_wait_for_one_or_for_all() {
    let slow = async {
        yield_now().await;
        yield_now().await;
        "slow"
    };
    assert!(matches!(run(select(slow, async { "fast" })), Either::Right("fast")));
    assert_eq!(run(join(async { 1 }, async { 2 })), (1, 2));
    let each = (0..5).map(|number| async move {
        for _ in 0..5 - number {
            yield_now().await;
        }
        number
    });
    assert_eq!(run(join_all(each)), [0, 1, 2, 3, 4]);
}
