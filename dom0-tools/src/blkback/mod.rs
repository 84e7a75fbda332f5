//! The block back end as a machine without I/O: what a front end asks, checked, and what is to be answered.
//!
//! | module | what it is |
//! |---|---|
//! | [`request`] | a ring request decoded and checked against the disk |
//! | [`queues`] | how many rings there are |
//! | [`patience`] | whether the disk's answer is waited for on the spot |
//! | [`leaving`] | what is left of connections that are over |
//! | [`handshake`] | the states of the two ends in xenstore |
//!
//! The daemon in `bin/dom0` maps the ring, maps or copies granted pages, and drives the real disk.

pub mod handshake;
pub mod leaving;
pub mod patience;
pub mod queues;
pub mod request;
