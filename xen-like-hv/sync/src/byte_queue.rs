//! A queue of bytes with one writer at a time; the readers keep one another apart.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::atomic::{AtomicBool, AtomicU8, AtomicUsize};

/// A queue of up to `N` bytes. Positions count without wrapping at `N`.
#[derive(Debug)]
pub struct ByteQueue<const N: usize> {
    bytes: [AtomicU8; N],
    /// Where the writer goes on.
    head: AtomicUsize,
    /// Where the reader goes on.
    tail: AtomicUsize,
    /// Whether somebody reads.
    reading: AtomicBool,
}

impl<const N: usize> ByteQueue<N> {
    /// An empty queue.
    #[cfg(not(loom))]
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a static's initial value")]
    pub const fn new() -> Self {
        Self {
            bytes: [const { AtomicU8::new(0) }; N],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            reading: AtomicBool::new(false),
        }
    }

    /// The same over atomics that are made at run time.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            bytes: core::array::from_fn(|_| AtomicU8::new(0)),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            reading: AtomicBool::new(false),
        }
    }

    /// Adds a byte; a full queue loses it, which `false` tells. One writer at a time.
    pub fn push(&self, byte: u8) -> bool {
        let head = self.head.load(Relaxed);
        let has_room = head.wrapping_sub(self.tail.load(Acquire)) < N;
        if has_room {
            self.bytes[head % N].store(byte, Relaxed);
            self.head.store(head.wrapping_add(1), Release);
        }
        has_room
    }

    /// Takes the oldest byte; none where the queue is empty, or somebody else reads at this moment.
    pub fn pop(&self) -> Option<u8> {
        if self.reading.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            return None;
        }
        let byte = self.take();
        self.reading.store(false, Release);
        byte
    }

    fn take(&self) -> Option<u8> {
        let tail = self.tail.load(Relaxed);
        (tail != self.head.load(Acquire)).then(|| {
            let byte = self.bytes[tail % N].load(Relaxed);
            // Release: the byte was read before its place is given back.
            self.tail.store(tail.wrapping_add(1), Release);
            byte
        })
    }
}
