//! `HYPERVISOR_physdev_op`: interrupt lines, messages of PCI devices, and I/O privilege.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::physdev::{
    IrqStatus, MapPirqType, PCI_MMCFG_RESERVED, PhysdevApic, PhysdevEoi, PhysdevGetFreePirq, PhysdevIrq,
    PhysdevIrqStatusQuery, PhysdevManagePci, PhysdevMapPirq, PhysdevOp, PhysdevPciDevice,
    PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved, PhysdevPirqEoiGmfn, PhysdevSetIopl, PhysdevSetupGsi,
    PhysdevUnmapPirq,
};

use super::GuestPtr;
use crate::access;
use crate::acpi::ConfigArea;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, HypercallResult};
use crate::evtchn::{self, EoiMapVersion, pirq};
use crate::pci::Address;
use crate::pci::message::Which;
use crate::port::{GsiConfig, Machine};

/// Where RFLAGS has the I/O privilege level.
const IOPL_SHIFT: u32 = 12;

/// The hypercall: `(command, argument)`.
///
/// # Errors
/// `ENOSYS` for a command that is not offered; `EFAULT`; else what the command says.
pub fn physdev_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = args.get(1);
    match PhysdevOp::from_raw(args.low32(0)).ok_or(Errno::NoSys)? {
        PhysdevOp::Eoi => {
            let op: PhysdevEoi = GuestPtr::new(at)?.read(cx.m)?;
            pirq::eoi(cx.hv, cx.m, cx.dom, op.irq)?;
        }
        PhysdevOp::SetIopl => {
            let op: PhysdevSetIopl = GuestPtr::new(at)?.read(cx.m)?;
            if op.iopl > 3 {
                return Err(Errno::Inval.into());
            }
            cx.vcpu.entry.iopl.store(u64::from(op.iopl) << IOPL_SHIFT, Relaxed);
        }
        PhysdevOp::IrqStatusQuery => irq_status_query(cx, at)?,
        PhysdevOp::ApicRead => apic_read(cx, at)?,
        PhysdevOp::AllocIrqVector => alloc_irq_vector(cx, at)?,
        PhysdevOp::MapPirq => map_pirq(cx, at)?,
        PhysdevOp::UnmapPirq => unmap_pirq(cx, at)?,
        PhysdevOp::SetupGsi => setup_gsi(cx, at)?,
        PhysdevOp::GetFreePirq => get_free_pirq(cx, at)?,
        PhysdevOp::ManagePciAdd | PhysdevOp::ManagePciAddExt => {
            let op: PhysdevManagePci = GuestPtr::new(at)?.read(cx.m)?;
            cx.hv.pci.add(cx.m, cx.dom, on_first_segment(&op))?;
        }
        PhysdevOp::ManagePciRemove => {
            let op: PhysdevManagePci = GuestPtr::new(at)?.read(cx.m)?;
            cx.hv.pci.remove(&cx.hv.frames, cx.m, cx.dom, on_first_segment(&op))?;
        }
        PhysdevOp::PciDeviceAdd => {
            let op: PhysdevPciDeviceAdd = GuestPtr::new(at)?.read(cx.m)?;
            cx.hv.pci.add(cx.m, cx.dom, Address { segment: op.seg, bus: op.bus, devfn: op.devfn })?;
        }
        PhysdevOp::PciDeviceRemove => {
            let device = named_device(cx, at)?;
            cx.hv.pci.remove(&cx.hv.frames, cx.m, cx.dom, device)?;
        }
        PhysdevOp::PrepareMsix => {
            let device = controlled_device(cx, at)?;
            cx.hv.pci.lock().prepare_table(&cx.hv.frames, cx.m, device)?;
        }
        PhysdevOp::ReleaseMsix => {
            let device = controlled_device(cx, at)?;
            cx.hv.pci.lock().release_table(&cx.hv.frames, device)?;
        }
        PhysdevOp::RestoreMsi => {
            let op: PhysdevManagePci = GuestPtr::new(at)?.read(cx.m)?;
            access::control(cx.dom)?;
            cx.hv.pci.lock().restore(&cx.hv.frames, cx.m, on_first_segment(&op))?;
        }
        PhysdevOp::RestoreMsiExt => {
            let device = controlled_device(cx, at)?;
            cx.hv.pci.lock().restore(&cx.hv.frames, cx.m, device)?;
        }
        PhysdevOp::PciMmcfgReserved => {
            access::control(cx.dom)?;
            let op: PhysdevPciMmcfgReserved = GuestPtr::new(at)?.read(cx.m)?;
            check_config_area(cx, &op)?;
        }
        PhysdevOp::PirqEoiGmfnV1 => share_eoi_map(cx, at, EoiMapVersion::V1)?,
        PhysdevOp::PirqEoiGmfnV2 => share_eoi_map(cx, at, EoiMapVersion::V2)?,
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

/// What the older calls name.
fn on_first_segment(op: &PhysdevManagePci) -> Address {
    Address { segment: 0, bus: op.bus, devfn: op.devfn }
}

/// dom0 says whether the memory map and ACPI's methods keep an area of configuration space free. The firmware's word was
/// taken for it at boot; a dom0 whose area is another hears of that.
fn check_config_area<M: Machine>(cx: &Cx<'_, M>, op: &PhysdevPciMmcfgReserved) -> Result<(), Errno> {
    if op.flags & !PCI_MMCFG_RESERVED != 0 {
        return Err(Errno::Inval);
    }
    let is_meant = |area: &&ConfigArea| {
        (area.segment, area.first_bus, area.last_bus) == (op.segment, op.start_bus, op.end_bus)
    };
    let area = cx.hv.platform.config_areas.iter().find(is_meant).ok_or(Errno::NoDev)?;
    if area.base == op.address { Ok(()) } else { Err(Errno::Io) }
}

/// The device that an argument names.
fn named_device<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<Address, Errno> {
    let op: PhysdevPciDevice = GuestPtr::new(at)?.read(cx.m)?;
    Ok(Address { segment: op.seg, bus: op.bus, devfn: op.devfn })
}

/// The same, for a caller that may control devices.
fn controlled_device<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<Address, Errno> {
    let device = named_device(cx, at)?;
    access::control(cx.dom)?;
    Ok(device)
}

fn share_eoi_map<M: Machine>(cx: &Cx<'_, M>, at: u64, version: EoiMapVersion) -> Result<(), Errno> {
    let op: PhysdevPirqEoiGmfn = GuestPtr::new(at)?.read(cx.m)?;
    evtchn::register_eoi_map(cx.hv, cx.m, cx.dom, op.gmfn, version)
}

fn irq_status_query<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<PhysdevIrqStatusQuery>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    pirq::check_line(cx.m, op.irq)?;
    op.flags = IrqStatus::NEEDS_EOI.bits();
    ptr.write(cx.m, &op)
}

fn apic_read<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<PhysdevApic>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    access::control(cx.dom)?;
    op.value = cx.m.ioapic_read(op.apic_physbase, op.reg).ok_or(Errno::Inval)?;
    ptr.write(cx.m, &op)
}

/// The vector is the hypervisor's affair; the guest gets the line's own number to put into its tables.
fn alloc_irq_vector<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<PhysdevIrq>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    access::control(cx.dom)?;
    pirq::check_line(cx.m, op.irq)?;
    op.vector = op.irq;
    ptr.write(cx.m, &op)
}

/// The domain whose lines are meant: the caller's own, or any for a control domain.
fn subject<M: Machine>(cx: &Cx<'_, M>, raw: u16) -> Result<Arc<Domain>, Errno> {
    let id = DomId::new(raw);
    if id == DomId::SELF || id == cx.dom.id {
        return Ok(cx.dom.clone());
    }
    access::control(cx.dom)?;
    cx.hv.domains.get(id).ok_or(Errno::Srch)
}

fn map_pirq<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<PhysdevMapPirq>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    let kind = MapPirqType::from_raw(op.kind).ok_or(Errno::Inval)?;
    if kind == MapPirqType::MultiMsi && op.table_base != 0 {
        return Err(Errno::Inval);
    }
    let dom = subject(cx, op.domid)?;
    let pirq = match kind {
        MapPirqType::Gsi => map_gsi(cx, &dom, &op)?,
        MapPirqType::Msi | MapPirqType::MsiSeg | MapPirqType::MultiMsi => map_message(cx, &dom, kind, &op)?,
        MapPirqType::Unknown => return Err(Errno::Inval),
    };
    op.pirq = i32::try_from(pirq).map_err(|_| Errno::Inval)?;
    let answered = ptr.write(cx.m, &op);
    if answered.is_err() && kind != MapPirqType::Gsi {
        // A caller that does not learn of its message could not give it back; another vcpu that has guessed it keeps it.
        let _bound = pirq::unmap(cx.hv, cx.m, &dom, pirq);
    }
    answered
}

fn map_gsi<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &PhysdevMapPirq) -> Result<u32, Errno> {
    let gsi = u32::try_from(op.index).map_err(|_| Errno::Inval)?;
    // A pirq is its GSI: a guest that insists on another number is refused.
    if op.pirq >= 0 && op.pirq != op.index {
        return Err(Errno::Inval);
    }
    pirq::map(cx.hv, cx.m, dom, gsi)
}

/// Where a table is, the hypervisor finds out itself: of the caller's address counts only that there is one.
fn map_message<M: Machine>(
    cx: &Cx<'_, M>,
    dom: &Domain,
    kind: MapPirqType,
    op: &PhysdevMapPirq,
) -> Result<u32, Errno> {
    access::control(dom)?;
    if kind == MapPirqType::MultiMsi {
        // More messages of one device need interrupts to be remapped.
        match op.entry_nr {
            1 => {}
            2..=32 => return Err(Errno::OpNotSupp),
            _ => return Err(Errno::Dom),
        }
    } else if op.index != -1 {
        return Err(Errno::Inval);
    }
    let [bus, _, low, high] = op.bus.to_le_bytes();
    let segment = if kind == MapPirqType::Msi { 0 } else { u16::from_le_bytes([low, high]) };
    let [devfn, ..] = op.devfn.to_le_bytes();
    let which = if op.table_base == 0 {
        Which::Single
    } else {
        Which::Entry(u16::try_from(op.entry_nr).map_err(|_| Errno::Inval)?)
    };
    let wanted = u32::try_from(op.pirq).ok();
    pirq::message::map(cx.hv, cx.m, dom, (Address { segment, bus, devfn }, which), wanted)
}

fn unmap_pirq<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let op: PhysdevUnmapPirq = GuestPtr::new(at)?.read(cx.m)?;
    let dom = subject(cx, op.domid)?;
    pirq::unmap(cx.hv, cx.m, &dom, u32::try_from(op.pirq).map_err(|_| Errno::Inval)?)
}

fn setup_gsi<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let op: PhysdevSetupGsi = GuestPtr::new(at)?.read(cx.m)?;
    let gsi = u32::try_from(op.gsi).map_err(|_| Errno::Inval)?;
    let config = GsiConfig { level: Some(op.triggering != 0), active_low: Some(op.polarity != 0) };
    pirq::setup(cx.hv, cx.m, cx.dom, gsi, config)
}

fn get_free_pirq<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<PhysdevGetFreePirq>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    access::control(cx.dom)?;
    if op.kind == MapPirqType::Gsi.raw() {
        op.pirq = pirq::first_free(cx.hv, cx.m).ok_or(Errno::NoSpc)?;
        return ptr.write(cx.m, &op);
    }
    op.pirq = pirq::message::reserve(cx.hv, cx.m, cx.dom)?;
    let answered = ptr.write(cx.m, &op);
    if answered.is_err() {
        let _taken = pirq::unmap(cx.hv, cx.m, cx.dom, op.pirq);
    }
    answered
}
