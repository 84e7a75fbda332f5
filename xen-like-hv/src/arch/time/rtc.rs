//! The wall clock, from the battery-backed clock of the chipset, read once at boot.
#![expect(unsafe_code, reason = "names I/O ports")]

use super::{SECOND_NS, delay_us, now_ns};
use crate::arch::acpi;
use crate::arch::cpu::port::Port8;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::clock::RtcFields;

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

fn fields() -> RtcFields {
    let century = acpi::platform().fadt.map_or(0, |f| f.cmos_century);
    RtcFields {
        second: cmos(0),
        minute: cmos(2),
        hour: cmos(4),
        day: cmos(7),
        month: cmos(8),
        year: cmos(9),
        century: if century == 0 { 0 } else { cmos(century) },
    }
}

/// Reads until two readings in a row agree, so that no carry is caught in the middle.
fn stable_fields() -> RtcFields {
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
    let seconds = stable_fields().seconds_since_1970(cmos(0x0b));
    set_wall(seconds * SECOND_NS, now_ns());
    log::info!("wall clock: {seconds} seconds since 1970");
}
