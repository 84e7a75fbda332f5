//! The toolstack: what makes, watches and ends domains.
//!
//! It asks for everything through three ports: [`Hypervisor`] (hypercalls), [`Store`] (xenstore, as
//! dom0 sees it) and [`Services`] (the other parts of dom0 that must let go of a domain before it can
//! be freed).

pub mod ports;

pub use ports::{Hypervisor, Services, Store};
