//! Messages and the queues that carry them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use pv_abi::io::xenstore::{PAYLOAD_MAX, XsType, XsdSockmsg};

use crate::hypercall::Errno;
use crate::task::{Channel, Notify};

/// One message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: XsType,
    /// Chosen by the client, repeated in the answer.
    pub request_id: u32,
    /// The transaction, 0 for none.
    pub transaction: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Message {
    /// The header of the message.
    #[must_use]
    pub fn header(&self) -> XsdSockmsg {
        XsdSockmsg {
            kind: self.kind.raw(),
            req_id: self.request_id,
            tx_id: self.transaction,
            len: u32::try_from(self.payload.len()).unwrap_or(u32::MAX),
        }
    }

    /// How many payload bytes follow a header; an error if the protocol does not allow as many.
    pub fn payload_length(header: &XsdSockmsg) -> Result<usize, Errno> {
        usize::try_from(header.len).ok().filter(|length| *length <= PAYLOAD_MAX).ok_or(Errno::BadMsg)
    }

    /// A message from its parts.
    pub fn from_parts(header: &XsdSockmsg, payload: Vec<u8>) -> Result<Self, Errno> {
        let kind = XsType::from_raw(header.kind).ok_or(Errno::BadMsg)?;
        Ok(Self { kind, request_id: header.req_id, transaction: header.tx_id, payload })
    }

    /// The error that the message stands for, if it is one.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        if self.kind != XsType::Error {
            return None;
        }
        let name = self.payload.split(|byte| *byte == 0).next().unwrap_or(&[]);
        let known = Errno::ALL.iter().copied().find(|errno| errno.name().as_bytes() == name);
        Some(known.unwrap_or(Errno::Io))
    }
}

/// Both directions between a client and a store.
#[derive(Clone, Default)]
pub struct Link {
    /// Client to store.
    pub requests: Channel<Message>,
    /// Store to client.
    pub answers: Channel<Message>,
    end: Rc<End>,
}

/// That a link has come to its end.
#[derive(Default)]
struct End {
    reached: Cell<bool>,
    notify: Notify,
}

impl Link {
    /// Two empty queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the link: what has not been answered will not be, and nothing more can be asked.
    pub fn close(&self) {
        self.end.reached.set(true);
        self.end.notify.notify();
    }

    /// Whether the link has come to its end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end.reached.get()
    }

    /// Waits for the end. One waiter: the client.
    pub(super) async fn closed(&self) {
        while !self.is_closed() {
            self.end.notify.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Message;
    use crate::hypercall::Errno;
    use alloc::vec::Vec;
    use pv_abi::io::xenstore::{XsType, XsdSockmsg};

    fn message(kind: XsType, payload: &[u8]) -> Message {
        Message { kind, request_id: 7, transaction: 0, payload: payload.to_vec() }
    }

    #[test]
    fn errors_are_known_by_their_names() {
        assert_eq!(message(XsType::Error, b"ENOENT\0").error(), Some(Errno::NoEnt));
        assert_eq!(message(XsType::Error, b"EAGAIN").error(), Some(Errno::Again));
        assert_eq!(message(XsType::Error, b"ENOSUCHTHING\0").error(), Some(Errno::Io));
        assert_eq!(message(XsType::Read, b"ENOENT\0").error(), None);
    }

    #[test]
    fn lengths_and_kinds_are_checked() {
        let header = message(XsType::Read, b"abc").header();
        assert_eq!(Message::payload_length(&header), Ok(3));
        assert_eq!(Message::payload_length(&XsdSockmsg { len: 4097, ..header }), Err(Errno::BadMsg));
        let strange = XsdSockmsg { kind: 999, ..header };
        assert_eq!(Message::from_parts(&strange, Vec::new()), Err(Errno::BadMsg));
    }
}
