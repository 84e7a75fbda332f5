//! Claims about devices and their messages, on a fake machine.

use super::message::Which;
use super::{Address, ConfigWrite, Devices, MOST};
use crate::access::Privilege;
use crate::domain::Domain;
use crate::evtchn::pirq;
use crate::fake::FakeWorld;
use crate::fake::devices::at as place;
use crate::port::{DeviceRegisters, Interrupts, PortWidth};
use alloc::sync::Arc;
use alloc::vec;
use proptest::prelude::*;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};

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
    assert_eq!(devices.add(&w.m, &dom0, at(8)), Ok(()));
    assert_eq!(devices.add(&w.m, &dom0, at(8)), Ok(()), "as Xen: known devices may be named again");
    assert_eq!(devices.check(&dom0, at(8)), Ok(()));
    assert_eq!(devices.remove(&w.hv.frames, &w.m, &dom0, at(8)), Ok(()));
    assert_eq!(devices.remove(&w.hv.frames, &w.m, &dom0, at(8)), Err(Errno::NoDev));
}

#[test]
fn others_have_no_say_and_the_list_is_bounded() {
    let w = FakeWorld::new(16);
    let dom0 = w.add_domain(DomId::new(0), Privilege::Control, 1).0;
    let guest = w.add_domain(DomId::new(1), Privilege::Unprivileged, 1).0;
    let devices = Devices::default();
    assert_eq!(devices.add(&w.m, &guest, at(1)), Err(Errno::Perm));
    assert_eq!(devices.remove(&w.hv.frames, &w.m, &guest, at(1)), Err(Errno::Perm));
    assert_eq!(devices.check(&guest, at(1)), Err(Errno::Perm));
    assert!((0..MOST).all(|number| devices.add(&w.m, &dom0, at(number)).is_ok()));
    assert_eq!(devices.add(&w.m, &dom0, at(MOST)), Err(Errno::NoMem));
    assert_eq!(devices.add(&w.m, &dom0, at(0)), Ok(()));
}

/// A control domain and a device with both kinds of messages.
struct World {
    w: FakeWorld,
    dom0: Arc<Domain>,
}

const DEVICE: Address = Address { segment: 0, bus: 0, devfn: 8 };
/// Where the control word of an entry is.
const CONTROL: u64 = 12;
const MSIX_CONTROL: u16 = place::MSIX as u16 + 2;
const MSI_CONTROL: u16 = place::MSI as u16 + 2;

impl World {
    fn new() -> Self {
        let w = FakeWorld::new(32);
        let dom0 = w.add_domain(DomId::new(0), Privilege::Control, 8).0;
        w.m.devices.plug(8);
        w.hv.pci.add(&w.m, &dom0, DEVICE).unwrap();
        Self { w, dom0 }
    }

    fn map(&self, which: Which) -> Result<u32, Errno> {
        pirq::message::map(&self.w.hv, &self.w.m, &self.dom0, (DEVICE, which), None)
    }

    fn unmap(&self, pirq: u32) -> Result<(), Errno> {
        pirq::unmap(&self.w.hv, &self.w.m, &self.dom0, pirq)
    }

    fn entry(&self, number: u64, word: u64) -> u32 {
        self.w.m.register_read(place::TABLE + 16 * number + word, PortWidth::Dword)
    }

    fn is_masked(&self, number: u64) -> bool {
        self.entry(number, CONTROL) & 1 != 0
    }

    fn config(&self, register: u16, width: PortWidth) -> u32 {
        let address = 0x8000_0800 | u32::from(register & 0xfc);
        self.w.m.config_read(address, u8::try_from(register & 3).unwrap(), width)
    }

    /// What dom0 writes.
    fn write(&self, register: u16, width: PortWidth, value: u32) {
        let request = ConfigWrite { register, width, value };
        let (hv, m) = (&self.w.hv, &self.w.m);
        hv.pci.guest_write(&hv.frames, m, DEVICE, request, |value| {
            let address = 0x8000_0800 | u32::from(register & 0xfc);
            m.config_write(address, u8::try_from(register & 3).unwrap(), width, value);
        });
    }

    fn is_read_only(&self) -> bool {
        self.w.hv.frames.read_only_devices().contains(Mfn::new(place::TABLE >> 12))
    }

    /// Nothing is left of a message.
    fn is_clean(&self) -> bool {
        self.w.m.devices.vectors() == 0 && self.w.hv.frames.read_only_devices().is_empty()
    }
}

#[test]
fn an_entry_is_written_masked_and_unmasked_while_it_is_bound() {
    let t = World::new();
    let (hv, m) = (&t.w.hv, &t.w.m);
    let pirq = t.map(Which::Entry(2)).unwrap();
    assert_eq!(pirq, m.nr_pirqs() - 1, "behind the lines, from the top");
    assert_eq!([t.entry(2, 0), t.entry(2, 4), t.entry(2, 8)], [0xfee0_0000, 0, 0x40 + pirq]);
    assert!(t.is_masked(2) && t.is_read_only());
    assert_eq!(t.config(MSIX_CONTROL, PortWidth::Word), 3, "switched on for the writing only");
    let port = pirq::bind_pirq(hv, m, &t.dom0, pirq).unwrap();
    assert!(!t.is_masked(2));
    assert_eq!(t.unmap(pirq), Err(Errno::Inval), "bound");
    assert_eq!(pirq::eoi(hv, m, &t.dom0, pirq), Ok(()));
    crate::evtchn::close(hv, m, &t.dom0, port).unwrap();
    assert!(t.is_masked(2));
    assert_eq!(t.unmap(pirq), Ok(()));
    assert_eq!(t.unmap(pirq), Err(Errno::Inval));
    assert!(t.is_masked(2) && t.is_clean());
}

#[test]
fn xsa_237_an_entry_has_one_pirq_and_a_device_one_kind_of_messages() {
    let t = World::new();
    assert_eq!(t.map(Which::Entry(4)), Err(Errno::Inval), "past the table");
    assert_eq!(t.map(Which::Entry(u16::MAX)), Err(Errno::Inval));
    let first = t.map(Which::Entry(0)).unwrap();
    assert_eq!(t.map(Which::Entry(0)), Err(Errno::Exist));
    assert_eq!(t.map(Which::Single), Err(Errno::Busy));
    let second = t.map(Which::Entry(3)).unwrap();
    assert_ne!(first, second);
    t.unmap(first).unwrap();
    assert!(t.is_read_only(), "the other is still used");
    t.unmap(second).unwrap();
    let single = t.map(Which::Single).unwrap();
    assert_eq!(t.map(Which::Single), Err(Errno::Exist));
    assert_eq!(t.map(Which::Entry(0)), Err(Errno::Busy));
    t.unmap(single).unwrap();
    assert!(t.is_clean());
}

#[test]
fn a_single_message_is_written_to_configuration_space() {
    let t = World::new();
    let (hv, m) = (&t.w.hv, &t.w.m);
    t.w.m.devices.set_config(8, place::MSI + 2, &[0xb1, 1]);
    let pirq = t.map(Which::Single).unwrap();
    let word = |at: u16| t.config(u16::from(place::MSI) + at, PortWidth::Dword);
    assert_eq!([word(4), word(8), word(12), word(16)], [0xfee0_0000, 0, 0x40 + pirq, 1]);
    assert_eq!(t.config(MSI_CONTROL, PortWidth::Word), 0x181, "switched on as before, one message");
    // dom0 switches it on and asks for eight messages, writes another address, and takes the mask away.
    t.write(MSI_CONTROL, PortWidth::Word, 0x1b1);
    t.write(u16::from(place::MSI) + 4, PortWidth::Dword, 0x1000);
    t.write(u16::from(place::MSI) + 12, PortWidth::Byte, 0x20);
    t.write(u16::from(place::MSI) + 16, PortWidth::Dword, 0);
    assert_eq!(t.config(MSI_CONTROL, PortWidth::Word), 0x181);
    assert_eq!([word(4), word(12), word(16)], [0xfee0_0000, 0x40 + pirq, 1], "not bound: masked");
    let port = pirq::bind_pirq(hv, m, &t.dom0, pirq).unwrap();
    assert_eq!(word(16), 0);
    crate::evtchn::close(hv, m, &t.dom0, port).unwrap();
    assert_eq!(word(16), 1);
    t.unmap(pirq).unwrap();
    assert_eq!(t.config(MSI_CONTROL, PortWidth::Word), 0x180, "switched off");
    t.write(u16::from(place::MSI) + 4, PortWidth::Dword, 0x1000);
    assert_eq!(word(4), 0x1000, "its own again");
    assert!(t.is_clean());
}

#[test]
fn xsa_337_registers_that_lie_reach_neither_memory_nor_controllers() {
    for (what, register, value) in [
        ("RAM", 0x14, 0x0000_1004_u64),
        ("past the machine's addresses", 0x14, 0xffff_ffff_0000_0004),
        ("ports", 0x14, 0x0000_c001),
        ("nowhere", 0x14, 4),
        ("a controller", 0x14, 0xe_dfff_f004),
        ("no such BAR", place::MSIX + 4, 0x2001_0000_1007),
        ("pending bits in RAM", place::MSIX + 8, 0),
    ] {
        let t = World::new();
        let denied = Mfn::new(0xee_0000);
        t.w.hv.frames.deny_device_range(denied, Mfn::new(denied.raw() + 1));
        t.w.m.devices.set_config(8, register, &value.to_le_bytes());
        assert_eq!(t.map(Which::Entry(0)), Err(Errno::NxIo), "{what}");
        assert!(t.is_clean(), "{what}");
    }
    let t = World::new();
    t.w.m.devices.set_config(8, 4, &[0]);
    assert_eq!(t.map(Which::Entry(0)), Err(Errno::NxIo), "it does not answer in memory");
    t.w.m.devices.set_config(8, 0, &[0xff; 256]);
    assert_eq!(t.map(Which::Entry(0)), Err(Errno::NxIo), "it is gone");
}

#[test]
fn a_capability_at_the_end_of_the_space_does_not_reach_the_header() {
    for (what, at, bytes) in [
        ("64-bit address and mask", 0xec, [5, 0, 0x80, 1]),
        ("64-bit address", 0xf4, [5, 0, 0x80, 0]),
        ("a table", 0xf8, [0x11, 0, 3, 0]),
    ] {
        let t = World::new();
        t.w.m.devices.set_config(8, 0x34, &[at]);
        t.w.m.devices.set_config(8, at, &bytes);
        t.w.hv.pci.remove(&t.w.hv.frames, &t.w.m, &t.dom0, DEVICE).unwrap();
        t.w.hv.pci.add(&t.w.m, &t.dom0, DEVICE).unwrap();
        assert_eq!(t.map(Which::Single), Err(Errno::NoDev), "{what}");
        assert_eq!(t.map(Which::Entry(0)), Err(Errno::NoDev), "{what}");
    }
}

#[test]
fn a_table_that_a_restore_has_switched_on_stays_read_only() {
    let t = World::new();
    let pirq = t.map(Which::Entry(0)).unwrap();
    t.w.hv.pci.lock().restore(&t.w.hv.frames, &t.w.m, DEVICE).unwrap();
    t.unmap(pirq).unwrap();
    assert_eq!(t.config(MSIX_CONTROL, PortWidth::Word), 0x8003, "switched on");
    assert!(t.is_read_only());
    t.write(MSIX_CONTROL, PortWidth::Word, 3);
    assert!(t.is_clean());
}

#[test]
fn a_moved_table_is_left_alone_until_it_is_restored() {
    let t = World::new();
    let pirq = t.map(Which::Entry(0)).unwrap();
    t.write(0x14, PortWidth::Dword, 0xd000_0004);
    pirq::bind_pirq(&t.w.hv, &t.w.m, &t.dom0, pirq).unwrap();
    let elsewhere = 0xf_d000_1000;
    assert_eq!(t.w.m.register_read(elsewhere + CONTROL, PortWidth::Dword), 0);
    assert!(t.is_masked(0), "what lies at the old place is somebody else's now");
    let restore = || t.w.hv.pci.lock().restore(&t.w.hv.frames, &t.w.m, DEVICE);
    assert_eq!(restore(), Err(Errno::Inval));
    t.write(0x14, PortWidth::Dword, 0xe000_0004);
    assert_eq!(restore(), Ok(()));
    assert!(!t.is_masked(0));
    assert_eq!(t.config(MSIX_CONTROL, PortWidth::Word), 0x8003, "switched on");
}

#[test]
fn of_the_table_s_capability_dom0_writes_the_control_alone() {
    let t = World::new();
    let before: alloc::vec::Vec<_> =
        (0..3).map(|n| t.config(u16::from(place::MSIX) + 4 * n, PortWidth::Dword)).collect();
    for offset in 0..12 {
        t.write(u16::from(place::MSIX) + offset, PortWidth::Byte, 0x5a);
    }
    for offset in [0, 4, 8] {
        t.write(u16::from(place::MSIX) + offset, PortWidth::Dword, 0x5a5a_5a5a);
    }
    let after: alloc::vec::Vec<_> =
        (0..3).map(|n| t.config(u16::from(place::MSIX) + 4 * n, PortWidth::Dword)).collect();
    assert_eq!(before, after);
    t.write(MSIX_CONTROL, PortWidth::Word, 0xc003);
    assert_eq!(t.config(MSIX_CONTROL, PortWidth::Word), 0xc003);
    assert!(t.is_read_only(), "a dom0 maps the table after it has switched it on");
    t.write(MSIX_CONTROL, PortWidth::Word, 3);
    assert!(!t.is_read_only());
    t.write(0x3c, PortWidth::Byte, 11);
    assert_eq!(t.config(0x3c, PortWidth::Byte), 11, "other registers are its own");
}

#[test]
fn xsa_87_tables_are_prepared_and_released_once() {
    let t = World::new();
    let prepare = |at| t.w.hv.pci.lock().prepare_table(&t.w.hv.frames, &t.w.m, at);
    let release = |at| t.w.hv.pci.lock().release_table(&t.w.hv.frames, at);
    assert_eq!(release(DEVICE), Err(Errno::Busy));
    assert_eq!(prepare(Address { devfn: 16, ..DEVICE }), Err(Errno::NoDev));
    assert_eq!(prepare(DEVICE), Ok(()));
    assert_eq!(prepare(DEVICE), Err(Errno::Busy));
    assert!(t.is_read_only());
    let pirq = t.map(Which::Entry(1)).unwrap();
    assert_eq!(release(DEVICE), Err(Errno::Busy));
    t.unmap(pirq).unwrap();
    assert_eq!(release(DEVICE), Ok(()));
    assert!(t.is_clean());
}

#[test]
fn xsa_360_vectors_and_numbers_come_back() {
    let t = World::new();
    let (hv, m) = (&t.w.hv, &t.w.m);
    for _ in 0..100 {
        let pirqs = [0, 1, 2, 3].map(|n| t.map(Which::Entry(n)).unwrap());
        pirqs.iter().for_each(|pirq| t.unmap(*pirq).unwrap());
    }
    assert!(t.is_clean());
    // Devices with more messages than there are vectors.
    let others: alloc::vec::Vec<_> = (2..4).map(|n| Address { devfn: n * 8, ..DEVICE }).collect();
    for other in &others {
        m.devices.plug(other.devfn.into());
        hv.pci.add(m, &t.dom0, *other).unwrap();
    }
    let map = |at, n| pirq::message::map(hv, m, &t.dom0, (at, Which::Entry(n)), None);
    let all: alloc::vec::Vec<_> = others.iter().flat_map(|at| (0..4).map(|n| map(*at, n))).collect();
    assert_eq!(all.iter().filter(|r| **r == Err(Errno::NoSpc)).count(), 2);
    all.iter().flatten().for_each(|pirq| t.unmap(*pirq).unwrap());
    assert!(t.is_clean());
}

#[test]
fn xsa_13_reserved_numbers_are_kept_for_who_asked() {
    let t = World::new();
    let (hv, m) = (&t.w.hv, &t.w.m);
    let reserved = pirq::message::reserve(hv, m, &t.dom0).unwrap();
    assert_eq!(pirq::bind_pirq(hv, m, &t.dom0, reserved), Err(Errno::Inval));
    let other = t.map(Which::Entry(0)).unwrap();
    assert_ne!(other, reserved);
    let wanted = |pirq| pirq::message::map(hv, m, &t.dom0, (DEVICE, Which::Entry(1)), Some(pirq));
    assert_eq!(wanted(other), Err(Errno::Exist));
    assert_eq!(wanted(m.nr_pirqs()), Err(Errno::Inval));
    assert_eq!(wanted(17), Err(Errno::Inval), "a line's number");
    assert_eq!(wanted(reserved), Ok(reserved));
    let free = m.nr_pirqs() - m.nr_gsis() - 2;
    assert_eq!((0..free).filter(|_| pirq::message::reserve(hv, m, &t.dom0).is_err()).count(), 0);
    assert_eq!(pirq::message::reserve(hv, m, &t.dom0), Err(Errno::NoSpc));
}

#[test]
fn a_device_that_is_taken_away_and_a_domain_that_ends_leave_nothing() {
    let t = World::new();
    let (hv, m) = (&t.w.hv, &t.w.m);
    let pirq = t.map(Which::Entry(0)).unwrap();
    pirq::bind_pirq(hv, m, &t.dom0, pirq).unwrap();
    t.write(MSIX_CONTROL, PortWidth::Word, 0x8003);
    assert_eq!(hv.pci.remove(&hv.frames, m, &t.dom0, DEVICE), Ok(()));
    assert!(t.is_clean() && t.is_masked(0));
    assert_eq!(t.config(MSIX_CONTROL, PortWidth::Word), 3, "switched off");
    assert_eq!(t.map(Which::Entry(0)), Err(Errno::NoDev));
    hv.pci.add(m, &t.dom0, DEVICE).unwrap();
    let again = t.map(Which::Entry(0)).unwrap();
    assert_ne!(again, pirq, "the old number is the domain's until it is unmapped");
    pirq::bind_pirq(hv, m, &t.dom0, again).unwrap();
    assert_eq!(crate::evtchn::destroy(hv, m, &t.dom0), Ok(()));
    assert!(t.is_clean() && t.is_masked(0));
}

#[test]
fn a_guest_has_no_messages() {
    let t = World::new();
    let guest = t.w.add_domain(DomId::new(1), Privilege::Unprivileged, 8).0;
    let (hv, m) = (&t.w.hv, &t.w.m);
    assert_eq!(pirq::message::map(hv, m, &guest, (DEVICE, Which::Entry(0)), None), Err(Errno::Perm));
    assert_eq!(pirq::message::reserve(hv, m, &guest), Err(Errno::Perm));
    let pirq = t.map(Which::Entry(0)).unwrap();
    assert_eq!(pirq::unmap(hv, m, &guest, pirq), Err(Errno::Inval));
    assert_eq!(pirq::bind_pirq(hv, m, &guest, pirq), Err(Errno::Perm));
}

/// What dom0 does, in any order: nothing is lost of vectors, numbers and frames, and what is in use stays protected.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u16),
    MapSingle,
    Reserve,
    Unmap(u32),
    Bind(u32),
    Close(u32),
    Write(u16, u32),
    Prepare,
    Release,
    Restore,
    Remove,
    Add,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u16).prop_map(Step::Map),
        2 => Just(Step::MapSingle),
        1 => Just(Step::Reserve),
        4 => (0..8_u32).prop_map(Step::Unmap),
        4 => (0..8_u32).prop_map(Step::Bind),
        4 => (1..8_u32).prop_map(Step::Close),
        3 => (0..4_u32).prop_map(|bits| Step::Write(MSIX_CONTROL, bits << 14 | 3)),
        // The table's BAR: where it was, elsewhere, in RAM.
        2 => (0..3_usize).prop_map(|at| Step::Write(0x14, [0xe000_0004, 0xd000_0004, 0x1004][at])),
        1 => (0..2_u32).prop_map(|decodes| Step::Write(4, decodes << 1)),
        1 => Just(Step::Prepare),
        1 => Just(Step::Release),
        1 => Just(Step::Restore),
        1 => Just(Step::Remove),
        1 => Just(Step::Add),
    ]
}

impl World {
    fn take(&self, step: Step) {
        let (hv, m, dom0) = (&self.w.hv, &self.w.m, &self.dom0);
        let pirq = |number| m.nr_pirqs() - 1 - number;
        let _any = match step {
            Step::Map(number) => self.map(Which::Entry(number)).map(drop),
            Step::MapSingle => self.map(Which::Single).map(drop),
            Step::Reserve => pirq::message::reserve(hv, m, dom0).map(drop),
            Step::Unmap(number) => self.unmap(pirq(number)),
            Step::Bind(number) => pirq::bind_pirq(hv, m, dom0, pirq(number)).map(drop),
            Step::Close(port) => crate::evtchn::close(hv, m, dom0, EvtchnPort::new(port)),
            Step::Write(register, value) => {
                let width = if register == 0x14 { PortWidth::Dword } else { PortWidth::Word };
                self.write(register, width, value);
                Ok(())
            }
            Step::Prepare => hv.pci.lock().prepare_table(&hv.frames, m, DEVICE),
            Step::Release => hv.pci.lock().release_table(&hv.frames, DEVICE),
            Step::Restore => hv.pci.lock().restore(&hv.frames, m, DEVICE),
            Step::Remove => hv.pci.remove(&hv.frames, m, dom0, DEVICE),
            Step::Add => hv.pci.add(m, dom0, DEVICE),
        };
    }

    fn check(&self) {
        let state = self.w.hv.pci.lock();
        assert_eq!(self.w.m.devices.vectors(), state.senders.len(), "vectors");
        let entries = state.senders.iter().filter(|sender| sender.which != Which::Single).count();
        assert!(entries == 0 || entries == state.senders.len(), "both kinds");
        let device = state.known.first();
        let uses = device.is_some_and(|device| device.enabled || device.prepared) || entries != 0;
        let table = device.and_then(|device| device.table);
        assert_eq!(table.is_some(), uses, "protected as long as it is in use");
        assert_eq!(self.w.hv.frames.read_only_devices().is_empty(), !uses);
        for sender in &state.senders {
            let others = state.senders.iter().filter(|other| other.pirq == sender.pirq).count();
            assert_eq!(others, 1, "a pirq of two messages");
        }
    }
}

proptest! {
    #[test]
    fn walks_of_a_dom0_lose_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let t = World::new();
        for step in steps {
            t.take(step);
            t.check();
        }
        assert_eq!(crate::evtchn::destroy(&t.w.hv, &t.w.m, &t.dom0), Ok(()));
        assert_eq!(t.w.m.devices.vectors(), 0);
        let _known = t.w.hv.pci.remove(&t.w.hv.frames, &t.w.m, &t.dom0, DEVICE);
        assert!(t.is_clean());
    }
}
