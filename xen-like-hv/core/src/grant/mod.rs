//! Grant tables: how a domain lets another use its frames.
//!
//! The *granter* writes an entry into its table: whom it serves, which frame, how. The other domain, the *mapper*, names
//! the entry by its reference and maps the frame, or has bytes copied. Version 1 tables only; transfer, transitive and
//! sub-page grants are refused.
//!
//! | file | holds |
//! |---|---|
//! | `op` | the hypercall |
//! | `active` | the granter's side: shared entries, what is in use, references |
//! | `maptrack` | the mapper's side: handles |
//! | `map`, `copy` | the operations |
//! | `alone` | one map, one unmap of the usual kind, in few instructions |
//! | `granter` | who is named |
//! | `audit` | the recount |
//!
//! References (a general one, and a writable one for who may write): the page-table entry that a map makes owns those of
//! the CPU's mapping, as every entry does ([`crate::mm::grant_map`]); a handle owns others if a device may use the frame
//! (XSA-224); a copy has its own while it lasts. A frame is therefore never given to anybody else while it can be reached,
//! even if the granter dies: it stays on the granter's account until it is let go. A mapper that overwrites the entry by
//! other means gives the frame up; the grant stays pinned then, and that alone.
//!
//! Locks: the granter's table (rank `GRANT`), the mapper's handles (rank `MAPTRACK`); page-table work is done with
//! neither held. The other way round, a list of maps or unmaps keeps the L1 that it works on locked for some entries, `alone`
//! for its one, and they take those two meanwhile: nobody who has one of them waits for a table.

use alloc::sync::Arc;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;

mod active;
mod alone;
mod audit;
mod copy;
mod granter;
mod map;
mod maptrack;
mod op;
#[cfg(test)]
mod tests;
mod word;

#[cfg(test)]
pub(crate) use audit::mapped_frames;
pub use audit::{audit, held_frames};
pub use op::grant_table_op;
pub(crate) use op::{is_copy, is_map, is_one, is_unmap, one_copy, one_map, one_unmap};

use crate::domain::Domain;
use crate::frame::{FrameTable, ShareAccess};
use crate::hv::Hypervisor;
use crate::port::{Cpu, Frames, Tlb};

/// Frames of a table, unless its creator says otherwise.
pub const DEFAULT_MAX_FRAMES: usize = 64;
/// Frames of handles, unless its creator says otherwise.
pub const DEFAULT_MAX_MAPTRACK_FRAMES: usize = 1024;
/// Bytes of the hypervisor's heap that a handle takes at most.
const BYTES_OF_HANDLE: usize = 64;

/// The frames of handles that so many bytes of the hypervisor's heap have room for; one at least.
#[must_use]
pub const fn maptrack_frames_within(bytes: usize) -> usize {
    let frames = bytes / (BYTES_OF_HANDLE * maptrack::SLOTS_PER_FRAME);
    if frames == 0 { 1 } else { frames }
}

/// Grant table and handles of a domain.
pub struct DomainGrants {
    granter: active::Granter,
    maptrack: maptrack::Maptrack,
    max_frames: AtomicUsize,
    max_maptrack_frames: AtomicUsize,
}

impl Default for DomainGrants {
    fn default() -> Self {
        Self {
            granter: active::Granter::default(),
            maptrack: maptrack::Maptrack::default(),
            max_frames: AtomicUsize::new(DEFAULT_MAX_FRAMES),
            max_maptrack_frames: AtomicUsize::new(DEFAULT_MAX_MAPTRACK_FRAMES),
        }
    }
}

impl core::fmt::Debug for DomainGrants {
    // Handles refer to other domains and those may refer to this one: they are not followed.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DomainGrants").finish_non_exhaustive()
    }
}

impl DomainGrants {
    /// Sets the limits that the domain's creator gave; `None` keeps the default.
    pub fn set_limits(&self, max_frames: Option<usize>, max_maptrack_frames: Option<usize>) {
        self.max_frames.store(max_frames.unwrap_or(DEFAULT_MAX_FRAMES), Relaxed);
        let maptrack = max_maptrack_frames.unwrap_or(DEFAULT_MAX_MAPTRACK_FRAMES);
        self.max_maptrack_frames.store(maptrack, Relaxed);
    }

    /// Most frames that the table may have.
    #[must_use]
    pub fn max_frames(&self) -> usize {
        self.max_frames.load(Relaxed)
    }

    /// Frames that the table has.
    #[must_use]
    pub fn nr_frames(&self) -> usize {
        self.granter.nr_frames()
    }

    /// A frame of the table, for its owner and for `XENMEM_acquire_resource`.
    #[must_use]
    pub fn frame(&self, index: usize) -> Option<Mfn> {
        self.granter.frame(index)
    }

    /// Both sides in words.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        self.granter.with(|table| {
            let used: alloc::vec::Vec<_> = table.used().collect();
            alloc::format!("{used:?} {}", self.maptrack.describe())
        })
    }

    fn max_handles(&self) -> usize {
        self.max_maptrack_frames.load(Relaxed).saturating_mul(maptrack::SLOTS_PER_FRAME)
    }
}

/// Gives a domain's table at least `wanted` frames. To be called with 1 when the domain is made.
///
/// # Errors
/// `EINVAL` past the domain's limit or for a dying domain, `ENOMEM`.
pub fn grow(
    frames: &FrameTable,
    m: &(impl Frames + Tlb + Cpu),
    dom: &Domain,
    wanted: usize,
) -> Result<(), Errno> {
    let max = dom.grants.max_frames();
    if wanted > max || dom.is_dying() {
        return Err(Errno::Inval);
    }
    loop {
        let had = dom.grants.nr_frames();
        if had >= wanted {
            return Ok(());
        }
        let room = active::Room::beside(had).ok_or(Errno::NoMem)?;
        let mfn = frames.alloc_hypervisor(m).ok_or(Errno::NoMem)?;
        frames.share_with(mfn, &dom.mem, ShareAccess::ReadWrite);
        if let Err(mfn) = dom.grants.granter.add_frame(mfn, room, max) {
            frames.free_hypervisor(mfn);
            // Either somebody else was faster, which the next turn sees, or the domain dies.
            if dom.is_dying() {
                return Err(Errno::Inval);
            }
        }
    }
}

/// Giving up a dying domain's mappings is not finished: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted;

/// Mappings that are given up before somebody more urgent is let in.
const BATCH: u32 = 64;
/// Frames of a table, each to be wiped, that are freed before somebody more urgent is let in.
const FRAMES_AT_ONCE: u32 = 8;

/// Gives up everything that a dying domain uses of others, and lets nobody use anything new of its own.
///
/// Its vcpus have stopped for good, so no translation of a mapping is used any more; the entries themselves go with
/// its page tables.
///
/// # Errors
/// [`Preempted`]: progress is kept, call again.
pub fn release_mappings(
    hv: &Hypervisor,
    m: &(impl Frames + Cpu),
    dom: &Arc<Domain>,
) -> Result<(), Preempted> {
    dom.grants.granter.set_dying();
    let mut done = 0;
    let mut from = 0;
    while let Some(handle) = dom.grants.maptrack.next_mapped(from) {
        from = handle.raw();
        if done >= BATCH && m.preempt_pending() {
            return Err(Preempted);
        }
        done += 1;
        let Some(mapping) = dom.grants.maptrack.take(handle) else { continue };
        let held = active::device_ref(&hv.frames, mapping.frame, mapping.uses);
        active::release(m, &mapping.granter, mapping.gref, mapping.uses, held);
        dom.grants.maptrack.free(handle);
    }
    Ok(())
}

/// Frees the frames of a dying domain's table, after [`release_mappings`] and after its page tables are gone. What others
/// still use of it stays recorded until they let go.
///
/// # Errors
/// [`Preempted`]: progress is kept, call again.
pub fn release_table(frames: &FrameTable, m: &impl Cpu, dom: &Domain) -> Result<(), Preempted> {
    let mut done = 0_u32;
    while let Some(mfn) = dom.grants.granter.take_frame() {
        frames.free_hypervisor(mfn);
        done += 1;
        if done.is_multiple_of(FRAMES_AT_ONCE) && m.preempt_pending() {
            return Err(Preempted);
        }
    }
    Ok(())
}

/// Frees the frames of the table of a domain that was never finished: those that it began with.
pub fn release_first_frames(frames: &FrameTable, dom: &Domain) {
    while let Some(mfn) = dom.grants.granter.take_frame() {
        frames.free_hypervisor(mfn);
    }
}
