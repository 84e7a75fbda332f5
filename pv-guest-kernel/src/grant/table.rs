//! This domain's grant table, and pages that it grants.
//!
//! An entry is one 64-bit word. The hypervisor sets its "reading" and "writing" bits while the other domain has the frame
//! mapped, and an entry in use cannot be taken back: its frame is then kept for ever.

#![expect(unsafe_code, reason = "the table is shared with the hypervisor, seen only as atomics")]

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::grant::{
    GnttabOp, GnttabQuerySize, GnttabSetupTable, GrantEntryV1, GrantFlags, NR_RESERVED_ENTRIES,
    V1_ENTRIES_PER_FRAME,
};
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::{Access, GrantError};
use crate::hypercall::{self, Errno, address_of};
use crate::memory::pages::{Area, SharedPages};
use crate::memory::vmap;
use crate::sync::IrqLock;

type Frame = [AtomicU64; V1_ENTRIES_PER_FRAME as usize];

struct Table {
    frames: Vec<&'static Frame>,
    /// References that are free.
    free: Vec<u32>,
    max_frames: u32,
}

static TABLE: IrqLock<Table> = IrqLock::new(Table { frames: Vec::new(), free: Vec::new(), max_frames: 0 });
/// Serialises [`grow`], which maps memory and so cannot hold the table's lock.
static GROWING: IrqLock<()> = IrqLock::new(());
static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Pages that can never be used again, because another domain did not let go of them.
#[must_use]
pub fn leaked_pages() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// Adds a frame to the table.
fn grow() -> Result<(), GrantError> {
    let have = TABLE.lock().frames.len();
    let max = query_max_frames()?;
    let wanted = u32::try_from(have + 1).map_err(|_| Errno::Inval)?;
    if wanted > max {
        return Err(Errno::NoSpc.into());
    }
    let mut list = alloc::vec![0_u64; have + 1];
    let mut argument = GnttabSetupTable {
        dom: DomId::SELF.raw(),
        nr_frames: wanted,
        frame_list: address_of(list.as_mut_ptr()),
        ..GnttabSetupTable::default()
    };
    // SAFETY: the list has room for that many frames and is ours.
    unsafe { hypercall::grant_table_op(GnttabOp::SetupTable, core::slice::from_mut(&mut argument)) }?;
    GrantError::check(argument.status)?;
    let area: Area<'static> = vmap::map_shared(&[Mfn::new(list[have])])?.leak();
    let frame: &'static Frame = area.view(0);
    let first = u32::try_from(have).map_err(|_| Errno::Inval)? * V1_ENTRIES_PER_FRAME;
    let fresh = (first..first + V1_ENTRIES_PER_FRAME).rev().filter(|gref| *gref >= NR_RESERVED_ENTRIES);
    let mut table = TABLE.lock();
    table.frames.push(frame);
    table.free.extend(fresh);
    table.max_frames = max;
    Ok(())
}

fn query_max_frames() -> Result<u32, GrantError> {
    let mut argument = GnttabQuerySize { dom: DomId::SELF.raw(), ..GnttabQuerySize::default() };
    // SAFETY: the structure of this operation; it holds no address.
    unsafe { hypercall::grant_table_op(GnttabOp::QuerySize, core::slice::from_mut(&mut argument)) }?;
    GrantError::check(argument.status)?;
    Ok(argument.max_nr_frames)
}

fn take_reference() -> Result<u32, GrantError> {
    loop {
        if let Some(gref) = TABLE.lock().free.pop() {
            return Ok(gref);
        }
        let _growing = GROWING.lock();
        if TABLE.lock().free.is_empty() {
            grow()?;
        }
    }
}

fn entry(gref: u32) -> Option<&'static AtomicU64> {
    let (frame, slot) = (gref / V1_ENTRIES_PER_FRAME, gref % V1_ENTRIES_PER_FRAME);
    let frame = *TABLE.lock().frames.get(usize::try_from(frame).ok()?)?;
    frame.get(usize::try_from(slot).ok()?)
}

/// Lets `to` use a frame.
fn grant(to: DomId, frame: Mfn, access: Access) -> Result<GrantRef, GrantError> {
    let frame = u32::try_from(frame.raw()).map_err(|_| Errno::Range)?;
    let gref = take_reference()?;
    let flags = match access {
        Access::Read => GrantFlags::PERMIT_ACCESS | GrantFlags::READONLY,
        Access::ReadWrite => GrantFlags::PERMIT_ACCESS,
    };
    let word = GrantEntryV1 { flags: flags.bits(), domid: to.raw(), frame }.to_word();
    if let Some(entry) = entry(gref) {
        entry.store(word, Ordering::Release);
    }
    Ok(GrantRef::new(gref))
}

/// Takes a grant back; false if the other domain still uses it.
fn end(gref: GrantRef) -> bool {
    let Some(entry) = entry(gref.raw()) else { return true };
    let in_use = u64::from((GrantFlags::READING | GrantFlags::WRITING).bits());
    let mut word = entry.load(Ordering::Acquire);
    loop {
        if word & in_use != 0 {
            return false;
        }
        match entry.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(changed) => word = changed,
        }
    }
    TABLE.lock().free.push(gref.raw());
    true
}

/// Pages that another domain may use. Dropping them takes the grants back; pages that are still in use then are lost.
#[derive(Debug)]
pub struct GrantedPages {
    pages: ManuallyDrop<SharedPages>,
    references: Vec<GrantRef>,
}

impl GrantedPages {
    /// `count` fresh zeroed pages for `to`.
    pub fn new(to: DomId, count: usize, access: Access) -> Result<Self, GrantError> {
        let pages = SharedPages::new(count).ok_or(Errno::NoMem)?;
        Self::grant(to, pages, access)
    }

    /// Grants pages that exist already.
    pub fn grant(to: DomId, pages: SharedPages, access: Access) -> Result<Self, GrantError> {
        let mut granted = Self { pages: ManuallyDrop::new(pages), references: Vec::new() };
        for number in 0..granted.pages.count() {
            let frame = granted.pages.mfn(number).ok_or(Errno::Inval)?;
            granted.references.push(grant(to, frame, access)?);
        }
        Ok(granted)
    }

    /// The references, one for each page, to be told to the other domain.
    #[must_use]
    pub fn references(&self) -> &[GrantRef] {
        &self.references
    }

    /// The memory, for copying and viewing.
    #[must_use]
    pub fn area(&self) -> Area<'_> {
        self.pages.area()
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pages.count()
    }

    /// Whether every grant was taken back. What is not stays granted, and can be tried again.
    pub fn try_end(&mut self) -> bool {
        self.references.retain(|gref| !end(*gref));
        self.references.is_empty()
    }
}

impl Drop for GrantedPages {
    fn drop(&mut self) {
        if self.try_end() {
            // SAFETY: dropped once, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.pages) };
        } else {
            LEAKED.fetch_add(self.pages.count() as u64, Ordering::Relaxed);
        }
    }
}
