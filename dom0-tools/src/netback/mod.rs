//! The network back end as a machine without I/O: what a front end sends, checked, and how it is given what others sent.
//!
//! | module | what it is |
//! |---|---|
//! | [`tx`] | slots of the sending ring put together to packets, and their answers |
//! | [`rx`] | a packet laid out over the slots of the receiving ring |
//! | [`credit`] | how much a guest may send in a time |
//! | [`features`] | what the two ends tell each other |
//!
//! The handshake of states is that of the block back end ([`crate::blkback::handshake`]). The daemon in `bin/dom0`
//! maps the rings, copies granted pages, and hands frames to the switch ([`crate::net`]).

pub mod credit;
pub mod features;
pub mod rx;
pub mod tx;
