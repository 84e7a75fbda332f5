//! The console: `println!`, the `log` crate, and what is typed.
//!
//! dom0 uses the hypervisor's console by hypercall; other domains use the ring page named in start_info, which dom0's
//! console service empties. If that service does not keep up, output waits for a moment and is then dropped, so that a
//! guest never stops because nobody reads its console.

mod input;
mod logger;
mod ring;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

pub use input::Input;

use crate::hypercall;
use crate::sync::IrqLock;
use ring::Ring;

/// Where output goes.
#[derive(Clone, Copy)]
enum Backend {
    /// The hypervisor's console. Before [`init`] too: the hypervisor ignores what it does not want.
    Hypervisor,
    /// The ring page of a domU.
    Ring(Ring),
}

/// Keeps lines of different vcpus apart, and output in order.
static BACKEND: IrqLock<Backend> = IrqLock::new(Backend::Hypervisor);
static PANICKING: AtomicBool = AtomicBool::new(false);

/// Chooses the back end and installs the logger.
pub(crate) fn init(context: &crate::Context) {
    if let Some(ring) = Ring::find(context) {
        *BACKEND.lock() = Backend::Ring(ring);
    }
    logger::init(context.option("log"));
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    if !PANICKING.load(Ordering::Relaxed) {
        let backend = BACKEND.lock();
        write_to(*backend, bytes);
        return;
    }
    // The lock may be held by what was interrupted.
    let locked = BACKEND.try_lock().map(|backend| *backend);
    write_to(locked.unwrap_or(Backend::Hypervisor), bytes);
}

fn write_to(backend: Backend, bytes: &[u8]) {
    match backend {
        Backend::Hypervisor => {
            let _ = hypercall::console_write(bytes);
        }
        Backend::Ring(ring) => ring.write(bytes),
    }
}

/// Waits until the output has been taken, for a bounded time.
pub fn flush() {
    let backend = BACKEND.try_lock().map(|backend| *backend);
    if let Some(Backend::Ring(ring)) = backend {
        ring.flush();
    }
}

/// From now on output does not wait for locks.
pub(crate) fn enter_panic() {
    PANICKING.store(true, Ordering::Relaxed);
}

/// One formatted message, collected so that it reaches the console in one piece.
struct Line {
    bytes: [u8; 256],
    used: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if self.used == self.bytes.len() {
                self.send();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
    }

    fn send(&mut self) {
        write(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>, end: &str) {
    let mut line = Line { bytes: [0; 256], used: 0 };
    let _ = fmt::write(&mut line, arguments);
    line.push(end.as_bytes());
    line.send();
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!($($arg)*), "") };
}

/// Prints to the console, with a line end.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(::core::format_args!(""), "\n") };
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!($($arg)*), "\n") };
}
