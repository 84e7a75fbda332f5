//! PCI devices that dom0 has told of, and the messages by which they interrupt.
//!
//! The hypervisor finds no devices itself. It keeps those that dom0 names, and writes their capabilities for messages, so that
//! each message has a vector of its own and nobody else changes it:
//!
//! | state of a message | by | then |
//! |---|---|---|
//! | none | `PHYSDEVOP_map_pirq` | mapped: written, masked |
//! | mapped | its pirq is bound | unmasked, where it has a mask |
//! | bound | its port is closed | mapped, masked |
//! | mapped | `PHYSDEVOP_unmap_pirq`, the domain's end, the device is taken away | none: masked |
//!
//! | file | holds |
//! |---|---|
//! | `config` | configuration space and what the capabilities say |
//! | [`message`] | messages: written, masked, taken back |
//! | `guard` | what dom0 writes to configuration space |
//!
//! A device's table of messages is read-only to every domain while it is in use ([`crate::frame::ReadOnlyDevices`]). Without
//! an IOMMU a domain that drives devices can write everywhere by DMA, so this keeps a dom0 from mistakes, not from malice.
//!
//! Locks: [`rank::PCI_DEVICES`], before that of pirqs; registers are written under it.

mod config;
mod guard;
pub mod message;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use hv_sync::{Guard, SpinLock, rank};
use pv_abi::errno::Errno;

use crate::access;
use crate::domain::Domain;
use crate::frame::FrameTable;
use crate::port::{DeviceRegisters, Interrupts};
pub use guard::{ConfigWrite, named_by};

use config::{Config, Msi, Msix};
use message::{Sender, Which};

/// Most devices. Room for all of them is there from the beginning: nothing allocates under the lock.
const MOST: usize = 1024;
/// Most messages.
const MOST_MESSAGES: usize = 256;

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Segment.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
}

/// A device that is known. Where its capabilities are was read when it was named, once.
#[derive(Debug)]
struct Device {
    at: Address,
    msi: Option<Msi>,
    msix: Option<u16>,
    /// dom0 wants its table kept for a domain to come.
    prepared: bool,
    /// dom0 has switched its table on.
    enabled: bool,
    /// Its table, while that is read-only to domains.
    table: Option<Msix>,
}

impl Device {
    fn new(m: &impl DeviceRegisters, at: Address) -> Self {
        let config = Config::new(m, at);
        let msi = config.as_ref().and_then(Config::msi);
        let msix = config.as_ref().and_then(Config::msix);
        Self { at, msi, msix, prepared: false, enabled: false, table: None }
    }

    /// The control register of the capability that has a message, and its bit by which the device sends.
    fn switch_of(&self, which: Which) -> Option<(u16, u16)> {
        match which {
            Which::Single => self.msi.map(|msi| (msi.control(), Msi::ENABLE)),
            Which::Entry(_) => self.msix.map(|msix| (msix + 2, Msix::ENABLE)),
        }
    }
}

/// Devices and messages, under the lock.
#[derive(Debug)]
pub(crate) struct State {
    /// In ascending order.
    known: Vec<Device>,
    senders: Vec<Sender>,
}

/// All devices that are known.
#[derive(Debug)]
pub struct Devices {
    state: SpinLock<State>,
}

impl Default for Devices {
    fn default() -> Self {
        let state = State { known: Vec::with_capacity(MOST), senders: Vec::with_capacity(MOST_MESSAGES) };
        Self { state: SpinLock::new(rank::PCI_DEVICES, state) }
    }
}

impl Devices {
    /// Takes the lock.
    pub(crate) fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Notes a device; one that is known already stays.
    ///
    /// # Errors
    /// `EPERM` for all but a control domain; `ENOMEM` when there are too many.
    pub fn add(&self, m: &impl DeviceRegisters, dom: &Domain, at: Address) -> Result<(), Errno> {
        access::control(dom)?;
        let device = Device::new(m, at);
        let known = &mut self.lock().known;
        match known.binary_search_by_key(&at, |device| device.at) {
            Ok(_) => Ok(()),
            Err(_) if known.len() == MOST => Err(Errno::NoMem),
            Err(place) => {
                known.insert(place, device);
                Ok(())
            }
        }
    }

    /// Forgets a device. Its messages end; the pirqs that they had stay mapped and silent.
    ///
    /// # Errors
    /// `EPERM`; `ENODEV` for one that is not known.
    pub fn remove(
        &self,
        frames: &FrameTable,
        m: &impl Interrupts,
        dom: &Domain,
        at: Address,
    ) -> Result<(), Errno> {
        access::control(dom)?;
        let mut state = self.lock();
        let place = state.place(at)?;
        state.silence(frames, m, place);
        state.known.remove(place);
        Ok(())
    }

    /// Checks that a device is known.
    ///
    /// # Errors
    /// `EPERM`; `ENODEV`.
    pub fn check(&self, dom: &Domain, at: Address) -> Result<(), Errno> {
        access::control(dom)?;
        self.lock().place(at).map(drop)
    }
}

impl State {
    /// Where a device is in the list.
    fn place(&self, at: Address) -> Result<usize, Errno> {
        self.known.binary_search_by_key(&at, |device| device.at).map_err(|_| Errno::NoDev)
    }

    fn device(&self, at: Address) -> Result<&Device, Errno> {
        self.known.get(self.place(at)?).ok_or(Errno::NoDev)
    }
}
