//! What only the control domain may do: devices and their interrupts, other domains and their memory.
//!
//! The hypervisor refuses all of it to anybody else, so a guest that calls these functions gets an error.
//!
//! | module | for |
//! |---|---|
//! | [`ports`] | I/O ports of a device |
//! | [`dma`] | memory that a device reads and writes |
//! | [`pirq`] | a device's interrupt line |
//! | [`control`] | making, watching and ending domains (`domctl` and its company) |
//! | [`foreign`] | frames of other domains; mapping them is [`crate::memory::map_mfns`] |
//! | [`host`] | facts about the machine and the hypervisor's log (`sysctl`) |
//! | [`pci`] | PCI configuration space |

pub mod control;
pub mod dma;
pub mod foreign;
pub mod host;
pub mod pci;
pub mod pirq;
pub mod ports;
