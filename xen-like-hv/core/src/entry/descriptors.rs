//! Descriptors: what a guest may put into its GDT and LDT.
//!
//! Invariant I11: every descriptor of a descriptor page has been through [`checked`]. Code and data segments get DPL 3;
//! of the system types only the harmless null type passes. Call gates are refused, unlike Xen: nothing uses them.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{MachAddr, Mfn};

use crate::bounded::Bounded;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::frame::{FrameError, FrameTable, PageRef, PageType, flush, types};
use crate::hypercall::GuestPtr;
use crate::port::{Cpu, Frames, Machine, Tlb};
use crate::vcpu::Vcpu;

/// Descriptors that a guest may have in its GDT; those behind are the hypervisor's.
const MAX_GDT_ENTRIES: u32 = 14 * ENTRIES_PER_FRAME;
/// Descriptors in a frame.
const ENTRIES_PER_FRAME: u32 = 512;
/// Frames of the longest LDT.
pub const MAX_LDT_FRAMES: usize = 16;

/// Descriptor bit: present.
const PRESENT: u64 = 1 << 47;
/// Descriptor bit: code or data rather than system.
const CODE_OR_DATA: u64 = 1 << 44;
/// Descriptor field: privilege level.
const DPL: u64 = 3 << 45;
/// Descriptor field: type.
const TYPE: u64 = 0xf << 40;

/// The descriptor as it may stand in a guest's table, or `None` where it may not.
#[must_use]
pub const fn checked(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & CODE_OR_DATA != 0 || descriptor & TYPE == 0 {
        return Some(descriptor | DPL);
    }
    None
}

/// The frames of a table, in place: a guest that switches tasks changes its tables all the time.
type TableFrames = Bounded<Mfn, MAX_LDT_FRAMES>;

/// The descriptor tables of a vcpu. The frames are held with a general and a descriptor-type reference each; who takes
/// them out gives those up with [`release`].
#[derive(Debug, Default)]
pub struct DescriptorTables {
    gdt: TableFrames,
    gdt_entries: u32,
    ldt: TableFrames,
    ldt_base: u64,
    ldt_entries: u32,
}

impl DescriptorTables {
    /// Frames of the GDT.
    #[must_use]
    pub fn gdt_frames(&self) -> &[Mfn] {
        self.gdt.as_slice()
    }

    /// Entries of the GDT.
    #[must_use]
    pub const fn gdt_entries(&self) -> u32 {
        self.gdt_entries
    }

    /// Frames of the LDT.
    #[must_use]
    pub fn ldt_frames(&self) -> &[Mfn] {
        self.ldt.as_slice()
    }

    /// Where the guest has its LDT, and how many entries it has.
    #[must_use]
    pub const fn ldt(&self) -> (u64, u32) {
        (self.ldt_base, self.ldt_entries)
    }
}

/// Takes a frame of `dom` as a page of descriptors: every entry is checked and given ring 3.
fn hold(hv: &FrameTable, m: &(impl Frames + Tlb + Cpu), dom: &Domain, mfn: Mfn) -> Result<Mfn, FrameError> {
    let page = hv.get_page(mfn, dom.id)?;
    hold_type(m, &page)?;
    Ok(page.into_raw())
}

/// Adds a descriptor-type reference to a general one.
fn hold_type(m: &(impl Frames + Tlb + Cpu), page: &PageRef<'_>) -> Result<(), FrameError> {
    loop {
        match types::get(page.info(), PageType::SegDesc) {
            Ok(types::TypeGot::Held) => return Ok(()),
            Ok(types::TypeGot::Claimed) => {
                let flushed = flush::before_reuse(m, page.info().stamp());
                if check_page(m, page.mfn()) {
                    types::publish(page.info(), flushed);
                    return Ok(());
                }
                types::retire(page.info());
                return Err(FrameError::WrongType);
            }
            Err(types::TypeRefused::Busy) => hv_sync::relax(),
            Err(types::TypeRefused::Mismatch) => return Err(FrameError::WrongType),
            Err(types::TypeRefused::Overflow) => return Err(FrameError::Overflow),
        }
    }
}

/// Checks all descriptors of a frame that no guest can write now, and stores what [`checked`] made of them.
fn check_page(m: &impl Frames, mfn: Mfn) -> bool {
    m.words(mfn).iter().all(|word| match checked(word.load(Relaxed)) {
        Some(fixed) => {
            word.store(fixed, Relaxed);
            true
        }
        None => false,
    })
}

fn drop_type(m: &impl Tlb, page: &PageRef<'_>) {
    if types::put(page.info()) == types::TypePut::Last {
        page.info().note_unmapped(m.flush_clock());
        types::retire(page.info());
    }
}

/// Gives up the references of frames that were taken out of a [`DescriptorTables`].
fn release(hv: &FrameTable, m: &impl Tlb, frames: &TableFrames) {
    for page in frames.as_slice().iter().filter_map(|mfn| hv.adopt(*mfn)) {
        drop_type(m, &page);
    }
}

/// Takes all of `frames`, or none.
fn hold_all(
    hv: &FrameTable,
    m: &(impl Frames + Tlb + Cpu),
    dom: &Domain,
    frames: &[u64],
) -> Result<TableFrames, Errno> {
    let mut held = TableFrames::default();
    if frames.len() > MAX_LDT_FRAMES {
        return Err(Errno::Inval);
    }
    for raw in frames {
        let taken = hold(hv, m, dom, Mfn::new(*raw)).ok();
        if taken.is_none_or(|mfn| held.push(mfn).is_err()) {
            release(hv, m, &held);
            return Err(Errno::Inval);
        }
    }
    Ok(held)
}

/// Gives a vcpu a GDT of `entries` descriptors in `frames`; none removes it. A vcpu that runs here gets it at once.
///
/// # Errors
/// `EINVAL`: too many entries, too few frames, a frame that is not the domain's or holds what [`checked`] refuses.
pub fn set_gdt<M: Machine>(
    hv: &FrameTable,
    m: &M,
    dom: &Domain,
    vcpu: &Vcpu,
    frames: &[u64],
    entries: u32,
) -> Result<(), Errno> {
    if entries > MAX_GDT_ENTRIES {
        return Err(Errno::Inval);
    }
    let needed = usize::try_from(entries.div_ceil(ENTRIES_PER_FRAME)).map_err(|_| Errno::Inval)?;
    let frames = frames.get(..needed).ok_or(Errno::Inval)?;
    if is_gdt(&vcpu.entry.tables.lock(), frames, entries) {
        return Ok(());
    }
    let new = hold_all(hv, m, dom, frames)?;
    let old = {
        let mut tables = vcpu.entry.tables.lock();
        tables.gdt_entries = entries;
        let old = core::mem::replace(&mut tables.gdt, new);
        if vcpu.sched.pcpu() == Some(m.pcpu()) {
            m.load_gdt(tables.gdt_frames(), tables.gdt_entries());
        }
        old
    };
    release(hv, m, &old);
    Ok(())
}

/// Whether these frames are the GDT that the vcpu has: held, checked and, if it runs, shown already.
fn is_gdt(tables: &DescriptorTables, frames: &[u64], entries: u32) -> bool {
    let has = tables.gdt_frames();
    tables.gdt_entries == entries
        && has.len() == frames.len()
        && has.iter().zip(frames).all(|(mfn, raw)| mfn.raw() == *raw)
}

/// Gives the running vcpu an LDT of `entries` descriptors whose pages lie in `frames`; none removes it. `base` is
/// where the guest has it, for its context.
///
/// # Errors
/// As [`set_gdt`].
pub fn set_ldt<M: Machine>(
    hv: &FrameTable,
    m: &M,
    dom: &Domain,
    vcpu: &Vcpu,
    base: u64,
    frames: &[u64],
    entries: u32,
) -> Result<(), Errno> {
    let new = hold_all(hv, m, dom, frames)?;
    let old = {
        let mut tables = vcpu.entry.tables.lock();
        (tables.ldt_base, tables.ldt_entries) = (base, entries);
        core::mem::replace(&mut tables.ldt, new)
    };
    if vcpu.sched.pcpu() == Some(m.pcpu()) {
        let tables = vcpu.entry.tables.lock();
        m.load_ldt(tables.ldt_frames(), tables.ldt_entries);
    }
    release(hv, m, &old);
    Ok(())
}

/// Gives up a vcpu's tables: it is being reset or destroyed and does not run.
pub fn clear(hv: &FrameTable, m: &impl Tlb, vcpu: &Vcpu) {
    let old = core::mem::take(&mut *vcpu.entry.tables.lock());
    release(hv, m, &old.gdt);
    release(hv, m, &old.ldt);
}

/// `HYPERVISOR_set_gdt(frames, entries)`: replaces the caller's GDT.
///
/// # Errors
/// `EINVAL` as [`set_gdt`]; `EFAULT` where the list cannot be read.
#[inline(always)]
pub fn hypercall_set_gdt<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let entries = args.low32(1);
    if entries > MAX_GDT_ENTRIES {
        return Err(Exit::Err(Errno::Inval));
    }
    let count = usize::try_from(entries.div_ceil(ENTRIES_PER_FRAME)).map_err(|_| Errno::Inval)?;
    let mut list = [0_u64; 16];
    let list = list.get_mut(..count).ok_or(Errno::Inval)?;
    let at = GuestPtr::<u64>::array(args.get(0), u64::from(entries.div_ceil(ENTRIES_PER_FRAME)))?;
    match &mut *list {
        [] => {}
        [one] => *one = at.read(cx.m)?,
        many => at.read_slice(cx.m, 0, many)?,
    }
    set_gdt(&cx.hv.frames, cx.m, cx.dom, cx.vcpu, list, entries)?;
    Ok(0)
}

/// `HYPERVISOR_update_descriptor(maddr, descriptor)`: writes one descriptor, checked, into a page of descriptors or an
/// ordinary page of the caller's.
///
/// # Errors
/// `EINVAL`: an address that is not aligned, a frame that is not the caller's or is in use as a page table, a
/// descriptor that [`checked`] refuses.
#[inline(always)]
pub fn hypercall_update_descriptor<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = MachAddr::new(args.get(0));
    let value = checked(args.get(1)).ok_or(Errno::Inval)?;
    let index = usize::try_from(at.offset() / 8).map_err(|_| Errno::Inval)?;
    if !at.raw().is_multiple_of(8) {
        return Err(Exit::Err(Errno::Inval));
    }
    let page = cx.hv.frames.get_page(at.mfn(), cx.dom.id).map_err(|_| Errno::Inval)?;
    let word = cx.m.words(page.mfn()).get(index).ok_or(Errno::Inval)?;
    if hold_existing(&page) {
        word.store(value, Relaxed);
        drop_type(cx.m, &page);
    } else {
        let _writable = cx.hv.frames.make_writable(cx.m, page).map_err(|_| Errno::Inval)?;
        word.store(value, Relaxed);
    }
    Ok(0)
}

/// A descriptor-type reference, if the page is in use as descriptors.
fn hold_existing(page: &PageRef<'_>) -> bool {
    let info = page.info().type_info();
    if !info.is_type(PageType::SegDesc) || info.count() == 0 {
        return false;
    }
    match types::get(page.info(), PageType::SegDesc) {
        Ok(types::TypeGot::Held) => true,
        Ok(types::TypeGot::Claimed) => {
            // The last user went away just now.
            types::retire(page.info());
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_get_ring_3() {
        let flat_code_ring0 = 0x00af_9b00_0000_ffff;
        assert_eq!(checked(flat_code_ring0), Some(0x00af_fb00_0000_ffff));
    }

    #[test]
    fn gates_and_task_states_are_refused() {
        for system_type in 1..16_u64 {
            assert_eq!(checked(PRESENT | system_type << 40), None, "type {system_type}");
        }
    }

    #[test]
    fn absent_descriptors_stay_as_they_are() {
        assert_eq!(checked(0x1234), Some(0x1234));
    }
}
