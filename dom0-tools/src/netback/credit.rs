//! How much a guest may send in a time.
//!
//! A bucket that is filled up once in each interval. A packet larger than what is left waits for the next filling; one
//! larger than the bucket passes when the bucket is full, or it would wait for ever.

/// So much in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes of each interval.
    pub bytes: u64,
    /// The interval, microseconds.
    pub interval_us: u64,
}

impl Rate {
    /// As xenstore has it: `bytes,microseconds`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (bytes, interval) = text.trim().split_once(',')?;
        let rate = Self { bytes: bytes.trim().parse().ok()?, interval_us: interval.trim().parse().ok()? };
        (rate.bytes != 0 && rate.interval_us != 0).then_some(rate)
    }
}

/// What may still be sent.
#[derive(Debug)]
pub struct Credit {
    rate: Option<Rate>,
    left: u64,
    filled_ns: u64,
}

impl Credit {
    /// A full bucket; without a rate it is never empty.
    #[must_use]
    pub fn new(rate: Option<Rate>, now_ns: u64) -> Self {
        Self { rate, left: rate.map_or(0, |rate| rate.bytes), filled_ns: now_ns }
    }

    /// When the next packet may go: `None` is now.
    #[must_use]
    pub fn wait_until(&mut self, now_ns: u64) -> Option<u64> {
        let rate = self.rate?;
        let next = self.filled_ns.saturating_add(rate.interval_us.saturating_mul(1000));
        if now_ns >= next {
            (self.left, self.filled_ns) = (rate.bytes, now_ns);
        }
        (self.left == 0).then_some(next)
    }

    /// A packet went.
    pub fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_filled() {
        let mut credit = Credit::new(Rate::parse("1000,50"), 0);
        assert_eq!(credit.wait_until(0), None);
        credit.take(600);
        assert_eq!(credit.wait_until(1), None);
        credit.take(600);
        assert_eq!(credit.wait_until(2), Some(50_000));
        assert_eq!(credit.wait_until(49_999), Some(50_000));
        assert_eq!(credit.wait_until(50_000), None);
        credit.take(5000);
        assert_eq!(credit.wait_until(50_001), Some(100_000));
    }

    #[test]
    fn without_a_rate_all_goes() {
        let mut credit = Credit::new(None, 0);
        credit.take(u64::MAX);
        assert_eq!(credit.wait_until(0), None);
        for bad in ["", "1", "0,5", "5,0", "x,5", "-1,5"] {
            assert_eq!(Rate::parse(bad), None, "{bad}");
        }
    }
}
