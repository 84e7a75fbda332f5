//! Ethernet addresses.

use core::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The first three bytes of addresses that Xen's owners set aside for virtual interfaces.
const XEN_PREFIX: [u8; 3] = [0x00, 0x16, 0x3e];

impl Mac {
    /// Reads `00:16:3e:01:02:03`, two hex digits each.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// The address of a domain's interface that has none in its configuration. It follows from the domain's name and the
    /// interface's number, so that it stays when the domain is made again.
    #[must_use]
    pub fn for_interface(domain: &str, number: u32) -> Self {
        // FNV-1a, of which three bytes are taken.
        let start = 0xcbf2_9ce4_8422_2325_u64;
        let bytes = domain.bytes().chain([0]).chain(number.to_le_bytes());
        let hash = bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let [a, b, c, d, e, f, ..] = hash.to_le_bytes();
        let [x, y, z] = XEN_PREFIX;
        Self([x, y, z, a ^ d, b ^ e, c ^ f])
    }

    /// Several stations, or all.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// A single station, and not nobody.
    #[must_use]
    pub const fn is_station(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        !self.is_group() && (a | b | c | d | e | f) != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;
    use alloc::string::ToString;

    #[test]
    fn addresses_are_read_and_shown() {
        let mac = Mac::parse("00:16:3E:0a:00:ff").unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:0a:00:ff");
        for bad in ["", "00:16:3e:0a:00", "00:16:3e:0a:00:ff:1", "0:16:3e:0a:00:ff", "00:16:3e:0a:00:+f", "x"]
        {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn made_up_addresses_are_stations_and_stay() {
        let mac = Mac::for_interface("web", 0);
        assert!(mac.is_station());
        assert_eq!(mac.0[..3], [0, 0x16, 0x3e]);
        assert_eq!(mac, Mac::for_interface("web", 0));
        assert_ne!(mac, Mac::for_interface("web", 1));
        assert_ne!(mac, Mac::for_interface("db", 0));
    }
}
