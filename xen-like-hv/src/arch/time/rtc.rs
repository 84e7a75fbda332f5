//! The wall clock, from the battery-backed clock of the chipset, read once at boot.
#![expect(unsafe_code, reason = "names I/O ports")]

use super::{SECOND_NS, delay_us, now_ns};
use crate::arch::acpi;
use crate::arch::cpu::port::Port8;
use core::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds from 1970 to nanosecond 0 of the clock.
static WALL_START_NS: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since 1970-01-01 at nanosecond 0 of the clock: what `wc_sec` and `wc_nsec` are made of.
pub(crate) fn wall_start_ns() -> u64 {
    WALL_START_NS.load(Ordering::Relaxed)
}

/// Sets the wall clock: `wall_ns` since 1970 it was at `at_ns` of the clock.
pub(crate) fn set_wall(wall_ns: u64, at_ns: u64) {
    WALL_START_NS.store(wall_ns.saturating_sub(at_ns), Ordering::Relaxed);
}

fn cmos(register: u8) -> u8 {
    // SAFETY: the clock and its memory do not reach the machine's memory. Bit 7 of the index keeps NMIs enabled when 0.
    let (index, data) = unsafe { (Port8::new(0x70), Port8::new(0x71)) };
    index.write(register);
    data.read()
}

/// Second, minute, hour, day, month, year of the century, century.
fn fields() -> [u8; 7] {
    let century = acpi::platform().fadt.map_or(0, |f| f.cmos_century);
    let century = if century == 0 { 0 } else { cmos(century) };
    [cmos(0), cmos(2), cmos(4), cmos(7), cmos(8), cmos(9), century]
}

/// Reads until two readings in a row agree, so that no carry is caught in the middle.
fn stable_fields() -> [u8; 7] {
    let mut last = fields();
    for _ in 0..100 {
        // Status A, bit 7: an update is under way.
        if cmos(0x0a) & 0x80 != 0 {
            delay_us(250);
            continue;
        }
        let now = fields();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Reads the clock.
pub(crate) fn init() {
    let raw = stable_fields();
    let status = cmos(0x0b);
    let seconds = seconds_since_1970(raw, status & 0x04 != 0, status & 0x02 != 0);
    set_wall(seconds * SECOND_NS, now_ns());
    log::info!("wall clock: {seconds} seconds since 1970");
}

/// What the fields mean, given whether they are binary (not decimal) and count 24 hours.
fn seconds_since_1970(raw: [u8; 7], binary: bool, hours_24: bool) -> u64 {
    let number = |byte: u8| u64::from(if binary { byte } else { (byte >> 4) * 10 + (byte & 0xf) });
    let afternoon = !hours_24 && raw[2] & 0x80 != 0;
    let mut hour = number(raw[2] & 0x7f);
    if !hours_24 {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    let century = match number(raw[6]) {
        c @ 19..=29 => c,
        _ => 20,
    };
    let days = days_since_1970(century * 100 + number(raw[5]), number(raw[4]), number(raw[3]));
    ((days * 24 + hour) * 60 + number(raw[1])) * 60 + number(raw[0])
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. The year is taken to begin in March, so that the leap day
/// is its last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.max(1) - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    days.saturating_sub(719_468)
}
