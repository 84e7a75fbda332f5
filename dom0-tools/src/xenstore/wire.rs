//! The messages: a 16-byte header, then at most 4096 bytes of NUL-terminated strings.

use alloc::vec::Vec;

use pv_abi::errno::Errno;

/// Length of a header.
pub const HEADER_LEN: usize = 16;
/// The most a message may carry behind its header.
pub const PAYLOAD_MAX: usize = 4096;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $raw:literal;)+) => {
        /// Message types (`XS_*`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op { $($(#[$doc])* $name,)+ }

        impl Op {
            /// From the wire.
            #[must_use]
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($raw => Some(Self::$name),)+ _ => None }
            }

            /// To the wire.
            #[must_use]
            pub const fn raw(self) -> u32 {
                match self { $(Self::$name => $raw,)+ }
            }
        }
    };
}

ops! {
    /// Talks to the daemon itself.
    Control = 0;
    /// Children of a node.
    Directory = 1;
    /// Value of a node.
    Read = 2;
    /// Permissions of a node.
    GetPerms = 3;
    /// Begins watching.
    Watch = 4;
    /// Ends watching.
    Unwatch = 5;
    /// Begins a transaction.
    TransactionStart = 6;
    /// Ends a transaction.
    TransactionEnd = 7;
    /// Connects a domain.
    Introduce = 8;
    /// Disconnects a domain.
    Release = 9;
    /// Path of a domain.
    GetDomainPath = 10;
    /// Writes a node.
    Write = 11;
    /// Makes a node.
    Mkdir = 12;
    /// Removes a node.
    Rm = 13;
    /// Sets a node's permissions.
    SetPerms = 14;
    /// An event; only ever sent to a client.
    WatchEvent = 15;
    /// An error; only ever sent to a client.
    Error = 16;
    /// Whether a domain is connected.
    IsDomainIntroduced = 17;
    /// Continues a suspended domain.
    Resume = 18;
    /// Lets a domain act for another.
    SetTarget = 19;
    /// Ends all watches and transactions.
    ResetWatches = 21;
    /// Children of a node, in parts.
    DirectoryPart = 22;
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type, which need not be a known one.
    pub op: u32,
    /// The client's number for the request, echoed.
    pub req_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut words = bytes.chunks_exact(4).map(|word| {
            let mut raw = [0; 4];
            raw.copy_from_slice(word);
            u32::from_le_bytes(raw)
        });
        let mut next = || words.next().unwrap_or(0);
        Self { op: next(), req_id: next(), tx_id: next(), len: next() }
    }

    /// Writes a header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let words = [self.op, self.req_id, self.tx_id, self.len];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A whole message; `None` if the payload is too long.
#[must_use]
pub fn message(op: u32, req_id: u32, tx_id: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&Header { op, req_id, tx_id, len }.encode());
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
