//! PCI devices that dom0 has told of.
//!
//! The hypervisor finds no devices itself. It keeps those that dom0 names, so that a device is taken away only once and
//! calls about unknown ones are refused; it does nothing with them, for there is no IOMMU and there are no
//! message-signalled interrupts.

use alloc::vec::Vec;

use hv_sync::{SpinLock, rank};
use pv_abi::errno::Errno;

use crate::access;
use crate::domain::Domain;

/// Most devices. Room for all of them is there from the beginning: nothing allocates under the lock.
const MOST: usize = 1024;

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

/// All devices that are known, in ascending order.
#[derive(Debug)]
pub struct Devices {
    known: SpinLock<Vec<Address>>,
}

impl Default for Devices {
    fn default() -> Self {
        Self { known: SpinLock::new(rank::IRQ, Vec::with_capacity(MOST)) }
    }
}

impl Devices {
    /// Notes a device; one that is known already stays.
    ///
    /// # Errors
    /// `EPERM` for all but a control domain; `ENOMEM` when there are too many.
    pub fn add(&self, dom: &Domain, at: Address) -> Result<(), Errno> {
        access::control(dom)?;
        let mut known = self.known.lock();
        match known.binary_search(&at) {
            Ok(_) => Ok(()),
            Err(_) if known.len() == MOST => Err(Errno::NoMem),
            Err(place) => {
                known.insert(place, at);
                Ok(())
            }
        }
    }

    /// Forgets a device.
    ///
    /// # Errors
    /// `EPERM`; `ENODEV` for one that is not known.
    pub fn remove(&self, dom: &Domain, at: Address) -> Result<(), Errno> {
        access::control(dom)?;
        let mut known = self.known.lock();
        let place = known.binary_search(&at).map_err(|_| Errno::NoDev)?;
        known.remove(place);
        Ok(())
    }

    /// Checks that a device is known.
    ///
    /// # Errors
    /// `EPERM`; `ENODEV`.
    pub fn check(&self, dom: &Domain, at: Address) -> Result<(), Errno> {
        access::control(dom)?;
        self.known.lock().binary_search(&at).map(drop).map_err(|_| Errno::NoDev)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Devices, MOST};
    use crate::access::Privilege;
    use crate::fake::FakeWorld;
    use pv_abi::errno::Errno;
    use pv_abi::ids::DomId;

    fn at(number: usize) -> Address {
        let [devfn, bus, segment, _] = u32::try_from(number).unwrap().to_le_bytes();
        Address { segment: segment.into(), bus, devfn }
    }

    #[test]
    fn a_device_is_known_from_add_to_remove() {
        let w = FakeWorld::new(16);
        let dom0 = w.add_domain(DomId::new(0), Privilege::Control, 1).0;
        let devices = Devices::default();
        assert_eq!(devices.check(&dom0, at(8)), Err(Errno::NoDev));
        assert_eq!(devices.add(&dom0, at(8)), Ok(()));
        assert_eq!(devices.add(&dom0, at(8)), Ok(()), "as Xen: known devices may be named again");
        assert_eq!(devices.check(&dom0, at(8)), Ok(()));
        assert_eq!(devices.remove(&dom0, at(8)), Ok(()));
        assert_eq!(devices.remove(&dom0, at(8)), Err(Errno::NoDev));
    }

    #[test]
    fn others_have_no_say_and_the_list_is_bounded() {
        let w = FakeWorld::new(16);
        let dom0 = w.add_domain(DomId::new(0), Privilege::Control, 1).0;
        let guest = w.add_domain(DomId::new(1), Privilege::Unprivileged, 1).0;
        let devices = Devices::default();
        assert_eq!(devices.add(&guest, at(1)), Err(Errno::Perm));
        assert_eq!(devices.remove(&guest, at(1)), Err(Errno::Perm));
        assert_eq!(devices.check(&guest, at(1)), Err(Errno::Perm));
        assert!((0..MOST).all(|number| devices.add(&dom0, at(number)).is_ok()));
        assert_eq!(devices.add(&dom0, at(MOST)), Err(Errno::NoMem));
        assert_eq!(devices.add(&dom0, at(0)), Ok(()));
    }
}
