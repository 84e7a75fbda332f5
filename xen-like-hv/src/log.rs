//! The `log` crate's back end: levels, prefixes, and a limit on what guests can cause to be printed.
//!
//! Messages with the target `guest` are those a guest can trigger at will. They have a level of their own
//! (`guest_loglvl=`) and share a budget that refills with time; what exceeds it is counted and told later.

use crate::arch::time;
use crate::console;
use core::fmt::Write;
use core::sync::atomic::{AtomicU8, Ordering};
use hv_core::cmdline::{LogLevel, Options};
use hv_sync::{Budget, Rate};
use log::{Level, LevelFilter, Metadata, Record};

/// The target of messages that guests can trigger.
pub(crate) const GUEST: &str = "guest";

/// Messages that guests may cause.
const GUEST_RATE: Rate = Rate { burst: 300, refill_ns: 20_000_000 };

static OWN_LEVEL: AtomicU8 = AtomicU8::new(3);
static GUEST_LEVEL: AtomicU8 = AtomicU8::new(2);

struct Logger;

/// Installs the logger with its default levels.
pub(crate) fn init() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

/// Applies the command line.
pub(crate) fn configure(options: &Options) {
    OWN_LEVEL.store(number(options.loglvl), Ordering::Relaxed);
    GUEST_LEVEL.store(number(options.guest_loglvl), Ordering::Relaxed);
}

/// The `log` crate counts from 1, error, to 5, trace.
fn number(level: LogLevel) -> u8 {
    match level {
        LogLevel::None => 0,
        LogLevel::Error => 1,
        LogLevel::Warning => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
        LogLevel::All => 5,
    }
}

fn level_number(level: Level) -> u8 {
    match level {
        Level::Error => 1,
        Level::Warn => 2,
        Level::Info => 3,
        Level::Debug => 4,
        Level::Trace => 5,
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let limit = if metadata.target() == GUEST { &GUEST_LEVEL } else { &OWN_LEVEL };
        level_number(metadata.level()) <= limit.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || record.target() == GUEST && !within_budget() {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "hv: error: ",
            Level::Warn => "hv: warning: ",
            Level::Info | Level::Debug | Level::Trace => "hv: ",
        };
        let mut line = Line::default();
        // A line that is too long is cut; `write_str` never fails.
        let _ = write!(line, "{prefix}{}", record.args());
        line.finish();
    }

    fn flush(&self) {}
}

static GUEST_BUDGET: Budget = Budget::new();

/// Takes one message out of the guests' budget.
pub(crate) fn within_budget() -> bool {
    let Some(suppressed) = GUEST_BUDGET.take(GUEST_RATE, time::now_ns()) else { return false };
    if suppressed > 0 {
        let mut line = Line::default();
        let _ = write!(line, "hv: {suppressed} messages caused by guests were suppressed");
        line.finish();
    }
    true
}

/// One line, put together before the console's lock is taken.
pub(crate) struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { bytes: [0; 512], used: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.len() - self.used;
        let taken = text.len().min(room);
        self.bytes[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        Ok(())
    }
}

impl Line {
    /// Adds a byte, if there is room.
    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.used) {
            *place = byte;
            self.used += 1;
        }
    }

    /// Prints it.
    pub(crate) fn finish(&self) {
        console::write_parts(&[&self.bytes[..self.used], b"\n"]);
    }
}

/// Writes formatted text straight to the console, in pieces; for panics and dumps, where nothing may be cut.
pub(crate) struct Direct;

impl Write for Direct {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        console::write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Prints a line whatever the log level is.
macro_rules! print_line {
    ($($arg:tt)*) => {{
        use core::fmt::Write as _;
        // The console never fails.
        let _ = writeln!($crate::log::Direct, $($arg)*);
    }};
}
pub(crate) use print_line;
