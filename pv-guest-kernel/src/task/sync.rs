//! What tasks tell one another: a notification, a value once, a queue, a lock.
//!
//! [`Notify`] may also be used by event handlers and by other vcpus; the rest is for tasks.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};

use crate::sync::IrqLock;

/// A flag with one waiter: setting it wakes the task that waits, or lets the next wait return at once.
#[derive(Default)]
pub struct Notify {
    set: AtomicBool,
    /// Whether `waiter` may hold somebody, so that nobody takes the lock in vain.
    waiting: AtomicBool,
    waiter: IrqLock<Option<Waker>>,
}

impl Default for IrqLock<Option<Waker>> {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Notify {
    /// A flag that is not set.
    #[must_use]
    pub const fn new() -> Self {
        Self { set: AtomicBool::new(false), waiting: AtomicBool::new(false), waiter: IrqLock::new(None) }
    }

    /// Sets the flag. Safe in event handlers: does not allocate.
    #[inline]
    pub fn notify(&self) {
        // In `wait` the two accesses come in the other order: at least one side sees what the other did.
        self.set.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[inline(never)]
    fn wake(&self) {
        self.waiting.store(false, Ordering::Relaxed);
        let waiter = self.waiter.lock().take();
        if let Some(waker) = waiter {
            waker.wake();
        }
    }

    /// Takes the flag if it is set.
    #[inline]
    pub fn try_take(&self) -> bool {
        self.set.swap(false, Ordering::SeqCst)
    }

    /// Waits until the flag is set and takes it. One task at a time: a second waiter replaces the first.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.try_take() {
                return Poll::Ready(());
            }
            let old = self.waiter.lock().replace(cx.waker().clone());
            drop(old);
            self.waiting.store(true, Ordering::SeqCst);
            // The flag may have been set between the look and the registration.
            if self.try_take() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

struct OneShotState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
}

/// Sends one value. Dropping it unsent ends the wait without one.
pub struct OneShot<T>(Rc<RefCell<OneShotState<T>>>);

/// Receives one value.
pub struct OneShotReceiver<T>(Rc<RefCell<OneShotState<T>>>);

/// A pair through which one value goes from one task to another.
#[must_use]
pub fn oneshot<T>() -> (OneShot<T>, OneShotReceiver<T>) {
    let state = Rc::new(RefCell::new(OneShotState { value: None, waker: None, sender_gone: false }));
    (OneShot(Rc::clone(&state)), OneShotReceiver(state))
}

impl<T> OneShot<T> {
    /// Hands the value over.
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for OneShot<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.sender_gone = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> OneShotReceiver<T> {
    /// Waits for the value; `None` if the sender went away without one.
    pub async fn receive(self) -> Option<T> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if let Some(value) = state.value.take() {
                return Poll::Ready(Some(value));
            }
            if state.sender_gone {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// An unbounded queue of values between tasks. Cloning gives another handle to the same queue.
pub struct Channel<T>(Rc<ChannelState<T>>);

struct ChannelState<T> {
    queue: RefCell<VecDeque<T>>,
    waiters: RefCell<Vec<Waker>>,
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Channel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Channel<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(ChannelState { queue: RefCell::default(), waiters: RefCell::default() }))
    }

    /// Appends a value and wakes whoever waits.
    pub fn send(&self, value: T) {
        self.0.queue.borrow_mut().push_back(value);
        wake_all(&self.0.waiters);
    }

    /// The next value, if there is one.
    #[must_use]
    pub fn try_receive(&self) -> Option<T> {
        self.0.queue.borrow_mut().pop_front()
    }

    /// Waits for the next value.
    pub async fn receive(&self) -> T {
        poll_fn(|cx| match self.try_receive() {
            Some(value) => Poll::Ready(value),
            None => {
                self.0.waiters.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Whether no value waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn wake_all(waiters: &RefCell<Vec<Waker>>) {
    let all = core::mem::take(&mut *waiters.borrow_mut());
    for waker in all {
        waker.wake();
    }
}

/// A lock that tasks may hold while they wait for something else.
#[derive(Default)]
pub struct Mutex<T> {
    held: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
    value: RefCell<T>,
}

/// Access to what a [`Mutex`] holds.
pub struct MutexGuard<'a, T> {
    // Order matters: the value is given back before the next task is let in.
    value: RefMut<'a, T>,
    _release: Release<'a, T>,
}

/// Lets the next task in when it is dropped.
struct Release<'a, T>(&'a Mutex<T>);

impl<T> Drop for Release<'_, T> {
    fn drop(&mut self) {
        self.0.held.set(false);
        wake_all(&self.0.waiters);
    }
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { held: Cell::new(false), waiters: RefCell::new(Vec::new()), value: RefCell::new(value) }
    }

    /// Waits until the lock is free and takes it.
    pub async fn lock(&self) -> MutexGuard<'_, T> {
        poll_fn(|cx| {
            if self.held.replace(true) {
                self.waiters.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        MutexGuard { value: self.value.borrow_mut(), _release: Release(self) }
    }
}

impl<T> core::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> core::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
