//! One entry of `vif`: `mac=00:16:3e:01:02:03,bridge=xenbr0,ip=10.0.2.15,rate=10Mb/s`, each part optional.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::error::{Flaw, Position};
use crate::net::Mac;
use crate::netback::credit::Rate;

/// The switch that an interface hangs on unless it says otherwise.
pub const DEFAULT_BRIDGE: &str = "xenbr0";
/// The interval of a rate that names none, microseconds.
const DEFAULT_INTERVAL_US: u64 = 50_000;
/// Longest name of a switch, as network interfaces have it.
const MAX_BRIDGE_NAME: usize = 15;

/// A network interface of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VifConfig {
    /// Its address, if the user chose one.
    pub mac: Option<Mac>,
    /// The switch.
    pub bridge: String,
    /// The IPv4 addresses that it is held to; none means that it is not.
    pub addresses: Vec<[u8; 4]>,
    /// How much it may send.
    pub rate: Option<Rate>,
}

impl VifConfig {
    /// The address of interface `number` of a domain.
    #[must_use]
    pub fn address(&self, domain: &str, number: u32) -> Mac {
        self.mac.unwrap_or_else(|| Mac::for_interface(domain, number))
    }

    /// Reads an entry that stands in no file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_words(text: &str) -> Result<Self, String> {
        parse(text, Position { line: 1, column: 1 }).map_err(|flaw| flaw.message)
    }
}

/// Parses an entry whose text begins at `at` (the opening quote).
pub(crate) fn parse(text: &str, at: Position) -> Result<VifConfig, Flaw> {
    let mut parts = Parts::default();
    let mut offset = 1;
    for part in text.split(',') {
        let blanks = part.len() - part.trim_start().len();
        if !part.trim().is_empty() {
            parts.take(part.trim(), at.right(offset + blanks))?;
        }
        offset += part.chars().count() + 1;
    }
    Ok(VifConfig {
        mac: parts.mac,
        bridge: parts.bridge.unwrap_or_else(|| DEFAULT_BRIDGE.to_string()),
        addresses: parts.addresses.unwrap_or_default(),
        rate: parts.rate,
    })
}

/// What was found so far.
#[derive(Default)]
struct Parts {
    mac: Option<Mac>,
    bridge: Option<String>,
    addresses: Option<Vec<[u8; 4]>>,
    rate: Option<Rate>,
}

impl Parts {
    fn take(&mut self, part: &str, at: Position) -> Result<(), Flaw> {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Flaw::new(at, format!("expected key=value for an interface, found '{part}'")));
        };
        let (key, value, value_at) = (key.trim(), value.trim(), at.right(key.len() + 1));
        match key {
            "mac" => set(&mut self.mac, mac(value, value_at)?, key, at),
            "bridge" => set(&mut self.bridge, bridge(value, value_at)?, key, at),
            "ip" => set(&mut self.addresses, addresses(value, value_at)?, key, at),
            "rate" => set(&mut self.rate, rate(value, value_at)?, key, at),
            "type" if value == "vif" => Ok(()),
            other => Err(Flaw::new(at, format!("'{other}' is not supported for an interface"))),
        }
    }
}

fn set<T>(slot: &mut Option<T>, value: T, what: &str, at: Position) -> Result<(), Flaw> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Flaw::new(at, format!("an interface has only one {what}"))),
    }
}

fn mac(text: &str, at: Position) -> Result<Mac, Flaw> {
    let mac = Mac::parse(text).filter(|mac| mac.is_station());
    mac.ok_or_else(|| {
        Flaw::new(at, format!("'{text}' is no address of a station, such as 00:16:3e:01:02:03"))
    })
}

fn bridge(text: &str, at: Position) -> Result<String, Flaw> {
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good && (1..=MAX_BRIDGE_NAME).contains(&text.len()) {
        return Ok(text.to_string());
    }
    Err(Flaw::new(at, format!("a switch's name has 1 to {MAX_BRIDGE_NAME} letters, digits and -_.")))
}

fn addresses(text: &str, at: Position) -> Result<Vec<[u8; 4]>, Flaw> {
    let bad = || Flaw::new(at, format!("'{text}' is no list of IPv4 addresses"));
    let all: Vec<[u8; 4]> = text.split_whitespace().map(ipv4).collect::<Option<_>>().ok_or_else(bad)?;
    if all.is_empty() { Err(bad()) } else { Ok(all) }
}

/// Reads `10.0.2.15`.
#[must_use]
pub fn ipv4(text: &str) -> Option<[u8; 4]> {
    let mut bytes = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
        *byte = part.parse().ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// `10Mb/s` (bits), `250KB/s` (bytes), with an interval: `1GB/s@20ms`.
fn rate(text: &str, at: Position) -> Result<Rate, Flaw> {
    let (amount, interval) = match text.split_once('@') {
        Some((amount, interval)) => (amount, interval_us(interval)),
        None => (text, Some(DEFAULT_INTERVAL_US)),
    };
    let parsed = interval.zip(bytes_per_second(amount)).and_then(|(interval_us, bytes)| {
        let bytes = u64::try_from(u128::from(bytes) * u128::from(interval_us) / 1_000_000).ok()?;
        (bytes != 0 && interval_us != 0).then_some(Rate { bytes, interval_us })
    });
    parsed.ok_or_else(|| Flaw::new(at, format!("'{text}' is no rate, such as 10Mb/s or 250KB/s@20ms")))
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

fn bytes_per_second(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let unit = unit.strip_suffix("/s")?;
    let (scale, rest) = match unit.as_bytes().first()? {
        b'K' => (1000, unit.get(1..)?),
        b'M' => (1_000_000, unit.get(1..)?),
        b'G' => (1_000_000_000, unit.get(1..)?),
        _ => (1, unit),
    };
    let whole: u64 = number.checked_mul(scale)?;
    match rest {
        "B" => Some(whole),
        "b" => Some(whole / 8),
        _ => None,
    }
}

fn interval_us(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    match unit {
        "us" => Some(number),
        "ms" => number.checked_mul(1000),
        "s" => number.checked_mul(1_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { line: 3, column: 9 };

    fn flaw(text: &str) -> (u32, String) {
        let flaw = parse(text, AT).unwrap_err();
        (flaw.at.column, flaw.message)
    }

    #[test]
    fn every_part_is_optional() {
        let plain = parse("", AT).unwrap();
        assert_eq!((plain.mac, plain.bridge.as_str(), plain.rate), (None, "xenbr0", None));
        assert_eq!(plain.address("web", 1), Mac::for_interface("web", 1));
        let all =
            parse("mac=00:16:3e:01:02:03, bridge=inner,ip=10.0.2.15 10.0.2.16,rate=10Mb/s,type=vif", AT);
        let all = all.unwrap();
        assert_eq!(all.address("web", 0), Mac([0, 0x16, 0x3e, 1, 2, 3]));
        assert_eq!(
            (all.bridge.as_str(), all.addresses.as_slice()),
            ("inner", &[[10, 0, 2, 15], [10, 0, 2, 16]][..])
        );
        assert_eq!(all.rate, Some(Rate { bytes: 62_500, interval_us: 50_000 }));
    }

    #[test]
    fn rates() {
        let rate = |text: &str| super::rate(text, AT).ok();
        assert_eq!(rate("250KB/s@20ms"), Some(Rate { bytes: 5000, interval_us: 20_000 }));
        assert_eq!(rate("1GB/s@1s"), Some(Rate { bytes: 1_000_000_000, interval_us: 1_000_000 }));
        assert_eq!(rate("8000b/s"), Some(Rate { bytes: 50, interval_us: 50_000 }));
        for bad in [
            "",
            "10",
            "10Mb",
            "Mb/s",
            "10Tb/s",
            "10Mb/s@",
            "10Mb/s@5",
            "10Mb/s@0ms",
            "0b/s",
            "1b/s",
            "99999999999999999999b/s",
        ] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn flaws_point_at_the_part() {
        assert_eq!(flaw("bridge=a,mac=1").0, 9 + 1 + 9 + 4);
        assert_eq!(flaw("mac=ff:ff:ff:ff:ff:ff").0, 9 + 1 + 4);
        assert_eq!(flaw("script=x").1, "'script' is not supported for an interface");
        assert_eq!(flaw("bridge").1, "expected key=value for an interface, found 'bridge'");
        assert_eq!(flaw("mac=00:16:3e:01:02:03,mac=00:16:3e:01:02:03").1, "an interface has only one mac");
        assert_eq!(flaw("ip=10.0.2").1, "'10.0.2' is no list of IPv4 addresses");
        assert!(flaw("bridge=a/b").1.starts_with("a switch's name"));
        assert!(flaw("ip=::1").1.contains("IPv4"));
    }
}
