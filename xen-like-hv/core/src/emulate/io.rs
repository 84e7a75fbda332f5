//! I/O ports.
//!
//! An instruction may use ports if the guest's virtual IOPL allows it; that is the guest kernel's own affair. Which ports
//! then reach the machine is decided by the domain's privilege: all of them for a control domain, but for the
//! hypervisor's own devices; none for others. A port that is not reached reads as all ones and swallows writes, like
//! one where nothing is.

use core::sync::atomic::Ordering::Relaxed;

use hv_sync::{SpinLock, rank};
use pv_abi::ids::GuestVa;
use pv_abi::vm_assist::VmAssist;

use super::decode::{Direction, PortOperand, Segment};
use super::{Step, next_if};
use crate::access;
use crate::cx::Cx;
use crate::entry::GuestMode;
use crate::entry::trap::PF;
use crate::hypercall::guest_ptr::access_ok;
use crate::pci::{self, ConfigWrite};
use crate::port::{Machine, PortWidth};

/// Address of the configuration mechanism.
const PCI_ADDRESS: u16 = 0xcf8;
/// Data window of the configuration mechanism: four bytes.
const PCI_DATA: u16 = 0xcfc;
/// Where IOPL lies in the flags.
const IOPL_SHIFT: u32 = 12;
/// Direction flag.
const RFLAGS_DF: u64 = 1 << 10;
/// #PF error code: a write.
const PF_WRITE: u32 = 1 << 1;
/// Units a repeated instruction moves before it looks around.
const BATCH: u64 = 256;

/// Ports of the hypervisor's own devices, first and last: interrupt controllers, timer and its gate, first serial port.
const OWN: [(u16, u16); 5] = [(0x20, 0x21), (0xa0, 0xa1), (0x40, 0x43), (0x61, 0x61), (0x3f8, 0x3ff)];

/// The address a domain has written to the PCI configuration mechanism.
#[derive(Debug)]
pub struct PciConfig(SpinLock<u32>);

impl Default for PciConfig {
    fn default() -> Self {
        PciConfig(SpinLock::new(rank::PCI_CONFIG, 0))
    }
}

/// Bytes of a width, and the mask of its bits.
const fn size_of_width(width: PortWidth) -> (u16, u32) {
    let mask = match width {
        PortWidth::Byte => 0xff,
        PortWidth::Word => 0xffff,
        PortWidth::Dword => u32::MAX,
    };
    (width.bytes(), mask)
}

/// Whether the running half of the guest may use I/O instructions and the interrupt flag. The kernel counts as ring 1,
/// or as ring 0 where it has asked for the architecture's rules.
pub(super) fn has_iopl<M: Machine>(cx: &Cx<'_, M>) -> bool {
    let iopl = cx.vcpu.entry.iopl.load(Relaxed) >> IOPL_SHIFT & 3;
    let ring = match cx.vcpu.entry.mode() {
        GuestMode::User => 3,
        GuestMode::Kernel if cx.dom.has_assist(VmAssist::ArchitecturalIopl) => 0,
        GuestMode::Kernel => 1,
    };
    ring <= iopl
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The machine's port.
    Machine,
    /// The domain's own configuration address.
    ConfigAddress,
    /// The machine's configuration data, after its address was set.
    ConfigData,
    /// Nowhere.
    Nothing,
}

fn target<M: Machine>(cx: &Cx<'_, M>, port: u16, width: PortWidth) -> Target {
    let (bytes, _) = size_of_width(width);
    let Some(last) = port.checked_add(bytes - 1) else { return Target::Nothing };
    if access::control(cx.dom).is_err() || OWN.iter().any(|&(start, end)| port <= end && start <= last) {
        return Target::Nothing;
    }
    match (port, width) {
        (PCI_ADDRESS, PortWidth::Dword) => Target::ConfigAddress,
        (PCI_DATA..=0xcff, _) if last <= 0xcff => Target::ConfigData,
        // Part of the window and part of what is behind or before it.
        _ if last >= PCI_DATA && port <= 0xcff => Target::Nothing,
        _ => Target::Machine,
    }
}

fn read<M: Machine>(cx: &Cx<'_, M>, port: u16, width: PortWidth) -> u32 {
    let (_, mask) = size_of_width(width);
    let value = match target(cx, port, width) {
        Target::Machine => cx.m.port_in(port, width),
        Target::ConfigAddress => *cx.dom.pci.0.lock(),
        Target::ConfigData => {
            let address = *cx.dom.pci.0.lock();
            let offset = offset_in_window(port);
            pci::named_by(address, offset).map_or(u32::MAX, |_| cx.m.config_read(address, offset, width))
        }
        Target::Nothing => u32::MAX,
    };
    value & mask
}

/// Which byte of the data window a port is.
fn offset_in_window(port: u16) -> u8 {
    u8::try_from(port - PCI_DATA).unwrap_or(0)
}

/// Writes to configuration space what a control domain may write there.
fn write_config<M: Machine>(cx: &Cx<'_, M>, offset: u8, width: PortWidth, value: u32) {
    let address = *cx.dom.pci.0.lock();
    let Some((at, register)) = pci::named_by(address, offset) else { return };
    cx.hv.pci.guest_write(&cx.hv.frames, cx.m, at, ConfigWrite { register, width, value }, |value| {
        cx.m.config_write(address, offset, width, value);
    });
}

fn write<M: Machine>(cx: &Cx<'_, M>, port: u16, width: PortWidth, value: u32) {
    let (_, mask) = size_of_width(width);
    let value = value & mask;
    match target(cx, port, width) {
        Target::Machine => cx.m.port_out(port, width, value),
        Target::ConfigAddress => *cx.dom.pci.0.lock() = value,
        Target::ConfigData => write_config(cx, offset_in_window(port), width, value),
        Target::Nothing => {}
    }
}

fn dx<M: Machine>(cx: &Cx<'_, M>) -> u16 {
    u16::try_from(cx.regs.rdx & 0xffff).unwrap_or(0)
}

/// IN and OUT.
pub(super) fn port_instruction<M: Machine>(
    cx: &mut Cx<'_, M>,
    direction: Direction,
    port: PortOperand,
    width: PortWidth,
) -> Step {
    if !has_iopl(cx) {
        return next_if(false);
    }
    let port = match port {
        PortOperand::Immediate(number) => u16::from(number),
        PortOperand::Dx => dx(cx),
    };
    let (_, mask) = size_of_width(width);
    match direction {
        Direction::In => {
            let value = u64::from(read(cx, port, width));
            // A 32-bit result clears the upper half, smaller ones leave the rest.
            let kept = if width == PortWidth::Dword { 0 } else { cx.regs.rax & !u64::from(mask) };
            cx.regs.rax = kept | value;
        }
        Direction::Out => write(cx, port, width, u32::try_from(cx.regs.rax & u64::from(mask)).unwrap_or(0)),
    }
    Step::Next
}

/// INS or OUTS.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringIo {
    pub(super) direction: Direction,
    pub(super) width: PortWidth,
    pub(super) repeated: bool,
    pub(super) short_addresses: bool,
    pub(super) segment: Segment,
}

impl StringIo {
    /// Bits that count of the address and count registers.
    fn mask(&self) -> u64 {
        if self.short_addresses { 0xffff_ffff } else { u64::MAX }
    }
}

/// INS and OUTS, up to [`BATCH`] units at a time.
pub(super) fn string_instruction<M: Machine>(cx: &mut Cx<'_, M>, string: &StringIo) -> Step {
    if !has_iopl(cx) {
        return next_if(false);
    }
    let mask = string.mask();
    let mut left = if string.repeated { cx.regs.rcx & mask } else { 1 };
    for _ in 0..BATCH {
        if left == 0 {
            return Step::Next;
        }
        if let Some(fault) = string_unit(cx, string) {
            return fault;
        }
        left -= 1;
        if string.repeated {
            cx.regs.rcx = left;
        }
    }
    if left == 0 { Step::Next } else { Step::Again }
}

/// One unit of a string instruction: port and memory, then the address register. Nothing has changed where it faults, but
/// for a device that was read: the guest has alleged a buffer that is not there.
fn string_unit<M: Machine>(cx: &mut Cx<'_, M>, string: &StringIo) -> Option<Step> {
    let (bytes, _) = size_of_width(string.width);
    let mask = string.mask();
    let port = dx(cx);
    let mut buffer = [0; 4];
    let part = buffer.get_mut(..usize::from(bytes))?;
    let register = match string.direction {
        Direction::In => cx.regs.rdi,
        Direction::Out => cx.regs.rsi,
    };
    let base = match (string.direction, string.segment) {
        // The destination is always relative to ES.
        (Direction::In, _) | (_, Segment::Flat) => 0,
        (_, Segment::Fs) => cx.m.fs_base(),
        (_, Segment::Gs) => cx.m.gs_base(),
    };
    let at = GuestVa::new(base.wrapping_add(register & mask));
    let fault = |error_code| Some(Step::Fault { vector: PF, error_code, cr2: at.raw() });
    if !access_ok(at, u64::from(bytes)) {
        return Some(next_if(false));
    }
    match string.direction {
        Direction::In => {
            part.copy_from_slice(read(cx, port, string.width).to_le_bytes().get(..usize::from(bytes))?);
            if cx.m.copy_to_guest(at, part).is_err() {
                return fault(PF_WRITE);
            }
        }
        Direction::Out => {
            if cx.m.copy_from_guest(part, at).is_err() {
                return fault(0);
            }
            write(cx, port, string.width, u32::from_le_bytes(buffer));
        }
    }
    let step = u64::from(bytes);
    let moved = if cx.regs.rflags & RFLAGS_DF == 0 {
        register.wrapping_add(step)
    } else {
        register.wrapping_sub(step)
    };
    match string.direction {
        Direction::In => cx.regs.rdi = moved & mask,
        Direction::Out => cx.regs.rsi = moved & mask,
    }
    None
}
