//! What a network card would do: checksums completed, large TCP packets cut into segments.
//!
//! A guest says of its packet that the checksum is blank or that it is to be cut, and is believed in nothing else: all
//! lengths are checked against the frame, and a segment's size has a lower bound, so that one packet cannot become
//! thousands.

use super::headers::{HEAD, Head, Headers, Transport};
use super::{Checksum, FrameData, Gso, MAX_WIRE_FRAME, Meta, Takes};

/// Fewest bytes of payload in a segment.
pub const MIN_SEGMENT: u16 = 256;
/// Bytes that are summed at a time; even.
const CHUNK: usize = 512;

const FLAG_FIN: u8 = 0x01;
const FLAG_PSH: u8 = 0x08;
const FLAG_CWR: u8 = 0x80;

/// Why a frame cannot be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadError {
    /// It is not the TCP or UDP packet that it has to be.
    NotTransport,
    /// A segment's size is too small, or a segment would not fit the wire.
    SegmentSize,
}

/// The Internet checksum, being added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. All pieces but the last have an even length.
    pub fn add(&mut self, bytes: &[u8]) {
        // Words of the machine's own order do, if the result is turned around at the end.
        let mut words = bytes.chunks_exact(4);
        for word in words.by_ref() {
            let mut raw = [0; 4];
            raw.copy_from_slice(word);
            self.0 += u64::from(u32::from_ne_bytes(raw));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(words.remainder()) {
            *to = *from;
        }
        self.0 += u64::from(u32::from_ne_bytes(last));
    }

    /// Adds `from..to` of a frame; `from` counts as even.
    pub fn add_frame(&mut self, frame: &dyn FrameData, from: usize, to: usize) {
        let mut chunk = [0; CHUNK];
        let mut at = from;
        while at < to {
            let part = chunk.get_mut(..CHUNK.min(to - at)).unwrap_or_default();
            frame.read(at, part);
            self.add(part);
            at += part.len();
        }
    }

    /// The two bytes to put into the packet.
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(!sum & 0xffff).unwrap_or(0).to_ne_bytes()
    }
}

/// The pseudo header that TCP and UDP sum up, for `len` bytes of header and payload.
fn pseudo(head: &[u8], headers: &Headers, len: usize) -> Sum {
    let mut sum = Sum::default();
    let addresses =
        if headers.v6 { headers.ip + 8..headers.ip + 40 } else { headers.ip + 12..headers.ip + 20 };
    sum.add(head.get(addresses).unwrap_or_default());
    let len = u32::try_from(len).unwrap_or(0).to_be_bytes();
    sum.add(&len);
    sum.add(&[0, headers.protocol()]);
    sum
}

/// A sum as UDP writes it: zero would say that there is none.
fn as_written(sum: Sum, transport: Transport) -> [u8; 2] {
    match (sum.finish(), transport) {
        ([0, 0], Transport::Udp) => [0xff, 0xff],
        (bytes, _) => bytes,
    }
}

/// Fills a blank checksum in.
///
/// # Errors
/// `NotTransport`: there is no place for one.
pub fn complete(frame: &dyn FrameData) -> Result<(), OffloadError> {
    let head = Head::of(frame);
    let headers = head.headers().ok_or(OffloadError::NotTransport)?;
    let (at, start) = (headers.checksum_at(), headers.transport_at);
    let mut sum = pseudo(head.bytes(), &headers, headers.end - start);
    frame.write(at, &[0, 0]);
    sum.add_frame(frame, start, headers.end);
    frame.write(at, &as_written(sum, headers.transport));
    Ok(())
}

/// Whether the checksum of a TCP or UDP packet is right. Anything else is nobody's to judge, and right.
#[must_use]
pub fn is_right(frame: &dyn FrameData) -> bool {
    let head = Head::of(frame);
    let Some(headers) = head.headers() else { return true };
    let mut written = [0; 2];
    frame.read(headers.checksum_at(), &mut written);
    if headers.transport == Transport::Udp && !headers.v6 && written == [0, 0] {
        return true;
    }
    let mut sum = pseudo(head.bytes(), &headers, headers.end - headers.transport_at);
    sum.add_frame(frame, headers.transport_at, headers.end);
    sum.finish() == [0, 0]
}

/// What has to be done to a frame before a receiver takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Its checksum has to be completed.
    Complete,
    /// It has to be cut.
    Cut(Gso),
}

/// What a frame with these marks needs for a receiver.
#[must_use]
pub fn need(frame: &dyn FrameData, meta: Meta, takes: Takes) -> Need {
    if let Some(gso) = meta.gso {
        let taken = if gso.v6 { takes.gso_v6 } else { takes.gso_v4 } && takes.several_pages;
        return if taken { Need::Nothing } else { Need::Cut(gso) };
    }
    if meta.checksum != Checksum::Blank || (takes.blank_v4 && takes.blank_v6) {
        return Need::Nothing;
    }
    let taken = if Head::of(frame).is_ipv6() { takes.blank_v6 } else { takes.blank_v4 };
    if taken { Need::Nothing } else { Need::Complete }
}

/// A large TCP packet as the segments that it stands for.
pub struct Segments<'f> {
    frame: &'f dyn FrameData,
    head: Head,
    headers: Headers,
    size: usize,
    count: usize,
}

impl<'f> Segments<'f> {
    /// Looks at a packet to be cut.
    ///
    /// # Errors
    /// `NotTransport`: no TCP packet of that kind. `SegmentSize`: too small, or too large for the wire.
    pub fn of(frame: &'f dyn FrameData, gso: Gso) -> Result<Self, OffloadError> {
        let head = Head::of(frame);
        let headers = head.headers().ok_or(OffloadError::NotTransport)?;
        if headers.v6 != gso.v6 || !matches!(headers.transport, Transport::Tcp(_)) {
            return Err(OffloadError::NotTransport);
        }
        let size = usize::from(gso.size);
        if gso.size < MIN_SEGMENT || headers.payload() + size > MAX_WIRE_FRAME {
            return Err(OffloadError::SegmentSize);
        }
        let count = (headers.end - headers.payload()).div_ceil(size).max(1);
        Ok(Self { frame, head, headers, size, count })
    }

    /// How many segments there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Builds segment `number` as it goes on the wire, checksums and all; how many bytes it has. `None` beyond the
    /// last.
    #[must_use]
    pub fn build(&self, number: usize, into: &mut [u8; MAX_WIRE_FRAME]) -> Option<usize> {
        if number >= self.count {
            return None;
        }
        let header = self.headers.payload();
        let offset = number * self.size;
        let payload = self.size.min(self.headers.end - header - offset);
        let len = header + payload;
        into.get_mut(..header)?.copy_from_slice(self.head.bytes().get(..header)?);
        self.frame.read(header + offset, into.get_mut(header..len)?);
        self.adapt_ip(number, len, into)?;
        self.adapt_tcp(number, offset, len, into)?;
        Some(len)
    }

    fn adapt_ip(&self, number: usize, len: usize, into: &mut [u8; MAX_WIRE_FRAME]) -> Option<()> {
        let ip = self.headers.ip;
        if self.headers.v6 {
            let payload = u16::try_from(len - ip - 40).ok()?;
            return put(into, ip + 4, payload.to_be_bytes());
        }
        put(into, ip + 2, u16::try_from(len - ip).ok()?.to_be_bytes())?;
        // Each segment is a packet with an identification of its own.
        let id = u16::from_be_bytes([*into.get(ip + 4)?, *into.get(ip + 5)?]);
        put(into, ip + 4, id.wrapping_add(u16::try_from(number).ok()?).to_be_bytes())?;
        put(into, ip + 10, [0, 0])?;
        let mut sum = Sum::default();
        sum.add(into.get(ip..self.headers.transport_at)?);
        put(into, ip + 10, sum.finish())
    }

    fn adapt_tcp(
        &self,
        number: usize,
        offset: usize,
        len: usize,
        into: &mut [u8; MAX_WIRE_FRAME],
    ) -> Option<()> {
        let tcp = self.headers.transport_at;
        let sequence = u32::from_be_bytes(into.get(tcp + 4..tcp + 8)?.try_into().ok()?);
        put(into, tcp + 4, sequence.wrapping_add(u32::try_from(offset).ok()?).to_be_bytes())?;
        let flags = into.get_mut(tcp + 13)?;
        if number + 1 != self.count {
            *flags &= !(FLAG_FIN | FLAG_PSH);
        }
        if number != 0 {
            *flags &= !FLAG_CWR;
        }
        put(into, tcp + 16, [0, 0])?;
        let mut sum = pseudo(into, &self.headers, len - tcp);
        sum.add(into.get(tcp..len)?);
        put(into, tcp + 16, sum.finish())
    }
}

fn put<const N: usize>(into: &mut [u8], at: usize, bytes: [u8; N]) -> Option<()> {
    into.get_mut(at..at.checked_add(N)?)?.copy_from_slice(&bytes);
    Some(())
}

// Whatever is understood of a frame's headers fits the smallest buffer that it is copied to.
const _: () = assert!(HEAD <= MAX_WIRE_FRAME && CHUNK.is_multiple_of(4));

#[cfg(test)]
mod tests;
