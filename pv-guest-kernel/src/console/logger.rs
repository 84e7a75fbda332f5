//! The `log` crate on the console.

use log::{LevelFilter, Log, Metadata, Record};

struct ConsoleLogger;

impl Log for ConsoleLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let name = record.level().as_str();
            crate::println!("[{name}] {}: {}", record.target(), record.args());
        }
    }

    fn flush(&self) {
        super::flush();
    }
}

/// Installs the logger with the level of that name, "info" without one; `log::set_max_level` changes it later.
pub(super) fn init(level: Option<&str>) {
    if log::set_logger(&ConsoleLogger).is_ok() {
        log::set_max_level(level.and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::Info));
    }
}
