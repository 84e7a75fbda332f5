//! A message-signalled interrupt of a device arrives as an event as long as it is bound, can be given back and had again; and
//! the page that tells which interrupts want an end is shared once.
//!
//! The device is QEMU's `edu`, whose register 0x60 raises an interrupt and whose register 0x64 takes it back.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, MachAddr};
use pv_abi::physdev::{MapPirqType, PhysdevMapPirq, PhysdevOp};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::vmap;
use pv_guest_kernel::privileged::pci::{self, Function};
use pv_guest_kernel::privileged::pirq::{self, Irq};
use pv_guest_kernel::privileged::ports;
use pv_guest_kernel::{Context, task, time};
use test_guests::frames::Frame;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(messages_of_a_device_arrive);

/// Vendor and device.
const EDU: (u16, u16) = (0x1234, 0x11e8);
const PATIENCE: Duration = Duration::from_secs(10);
const RAISE: usize = 0x60;
const LOWER: usize = 0x64;
const MULTIPLE: u32 = MapPirqType::MultiMsi.raw();

fn messages_of_a_device_arrive(_: &'static Context) -> Claim {
    ports::enable()?;
    let device = pci::functions(1).find(|function| function.identity() == Some(EDU));
    let device = device.ok_or(Trouble::Skip("the machine has no such device".into()))?;
    pirq::add_pci_function(device)?;
    shared_once()?;
    wrong_maps_are_refused(device)?;
    // In memory, and master of the bus: a message is a write.
    device.write_u16(4, device.read_u16(4) | 6);
    let bar = u64::from(device.read_u32(0x10) & !0xf);
    let registers = vmap::map_device(MachAddr::new(bar), 1)?;
    let registers = registers.area();
    let raise = registers.view::<AtomicU32>(RAISE);
    let lower = registers.view::<AtomicU32>(LOWER);
    for round in 1..=2 {
        let irq = Irq::bind_msi(device, None)?;
        switch_on(device)?;
        for event in 1..=20 {
            raise.store(1, Release);
            let came = task::block_on(time::timeout(PATIENCE, irq.wait()));
            ensure!(came.is_some(), "round {round}: event {event} did not come");
            lower.store(1, Release);
            irq.eoi();
        }
        let number = irq.number();
        drop(irq);
        raise.store(1, Release);
        lower.store(1, Release);
        pirq::unmap(number)?;
        ensure_eq!(pirq::unmap(number), Err(Errno::Inval), "giving it back again");
    }
    ensure_eq!(registers.view::<AtomicU32>(0).load(Acquire) & 0xff, 0xed, "the device's own register");
    Ok(())
}

/// The control word of the capability for messages.
fn switch_on(device: Function) -> Claim {
    const MESSAGES: u8 = 5;
    let mut at = device.read_u8(0x34);
    while at != 0 && device.read_u8(at) != MESSAGES {
        at = device.read_u8(at + 1);
    }
    ensure!(at != 0, "the device has no messages");
    device.write_u16(at + 2, device.read_u16(at + 2) | 1);
    Ok(())
}

fn shared_once() -> Claim {
    // Shared for good: it must not come back to the allocator.
    let page: &'static Frame = alloc::boxed::Box::leak(alloc::boxed::Box::new(Frame::new()?));
    ensure_eq!(
        pirq::share_eoi_map(pv_abi::ids::Mfn::new(1 << 40)),
        Err(Errno::Inval),
        "a frame that is none"
    );
    ensure_eq!(pirq::share_eoi_map(page.mfn()), Ok(()), "sharing a page");
    ensure_eq!(pirq::share_eoi_map(page.mfn()), Err(Errno::Busy), "sharing it again");
    Ok(())
}

fn wrong_maps_are_refused(device: Function) -> Claim {
    let map = |change: fn(&mut PhysdevMapPirq)| {
        let mut argument = PhysdevMapPirq {
            domid: DomId::SELF.raw(),
            kind: MapPirqType::MsiSeg.raw(),
            index: -1,
            pirq: -1,
            bus: i32::from(device.bus),
            devfn: i32::from(device.devfn()),
            ..PhysdevMapPirq::default()
        };
        change(&mut argument);
        let args = [u64::from(PhysdevOp::MapPirq.raw()), call::address_mut(&mut argument)];
        call::call(Hypercall::PhysdevOp, args)
    };
    call::refused("a device that is none", map(|m| m.devfn = 0xf8), Errno::NoDev)?;
    call::refused("a table that is none", map(|m| m.table_base = 0x1000), Errno::NoDev)?;
    call::refused("no kind", map(|m| m.kind = 9), Errno::Inval)?;
    call::refused("no messages", map(|m| (m.kind, m.entry_nr) = (MULTIPLE, 0)), Errno::Dom)?;
    call::refused("two messages", map(|m| (m.kind, m.entry_nr) = (MULTIPLE, 2)), Errno::OpNotSupp)?;
    call::refused("messages of a table", map(|m| (m.kind, m.table_base) = (MULTIPLE, 1)), Errno::Inval)
}
