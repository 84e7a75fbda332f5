//! Page faults of guests: what the hypervisor repairs and what the guest is told of.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::GuestVa;
use pv_abi::pte::{Level, Pte, PteFlags};
use pv_abi::vm_assist::VmAssist;

use super::leaf::Rights;
use super::ptwr::{self, Instruction};
use super::update::{LockedTable, Store, update_l1};
use super::walk::{self, Found};
use crate::Hypervisor;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::entry::GuestMode;
use crate::pci::{Address, ConfigWrite};
use crate::port::{FlushScope, Machine, PortWidth};
use crate::regs::GUEST_CS64;
use crate::vcpu::Vcpu;

/// What becomes of a guest's page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The access may be tried again, or has been carried out.
    Resume,
    /// The guest's kernel gets the fault.
    Inject,
}

/// Bits of the error code (SDM volume 3, section 4.7).
mod code {
    pub(super) const PRESENT: u32 = 1;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
    /// Protection key and whatever may come.
    pub(super) const OTHERS: u32 = !0x1f;
}

/// What a fault looks like, given the entry that its address has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The tables allow the access: a stale translation was in the way.
    Spurious,
    /// A store of the guest's kernel to a read-only mapping: perhaps to one of its L1 tables.
    ReadOnlyStore,
    /// The guest's own affair.
    Guests,
}

/// Classifies a fault. `entry` is the L1 entry of the address and what the levels above it allow.
#[must_use]
pub fn classify(error_code: u32, mode: GuestMode, entry: Option<(Pte, PteFlags)>) -> Class {
    if error_code & (code::RESERVED | code::OTHERS) != 0 {
        return Class::Guests;
    }
    let Some((pte, path)) = entry.filter(|(pte, _)| pte.is_present()) else { return Class::Guests };
    let writable = pte.flags().contains(PteFlags::RW) && path.contains(PteFlags::RW);
    let user = pte.flags().contains(PteFlags::USER) && path.contains(PteFlags::USER);
    let no_fetch = pte.flags().contains(PteFlags::NX) || path.contains(PteFlags::NX);
    let write = error_code & code::WRITE != 0;
    let fetch = error_code & code::FETCH != 0;
    if user && (!write || writable) && !(fetch && no_fetch) {
        return Class::Spurious;
    }
    let store = write && !fetch && error_code & code::PRESENT != 0;
    if store && user && !writable && mode == GuestMode::Kernel { Class::ReadOnlyStore } else { Class::Guests }
}

/// Deals with a page fault that the guest's code raised at `va`.
#[inline(always)]
pub fn guest_page_fault<M: Machine>(cx: &mut Cx<'_, M>, va: GuestVa, error_code: u32) -> FaultOutcome {
    // The CPU keeps no translation of an absent page: whatever the tables say by now, the guest's own handler decides.
    if error_code & code::PRESENT == 0 {
        return FaultOutcome::Inject;
    }
    guest_protection_fault(cx, va, error_code)
}

/// A fault of a page that was there.
#[inline(never)]
fn guest_protection_fault<M: Machine>(cx: &mut Cx<'_, M>, va: GuestVa, error_code: u32) -> FaultOutcome {
    let mode = cx.vcpu.entry.mode();
    let entry = entry_now(cx.hv, cx.m, cx.dom, cx.vcpu, va);
    match (classify(error_code, mode, entry), entry) {
        (Class::Spurious, _) => {
            cx.m.flush_local(FlushScope::Page(va));
            FaultOutcome::Resume
        }
        (Class::ReadOnlyStore, Some((pte, _))) => {
            let table = if cx.dom.has_assist(VmAssist::WritablePagetables) {
                write_table(cx, va, pte)
            } else {
                Err(Errno::Inval)
            };
            let stored = table.or_else(|_| write_device(cx, va, pte));
            stored.map_or(FaultOutcome::Inject, |()| FaultOutcome::Resume)
        }
        _ => FaultOutcome::Inject,
    }
}

/// Whether the hypervisor's own access to a guest's memory met a stale translation only, so that it may be tried again.
///
/// A guest need not flush where it gives itself a right: who still has the old translation takes a fault, and looks. The
/// hypervisor reads and writes through the same translations.
#[must_use]
pub fn own_access_was_stale<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    (dom, vcpu): (&Domain, &Vcpu),
    va: GuestVa,
    error_code: u32,
) -> bool {
    let entry = entry_now(hv, m, dom, vcpu, va);
    error_code & code::PRESENT != 0 && classify(error_code, vcpu.entry.mode(), entry) == Class::Spurious
}

/// The L1 entry that an address has in the tables that are loaded, and what the levels above it allow.
fn entry_now<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    dom: &Domain,
    vcpu: &Vcpu,
    va: GuestVa,
) -> Option<(Pte, PteFlags)> {
    let root = match vcpu.entry.mode() {
        GuestMode::Kernel => vcpu.mm.kernel_root(),
        GuestMode::User => vcpu.mm.user_root(),
    };
    let found = walk::find_l1(&hv.frames, m, dom.id, root?, va)?;
    Some((walk::entry(&hv.frames, m, dom.id, found.table, Level::L1, found.index)?, found.path))
}

/// Carries out a store to an L1 of the domain, which `mapping` maps read-only at `va`.
fn write_table<M: Machine>(cx: &mut Cx<'_, M>, va: GuestVa, mapping: Pte) -> Result<(), Errno> {
    let insn = fetch(cx)?;
    let offset = usize::try_from(va.offset()).map_err(|_| Errno::Inval)?;
    if !offset.is_multiple_of(insn.size) {
        return Err(Errno::Inval);
    }
    let page = cx.hv.frames.get_page(mapping.mfn(), cx.dom.id)?;
    let table = LockedTable::lock(page).map_err(|_| Errno::Inval)?;
    if table.level() != Level::L1 {
        return Err(Errno::Inval);
    }
    let word = cx.m.words(table.mfn()).get(offset / 8).ok_or(Errno::Inval)?;
    let rights = Rights { frames_of: cx.dom.id, devices: cx.dom.privilege };
    loop {
        let now = word.load(Relaxed);
        let effect = insn.apply(cx.regs, now, offset % 8).ok_or(Errno::Inval)?;
        if let Some(new) = effect.word {
            // Only the hardware can change the entry now: its accessed and dirty bits, at most twice.
            match update_l1(&cx.hv.frames, cx.m, word, Pte::from_raw(new), rights, Store::IfUnchanged(now)) {
                Err(Errno::Again) => continue,
                result => result?,
            }
        }
        insn.retire(cx.regs, &effect);
        return Ok(());
    }
}

/// Deals with a store to a device's read-only frame, which `mapping` maps at `va`. To configuration space it writes what may be
/// written there; to a table of messages it comes to nothing: as on Xen, a kernel that masks entries by itself goes on.
#[cold]
#[inline(never)]
fn write_device<M: Machine>(cx: &mut Cx<'_, M>, va: GuestVa, mapping: Pte) -> Result<(), Errno> {
    let mfn = mapping.mfn();
    if !cx.hv.frames.is_device(mfn) || !cx.hv.frames.read_only_devices().contains(mfn) {
        return Err(Errno::Inval);
    }
    let insn = fetch(cx)?;
    let offset = usize::try_from(va.offset()).map_err(|_| Errno::Inval)?;
    // What such an instruction reads, if it reads, is zero.
    let effect = insn.apply(cx.regs, 0, offset % 8).ok_or(Errno::Inval)?;
    if let Some(word) = effect.word {
        write_config(cx, mfn.to_maddr().raw() + va.offset(), insn.size, word);
    }
    insn.retire(cx.regs, &effect);
    Ok(())
}

/// Writes to configuration space in memory; `word` is what the eight bytes around the address become. Nowhere else, nothing,
/// and nothing of a width that configuration space does not know.
fn write_config<M: Machine>(cx: &Cx<'_, M>, at: u64, size: usize, word: u64) {
    let mut areas = cx.hv.platform.config_areas.iter();
    let named = areas.find_map(|area| Some((area.segment, area.named_by(at)?)));
    let Some((segment, (bus, devfn, register))) = named else { return };
    let width = match size {
        1 => PortWidth::Byte,
        2 => PortWidth::Word,
        4 => PortWidth::Dword,
        _ => return,
    };
    if !at.is_multiple_of(width.bytes().into()) {
        return;
    }
    let [b0, b1, b2, b3, ..] = (word >> (at % 8 * 8)).to_le_bytes();
    let value = match width {
        PortWidth::Byte => b0.into(),
        PortWidth::Word => u16::from_le_bytes([b0, b1]).into(),
        PortWidth::Dword => u32::from_le_bytes([b0, b1, b2, b3]),
    };
    let device = Address { segment, bus, devfn };
    cx.hv.pci.guest_write(&cx.hv.frames, cx.m, device, ConfigWrite { register, width, value }, |value| {
        cx.m.register_write(at, width, value);
    });
}

/// Reads and decodes the instruction at the guest's RIP: up to the end of its page first, since the next page need not
/// be there.
fn fetch<M: Machine>(cx: &Cx<'_, M>) -> Result<Instruction, Errno> {
    if cx.regs.cs & 0xffff != GUEST_CS64 {
        return Err(Errno::Inval);
    }
    let rip = cx.regs.ip();
    let in_page = usize::try_from(4096 - rip.offset()).unwrap_or(0).min(ptwr::MAX_INSTRUCTION);
    let mut bytes = [0; ptwr::MAX_INSTRUCTION];
    if let Some(insn) = fetch_bytes(cx, &mut bytes, in_page).ok().and_then(ptwr::decode) {
        return Ok(insn);
    }
    let all = fetch_bytes(cx, &mut bytes, ptwr::MAX_INSTRUCTION)?;
    ptwr::decode(all).ok_or(Errno::Inval)
}

fn fetch_bytes<'b, M: Machine>(cx: &Cx<'_, M>, bytes: &'b mut [u8], len: usize) -> Result<&'b [u8], Errno> {
    let rip = cx.regs.ip();
    if !crate::hypercall::guest_ptr::access_ok(rip, u64::try_from(len).unwrap_or(u64::MAX)) {
        return Err(Errno::Fault);
    }
    let bytes = bytes.get_mut(..len).ok_or(Errno::Fault)?;
    cx.m.copy_from_guest(bytes, rip).map_err(|_| Errno::Fault)?;
    Ok(bytes)
}

/// The entry that an address of the running guest's kernel has now: for handlers that change it.
#[must_use]
pub fn find_kernel_entry<M: Machine>(cx: &Cx<'_, M>, va: GuestVa) -> Option<Found> {
    let root = cx.vcpu.mm.kernel_root()?;
    walk::find_l1(&cx.hv.frames, cx.m, cx.dom.id, root, va)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: PteFlags = PteFlags::RW.union(PteFlags::USER);

    fn rw() -> Option<(Pte, PteFlags)> {
        Some((Pte::from_raw(0x5067), PATH))
    }
    fn ro() -> Option<(Pte, PteFlags)> {
        Some((Pte::from_raw(0x5065), PATH))
    }

    #[test]
    fn an_access_that_the_tables_allow_was_stale() {
        for error in [4, 5, 6, 7, 0x14] {
            assert_eq!(classify(error, GuestMode::Kernel, rw()), Class::Spurious, "{error:#x}");
        }
        assert_eq!(classify(5, GuestMode::User, ro()), Class::Spurious);
    }

    #[test]
    fn a_kernel_store_to_a_read_only_page_may_be_to_a_table() {
        assert_eq!(classify(7, GuestMode::Kernel, ro()), Class::ReadOnlyStore);
        assert_eq!(classify(7, GuestMode::User, ro()), Class::Guests);
    }

    #[test]
    fn reserved_bits_and_keys_are_never_spurious() {
        for error in [0xd, 0x2d, 0x8005] {
            assert_eq!(classify(error, GuestMode::Kernel, rw()), Class::Guests, "{error:#x}");
        }
    }

    #[test]
    fn absent_and_forbidden_are_the_guests() {
        assert_eq!(classify(4, GuestMode::Kernel, None), Class::Guests);
        assert_eq!(classify(4, GuestMode::Kernel, Some((Pte::from_raw(0x5066), PATH))), Class::Guests);
        let nx = Some((Pte::from_raw(0x5067 | 1 << 63), PATH));
        assert_eq!(classify(0x15, GuestMode::Kernel, nx), Class::Guests);
        let path_ro = Some((Pte::from_raw(0x5067), PteFlags::USER));
        assert_eq!(classify(7, GuestMode::User, path_ro), Class::Guests);
    }
}
