//! The console: one serial port, a ring that keeps what was written, a queue of what was typed.
//!
//! The ring is what `sysctl_readconsole` hands out. Whole messages go out under one lock, so lines of several pcpus
//! never mix. Input arrives by interrupt and is fetched by whoever owns the console (dom0, or the debug keys).

use crate::arch::uart::Uart;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use hv_core::cmdline::{ConsoleChoice, Options};
use hv_sync::{ByteQueue, SpinLock, rank};
use pv_abi::ids::DomId;

/// Bytes the ring keeps.
pub(crate) const RING_BYTES: usize = 128 << 10;

/// Everything the output lock protects.
struct Output {
    uart: Option<Uart>,
    /// Bytes ever written; the ring keeps the last of them.
    written: u64,
    /// What `clear` hid.
    cleared: u64,
}

static OUTPUT: SpinLock<Output> = SpinLock::new(rank::CONSOLE, Output { uart: None, written: 0, cleared: 0 });

/// The ring's bytes; atomics only so that they need no initial value in the file. Used under the output lock.
static RING: [AtomicU8; RING_BYTES] = [const { AtomicU8::new(0) }; RING_BYTES];

/// The place of a byte's number in the ring.
fn ring_place(number: u64) -> &'static AtomicU8 {
    &RING[usize::try_from(number % RING_BYTES as u64).unwrap_or(0)]
}

/// Finds the serial port with its default settings, so that messages before the command line is known are seen.
pub(crate) fn init_early() {
    let uart = Uart::com1();
    if uart.is_there() {
        uart.configure(&Options::default().com1);
        OUTPUT.lock().uart = Some(uart);
    }
}

/// Applies the command line.
pub(crate) fn configure(options: &Options) {
    let mut output = OUTPUT.lock();
    if let Some(uart) = &output.uart {
        uart.configure(&options.com1);
    }
    if options.console == ConsoleChoice::None {
        output.uart = None;
    }
}

/// Writes bytes to the port and the ring.
pub(crate) fn write_bytes(bytes: &[u8]) {
    write_parts(&[bytes]);
}

/// Writes several pieces as one message. After a panic the lock is not waited for.
pub(crate) fn write_parts(parts: &[&[u8]]) {
    if PANICKED.load(Ordering::Acquire) {
        write_in_panic(parts);
        return;
    }
    let mut output = OUTPUT.lock();
    parts.iter().for_each(|part| output.put(part));
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            ring_place(self.written).store(byte, Ordering::Relaxed);
            self.written += 1;
        }
        if let Some(uart) = &self.uart {
            uart.send(bytes);
        }
    }
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// From now on writing does not wait for the lock: its holder may be the one that panicked.
pub(crate) fn enter_panic() {
    PANICKED.store(true, Ordering::Release);
}

fn write_in_panic(parts: &[&[u8]]) {
    for _ in 0..1_000_000 {
        if let Some(mut output) = OUTPUT.try_lock() {
            parts.iter().for_each(|part| output.put(part));
            return;
        }
        core::hint::spin_loop();
    }
    let uart = Uart::com1();
    parts.iter().for_each(|part| uart.send(part));
}

/// Copies what the ring keeps from byte number `from` on; returns the number of bytes copied and the number to go on
/// from. A `from` that was overwritten or cleared starts at the oldest byte there is.
pub(crate) fn read_ring(from: u64, into: &mut [u8]) -> (usize, u64) {
    let output = OUTPUT.lock();
    let oldest = output.written.saturating_sub(RING_BYTES as u64).max(output.cleared);
    let mut next = from.clamp(oldest, output.written);
    let mut count = 0;
    for place in into.iter_mut() {
        if next == output.written {
            break;
        }
        *place = ring_place(next).load(Ordering::Relaxed);
        next += 1;
        count += 1;
    }
    (count, next)
}

/// Hides what is in the ring from readers that start at the oldest byte.
pub(crate) fn clear_ring() {
    let mut output = OUTPUT.lock();
    output.cleared = output.written;
}

/// Writes where that needs no waiting; for non-maskable interrupts.
pub(crate) fn try_write(bytes: &[u8]) {
    if let Some(mut output) = OUTPUT.try_lock() {
        output.put(bytes);
    }
}

/// Bytes of a guest's line that are printed as one.
const GUEST_LINE: usize = 400;

/// Writes a guest's output. That of dom0 is passed on as it is; every line of another domain is marked with its number,
/// and what comes faster than the limiter lets through is dropped. Of other domains only what can be printed is: control
/// characters could make the reader's terminal do or show anything.
pub(crate) fn guest_write(dom: DomId, bytes: &[u8]) {
    if dom == DomId::DOM0 {
        write_bytes(bytes);
        return;
    }
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    for part in lines.flat_map(|line| line.chunks(GUEST_LINE)) {
        if crate::log::within_budget() {
            let mut line = crate::log::Line::default();
            // Mark and part fit into a line.
            let _ = write!(line, "(d{}) ", dom.raw());
            part.iter().filter(|&&b| is_plain(b)).for_each(|&b| line.push(b));
            line.finish();
        }
    }
}

/// Whether a byte shows as one character and does nothing else.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// What the interrupt handler received. Read by the debug keys.
static RECEIVED: ByteQueue<1024> = ByteQueue::new();
/// What is dom0's. Written by the debug keys, read by hypercalls of any of its vcpus.
static FOR_DOM0: ByteQueue<4096> = ByteQueue::new();

/// Has input announced by interrupt.
pub(crate) fn enable_input() {
    if let Some(uart) = &OUTPUT.lock().uart {
        uart.enable_receive_interrupt();
    }
}

/// Moves what the port received into the queue. Called by the interrupt handler alone, which runs on one pcpu.
pub(crate) fn receive() {
    let uart = Uart::com1();
    while let Some(byte) = uart.receive() {
        // What does not fit is lost.
        let _ = RECEIVED.push(byte);
    }
}

/// The next byte received, for the debug keys; they alone call this, on the pcpu that takes the port's interrupt.
pub(crate) fn next_received() -> Option<u8> {
    RECEIVED.pop()
}

/// Hands a byte to dom0; see [`next_received`] for who calls.
pub(crate) fn give_to_dom0(byte: u8) {
    // What does not fit is lost, as on any serial line.
    let _ = FOR_DOM0.push(byte);
}

/// The next byte for dom0.
pub(crate) fn read_byte() -> Option<u8> {
    FOR_DOM0.pop()
}
