//! The messages: a 16-byte header, then at most 4096 bytes of NUL-terminated strings.

use alloc::vec::Vec;

use pv_abi::errno::Errno;
use zerocopy::{IntoBytes, transmute};

pub use pv_abi::io::xenstore::PAYLOAD_MAX;
/// Message types.
pub use pv_abi::io::xenstore::XsType as Op;
/// A message's header.
pub use pv_abi::io::xenstore::XsdSockmsg as Header;

/// Length of a header.
pub const HEADER_LEN: usize = size_of::<Header>();

/// Reads a header.
#[must_use]
pub fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
    transmute!(*bytes)
}

/// A whole message; `None` if the payload is too long.
#[must_use]
pub fn message(op: u32, req_id: u32, tx_id: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(Header { kind: op, req_id, tx_id, len }.as_bytes());
    bytes.extend_from_slice(payload);
    Some(bytes)
}

/// The name an error has on the wire. Only those that clients know; others become EIO.
#[must_use]
pub const fn error_name(error: Errno) -> &'static str {
    match error {
        Errno::Inval
        | Errno::Acces
        | Errno::Exist
        | Errno::IsDir
        | Errno::NoEnt
        | Errno::NoMem
        | Errno::NoSpc
        | Errno::NotEmpty
        | Errno::NoSys
        | Errno::RoFs
        | Errno::Busy
        | Errno::Again
        | Errno::IsConn
        | Errno::TooBig
        | Errno::Perm => error.name(),
        _ => "EIO",
    }
}

/// Splits a payload of NUL-terminated strings; `None` unless there are exactly `N`.
pub(crate) fn strings<const N: usize>(payload: &[u8]) -> Option<[&str; N]> {
    let body = payload.strip_suffix(&[0])?;
    let mut parts = body.split(|&b| b == 0);
    let mut out = [""; N];
    for slot in &mut out {
        *slot = core::str::from_utf8(parts.next()?).ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// Splits the first NUL-terminated string off.
pub(crate) fn split_string(payload: &[u8]) -> Option<(&str, &[u8])> {
    let end = payload.iter().position(|&b| b == 0)?;
    let text = core::str::from_utf8(payload.get(..end)?).ok()?;
    Some((text, payload.get(end + 1..)?))
}
