//! The block service: guests' virtual disks (`backend/vbd`), each served by one back end for each of its rings.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use dom0_tools::blkback::queues::{self, MAX_QUEUES};
use dom0_tools::blkback::request::{Geometry, MAX_INDIRECT_SEGMENTS};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_abi::io::blkif::VdiskFlags;

use super::backends::{Backends, Device, GiveUp, Kind, Node};
use super::vbd::{MOST_IN_FLIGHT, Vbd};
use super::xenstore::StoreService;
use crate::machine::Machine;
use crate::sync::Budget;
use crate::virtio::blk::Disk;

/// Virtual disks as a kind of device.
struct Disks {
    machine: Rc<Machine>,
}

/// A virtual disk.
struct VirtualDisk {
    dom: DomId,
    disk: Rc<Disk>,
    read_only: bool,
    persistent: bool,
    /// What its requests may have in flight, those of earlier connections included.
    in_flight: Rc<Budget>,
    /// One for each ring; none unless connected.
    rings: RefCell<Vec<Rc<Vbd>>>,
}

/// The service.
pub(crate) struct BlockService(Rc<Backends<Disks>>);

impl BlockService {
    /// Starts the service.
    pub(crate) fn start(store: Rc<StoreService>, machine: Rc<Machine>) -> Result<Self, Errno> {
        Backends::start(store, Disks { machine }).map(Self)
    }

    /// Whether a guest writes to this disk.
    pub(crate) fn is_written(&self, disk: &Rc<Disk>) -> bool {
        self.0.any(|device| Rc::ptr_eq(&device.disk, disk) && !device.read_only)
    }

    /// Lets go of everything that belongs to a domain.
    pub(crate) fn detach(&self, dom: DomId) {
        self.0.detach(dom);
    }
}

impl Kind for Disks {
    type Device = VirtualDisk;
    const NAME: &'static str = "vbd";

    fn adopt(&self, dom: DomId, node: &mut Node<'_>) -> Option<VirtualDisk> {
        let target = node.own("physical-device").or_else(|| node.own("params"))?;
        let mode = node.own("mode")?;
        let disk = self.machine.disk(&target)?;
        let read_only = disk.is_read_only() || !mode.starts_with('w');
        let persistent = node.own("persistent").is_some_and(|value| value == "1");
        let in_flight = Budget::new(MOST_IN_FLIGHT);
        Some(VirtualDisk { dom, disk, read_only, persistent, in_flight, rings: RefCell::default() })
    }
}

impl VirtualDisk {
    /// Takes one ring up, of which the front end tells in `directory`.
    fn take_up(&self, node: &mut Node<'_>, directory: &str, give_up: &GiveUp) -> Result<Rc<Vbd>, String> {
        let ring = GrantRef::new(node.needed_in(directory, "ring-ref")?);
        let port = EvtchnPort::new(node.needed_in(directory, "event-channel")?);
        let give_up = give_up.clone();
        let given_up = Box::new(move |fault| give_up.because(fault));
        let disk = (self.disk.clone(), self.geometry(), self.in_flight.clone());
        Vbd::connect(self.dom, ring, port, disk, given_up)
    }

    fn geometry(&self) -> Geometry {
        let discard = self.disk.discard_granularity().is_some();
        Geometry { sectors: self.disk.sectors(), read_only: self.read_only, discard }
    }
}

impl Device for VirtualDisk {
    fn offer(&self, node: &mut Node<'_>) {
        node.put("feature-flush-cache", "1");
        node.put("feature-barrier", "0");
        if let Some(bytes) = self.disk.discard_granularity() {
            node.put("feature-discard", "1");
            node.put("discard-granularity", &bytes.to_string());
            node.put("discard-alignment", "0");
            node.put("discard-secure", "0");
        } else {
            node.put("feature-discard", "0");
        }
        // Data is copied through the same grants whether they are new or old, so there is nothing to keep.
        node.put("feature-persistent", if self.persistent { "1" } else { "0" });
        node.put("multi-queue-max-queues", &MAX_QUEUES.to_string());
        node.put("feature-max-indirect-segments", &MAX_INDIRECT_SEGMENTS.to_string());
    }

    fn connect(&self, node: &mut Node<'_>, give_up: &GiveUp) -> Result<(), String> {
        if node.theirs("protocol").is_some_and(|name| name != "x86_64-abi") {
            return Err("the front end speaks another protocol".to_string());
        }
        let wanted = node.their_number("multi-queue-num-queues");
        let rings = queues::directories(node.frontend(), wanted).map_err(|error| error.to_string())?;
        for ring in rings {
            let vbd = self.take_up(node, &ring, give_up);
            // Some of several rings may be there already.
            let vbd = vbd.inspect_err(|_| self.disconnect())?;
            self.rings.borrow_mut().push(vbd);
        }
        let flags = if self.read_only { VdiskFlags::READONLY } else { VdiskFlags::empty() };
        node.put("sectors", &self.disk.sectors().to_string());
        node.put("info", &flags.bits().to_string());
        node.put("sector-size", "512");
        node.put("physical-sector-size", "512");
        Ok(())
    }

    fn disconnect(&self) {
        for ring in self.rings.take() {
            ring.close();
        }
    }
}
