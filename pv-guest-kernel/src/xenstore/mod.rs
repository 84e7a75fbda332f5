//! xenstore: the small tree in which domains tell one another about devices.
//!
//! A [`Client`] speaks to a store over a [`Link`], two queues of messages. [`Client::connect`] makes one over the ring of
//! start_info; [`Client::over`] takes any link, so that dom0 can speak to the store in its own process. Requests are
//! answered in any order; watch events come between answers.

mod client;
mod message;
mod ring;

pub use client::{Client, Transaction, View, Watch};
pub use message::{Link, Message};

/// Value of a permission node: who, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// None.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

impl Permission {
    /// The letter of the protocol.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    /// The permission of a letter.
    #[must_use]
    pub const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'n' => Some(Self::None),
            b'r' => Some(Self::Read),
            b'w' => Some(Self::Write),
            b'b' => Some(Self::Both),
            _ => None,
        }
    }
}
