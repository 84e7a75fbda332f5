//! dom0's services as machines without I/O of their own.
//!
//! Everything here is driven through small traits ("ports") and therefore runs, is tested and is
//! fuzzed on the host. `bin/dom0` implements the ports on the SDK; `bin/pvctl` uses [`ctl`] alone.
//!
//! | module | what it is |
//! |---|---|
//! | [`xenstore`] | the store: wire codec, tree, permissions, watches, transactions, quotas |
//! | [`cfg`] | the `xl.cfg` parser |
//! | [`toolstack`] | create, destroy, … over a hypervisor port, a store port and a services port |
//! | [`blkback`] | the block back end: requests decoded and checked, the handshake of states |
//! | [`netback`] | the network back end: packets taken off the ring and checked, laid out for the receiver, limits |
//! | [`net`] | the software switch, and what a network card would do |
//! | [`ctl`] | the control protocol and the command language shared with `pvctl` |
//! | [`lineedit`] | a line editor for serial consoles |
//! | [`waiters`] | a list of waiting tasks |
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod blkback;
pub mod cfg;
pub mod ctl;
pub mod lineedit;
pub mod net;
pub mod netback;
pub mod toolstack;
pub mod waiters;
pub mod xenstore;
