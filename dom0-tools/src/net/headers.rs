//! What of a frame's headers is looked at: where IP and TCP or UDP begin.
//!
//! Nothing here trusts the frame: lengths that do not fit it are no headers at all.

use super::{ETH_HEADER, FrameData, Mac};

/// Bytes from a frame's start that hold every header that is understood: Ethernet with a tag, IP with options, TCP with
/// options.
pub const HEAD: usize = 160;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const VLAN_TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;

/// The start of a frame.
#[derive(Clone, Copy)]
pub struct Head {
    bytes: [u8; HEAD],
    /// How many bytes there are.
    have: usize,
    /// Bytes of the frame.
    frame: usize,
}

/// Who speaks above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with this many bytes of header.
    Tcp(usize),
    /// UDP.
    Udp,
}

/// Where the headers of a TCP or UDP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Where the IP header begins.
    pub ip: usize,
    /// Where TCP or UDP begins.
    pub transport_at: usize,
    /// Which.
    pub transport: Transport,
    /// Where the packet ends. The frame may be longer: short ones are padded.
    pub end: usize,
}

impl Headers {
    /// Where the payload begins.
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.transport_at
            + match self.transport {
                Transport::Tcp(bytes) => bytes,
                Transport::Udp => UDP_HEADER,
            }
    }

    /// Where the checksum is.
    #[must_use]
    pub const fn checksum_at(&self) -> usize {
        self.transport_at
            + match self.transport {
                Transport::Tcp(_) => 16,
                Transport::Udp => 6,
            }
    }

    /// The protocol's number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => PROTO_TCP,
            Transport::Udp => PROTO_UDP,
        }
    }
}

impl Head {
    /// Reads a frame's start.
    #[must_use]
    pub fn of(frame: &dyn FrameData) -> Self {
        let mut bytes = [0; HEAD];
        let len = frame.frame_len();
        let have = len.min(HEAD);
        frame.read(0, bytes.get_mut(..have).unwrap_or_default());
        Self { bytes, have, frame: len }
    }

    /// The bytes that there are.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.have).unwrap_or_default()
    }

    /// Bytes of the frame.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.frame
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes().get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes().get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// For whom the frame is.
    #[must_use]
    pub fn destination(&self) -> Option<Mac> {
        self.array(0).map(Mac)
    }

    /// Who says that it sent it.
    #[must_use]
    pub fn source(&self) -> Option<Mac> {
        self.array(6).map(Mac)
    }

    /// The frame's type, and where what it names begins.
    fn ether_type(&self) -> Option<(u16, usize)> {
        match self.word(12)? {
            TYPE_VLAN => Some((self.word(ETH_HEADER + 2)?, ETH_HEADER + VLAN_TAG)),
            kind => Some((kind, ETH_HEADER)),
        }
    }

    /// The IPv4 address that the frame claims to come from: the source of an IP packet, or the sender of ARP.
    /// `None` if it claims none.
    #[must_use]
    pub fn claimed_ipv4(&self) -> Option<[u8; 4]> {
        match self.ether_type()? {
            (TYPE_IPV4, at) => self.array(at + 12),
            (TYPE_ARP, at) => self.array(at + 14),
            _ => None,
        }
    }

    /// Whether the frame is IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        matches!(self.ether_type(), Some((TYPE_IPV6, _)))
    }

    /// The headers, if this is a whole TCP or UDP packet whose lengths fit.
    #[must_use]
    pub fn headers(&self) -> Option<Headers> {
        let (ip, v6, transport_at, end, protocol) = match self.ether_type()? {
            (TYPE_IPV4, ip) => {
                let (at, end, protocol) = self.ipv4(ip)?;
                (ip, false, at, end, protocol)
            }
            (TYPE_IPV6, ip) => {
                let (at, end, protocol) = self.ipv6(ip)?;
                (ip, true, at, end, protocol)
            }
            _ => return None,
        };
        let transport = match protocol {
            PROTO_TCP => Transport::Tcp(usize::from(self.byte(transport_at + 12)? >> 4) * 4),
            PROTO_UDP => Transport::Udp,
            _ => return None,
        };
        let headers = Headers { v6, ip, transport_at, transport, end };
        let long_enough = !matches!(transport, Transport::Tcp(bytes) if bytes < TCP_HEADER);
        let fits = headers.payload() <= end && end <= self.frame && headers.payload() <= self.have;
        (long_enough && fits).then_some(headers)
    }

    fn ipv4(&self, ip: usize) -> Option<(usize, usize, u8)> {
        let first = self.byte(ip)?;
        let header = usize::from(first & 15) * 4;
        let total = usize::from(self.word(ip + 2)?);
        let whole = self.word(ip + 6)? & FRAGMENT == 0;
        let good = first >> 4 == 4 && header >= IPV4_HEADER && total >= header && whole;
        good.then_some((ip + header, ip + total, self.byte(ip + 9)?))
    }

    /// Packets with extension headers are left alone: nobody may leave their checksums blank here.
    fn ipv6(&self, ip: usize) -> Option<(usize, usize, u8)> {
        let payload = usize::from(self.word(ip + 4)?);
        let good = self.byte(ip)? >> 4 == 6;
        good.then_some((ip + IPV6_HEADER, ip + IPV6_HEADER + payload, self.byte(ip + 6)?))
    }
}
