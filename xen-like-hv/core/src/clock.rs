//! Arithmetic of time: counter ticks to nanoseconds and back, and the fields of the chipset's clock to a date.

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// How ticks become nanoseconds, in pvclock's form: `((ticks << shift) * mul) >> 32`, a negative shift being one to the
/// right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickScale {
    /// Multiplier, a binary fraction of 32 bits.
    pub mul: u32,
    /// Shift before the multiplication.
    pub shift: i8,
}

impl TickScale {
    /// The scale of a counter with `hz` ticks in a second: the shift that leaves the multiplier its highest bit, so that
    /// it is as exact as 32 bits can be.
    #[must_use]
    pub fn from_hz(hz: u64) -> Self {
        let hz = u128::from(hz.max(1));
        let second = u128::from(SECOND_NS);
        let mut shift = 0_i8;
        let mut ratio = (second << 32) / hz;
        while ratio > u128::from(u32::MAX) {
            ratio >>= 1;
            shift += 1;
        }
        while ratio < 1 << 31 && shift > -31 {
            shift -= 1;
            ratio = (second << (32 + u32::from(shift.unsigned_abs()))) / hz;
        }
        Self { mul: u32::try_from(ratio).unwrap_or(u32::MAX), shift }
    }

    /// Nanoseconds of a number of ticks, rounded down.
    #[must_use]
    pub fn to_ns(self, ticks: u64) -> u64 {
        self.shifts().to_ns(ticks)
    }

    /// The same scale for who converts often.
    #[must_use]
    pub fn shifts(self) -> Shifts {
        let by = self.shift.unsigned_abs();
        // To the left it goes with the one to the right that comes afterwards: nothing is lost between them.
        let (before, after) = if self.shift >= 0 { (0, 32_u8.saturating_sub(by)) } else { (by, 32) };
        Shifts { mul: self.mul, before, after }
    }

    /// The least number of ticks whose nanoseconds are at least `ns`: the exact inverse, so that an alarm set with it is
    /// not early by the difference of two roundings.
    #[must_use]
    pub fn to_ticks(self, ns: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        // ns << 32 over the multiplier, rounded up, in two divisions of machine words.
        let mul = u64::from(self.mul.max(1));
        let (whole, rest) = (ns / mul, (ns % mul) << 32);
        let part = rest / mul + u64::from(!rest.is_multiple_of(mul));
        let shifted = (u128::from(whole) << 32) + u128::from(part);
        let ticks = if self.shift >= 0 { (shifted + ((1 << by) - 1)) >> by } else { shifted << by };
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// A [`TickScale`] as two shifts to the right, before and after the multiplication: its sign has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shifts {
    /// Multiplier.
    pub mul: u32,
    /// Shift before it, below 64.
    pub before: u8,
    /// Shift after it, below 64.
    pub after: u8,
}

impl Shifts {
    /// Nanoseconds of a number of ticks, rounded down.
    #[must_use]
    #[inline]
    pub fn to_ns(self, ticks: u64) -> u64 {
        let product = u128::from(ticks >> (self.before & 63)) * u128::from(self.mul);
        u64::try_from(product >> (self.after & 63)).unwrap_or(u64::MAX)
    }
}

/// The fields of the chipset's clock as they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcFields {
    /// Seconds.
    pub second: u8,
    /// Minutes.
    pub minute: u8,
    /// Hours, with bit 7 for the afternoon where twelve are counted.
    pub hour: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Month, from 1.
    pub month: u8,
    /// Year of the century.
    pub year: u8,
    /// Century, or 0 where there is no such field.
    pub century: u8,
}

/// Status register B: fields are binary, not decimal.
const BINARY: u8 = 1 << 2;
/// Status register B: hours count to 24.
const HOURS_24: u8 = 1 << 1;

impl RtcFields {
    /// Seconds since 1970, with status register B saying how the fields are written. Without a century it is the 21st.
    #[must_use]
    pub fn seconds_since_1970(&self, status_b: u8) -> u64 {
        let number =
            |byte: u8| u64::from(if status_b & BINARY != 0 { byte } else { (byte >> 4) * 10 + (byte & 0xf) });
        let mut hour = number(self.hour & 0x7f);
        if status_b & HOURS_24 == 0 {
            hour = hour % 12 + if self.hour & 0x80 != 0 { 12 } else { 0 };
        }
        let century = match number(self.century) {
            c @ 19..=29 => c,
            _ => 20,
        };
        let year = century * 100 + number(self.year);
        let days = days_since_1970(year, number(self.month), number(self.day));
        ((days * 24 + hour) * 60 + number(self.minute)) * 60 + number(self.second)
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. The year is taken to begin in March, so that the leap day is
/// its last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.max(1) - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    days.saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_counter_of_one_gigahertz_counts_nanoseconds() {
        let scale = TickScale::from_hz(SECOND_NS);
        assert_eq!(scale, TickScale { mul: 1 << 31, shift: 1 });
        assert_eq!(scale.to_ns(123_456_789_012), 123_456_789_012);
    }

    #[test]
    fn usual_frequencies_are_scaled_to_a_billionth() {
        for hz in [3_579_545, 14_318_180, 800_000_000, 2_300_000_000, 5_700_000_000] {
            let scale = TickScale::from_hz(hz);
            let day = 86_400;
            let error = scale.to_ns(hz * day).abs_diff(day * SECOND_NS);
            assert!(error < day, "{hz} Hz: {error} ns in a day");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |century, year, month, day| {
            let fields = RtcFields { day, month, year, century, ..RtcFields::default() };
            fields.seconds_since_1970(HOURS_24) / 86_400
        };
        assert_eq!(at(0x19, 0x70, 1, 1), 0);
        assert_eq!(at(0x20, 0, 2, 0x29), 11_016);
        assert_eq!(at(0x20, 0, 3, 1), 11_017);
        assert_eq!(at(0, 0x24, 0x12, 0x31), 20_088);
        assert_eq!(at(0x20, 0x26, 0x11, 0x20), 20_777);
    }

    #[test]
    fn hours_are_read_in_each_of_the_four_ways() {
        let hour = |hour, status| {
            let fields = RtcFields { hour, day: 1, month: 1, year: 70, century: 19, ..RtcFields::default() };
            let decimal = RtcFields { year: 0x70, century: 0x19, ..fields };
            (if status & BINARY != 0 { fields } else { decimal }).seconds_since_1970(status) / 3600
        };
        assert_eq!(hour(0x23, HOURS_24), 23);
        assert_eq!(hour(23, HOURS_24 | BINARY), 23);
        assert_eq!((hour(0x12, 0), hour(0x92, 0), hour(0x91, 0)), (0, 12, 23));
        assert_eq!((hour(12, BINARY), hour(0x80 | 11, BINARY)), (0, 23));
    }

    proptest! {
        #[test]
        fn an_alarm_is_the_first_tick_that_is_not_early(
            hz in 1_000_000_u64..6_000_000_000, ns in 0_u64..(1 << 60)
        ) {
            let scale = TickScale::from_hz(hz);
            let ticks = scale.to_ticks(ns);
            prop_assert!(scale.to_ns(ticks) >= ns);
            prop_assert!(ticks == 0 || scale.to_ns(ticks - 1) < ns || scale.shift < 0);
        }

        #[test]
        fn more_ticks_are_never_less_time(hz in 1_000_000_u64..6_000_000_000, ticks in any::<u64>(), more in 0_u64..1000) {
            let scale = TickScale::from_hz(hz);
            prop_assert!(scale.to_ns(ticks.saturating_add(more)) >= scale.to_ns(ticks));
        }

        #[test]
        fn no_fields_make_the_clock_fall_over(fields in any::<[u8; 7]>(), status in any::<u8>()) {
            let [second, minute, hour, day, month, year, century] = fields;
            let fields = RtcFields { second, minute, hour, day, month, year, century };
            prop_assert!(fields.seconds_since_1970(status) < 1 << 40);
        }
    }
}
