//! The mapper's side: what a domain has mapped of others, by handle.
//!
//! | slot | by | then |
//! |---|---|---|
//! | free | a map has been made | mapped |
//! | mapped | an unmap begins | taken |
//! | taken | the unmap ends, or leaves a part | free, or mapped |
//! | mapped | an unmap that nothing can stop any more, of all of it | free |
//!
//! A slot that is taken belongs to the call that took it: a second call finds a bad handle (XSA-218). A mapped slot that
//! a device may use owns a reference to the frame for it, of the kind that its access needs (XSA-224). What a CPU uses is
//! the page-table entry, and that owns its own.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_sync::{SpinLock, rank};
use pv_abi::grant::GrantStatus;
use pv_abi::ids::{GrantHandle, GrantRef, Mfn};

use super::active::Uses;
use crate::domain::Domain;

/// Slots that are made at a time.
const GROUP: usize = 64;
/// Slots of what the ABI calls a maptrack frame.
pub(super) const SLOTS_PER_FRAME: usize = 256;

/// One mapping.
#[derive(Clone)]
pub(super) struct Mapping {
    /// Whose frame. The domain's records must outlive it.
    pub(super) granter: Arc<Domain>,
    /// Which entry.
    pub(super) gref: GrantRef,
    /// Which frame.
    pub(super) frame: Mfn,
    /// For whom, and how.
    pub(super) uses: Uses,
}

/// What a slot holds: nothing where it is free or taken.
type Slot = Option<Mapping>;

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// The numbers of those that are free; there is room for all of them.
    free: Vec<u32>,
}

/// The mapper's side of a domain.
pub(super) struct Maptrack {
    slots: SpinLock<Slots>,
}

impl Default for Maptrack {
    fn default() -> Self {
        Self { slots: SpinLock::new(rank::MAPTRACK, Slots::default()) }
    }
}

fn index(handle: GrantHandle) -> usize {
    usize::try_from(handle.raw()).unwrap_or(usize::MAX)
}

impl Slots {
    #[inline(always)]
    fn free(&mut self, handle: GrantHandle) {
        if seeded!(HandleTakenTwice)
            && let Some(slot) = self.slots.get_mut(index(handle))
        {
            *slot = None;
        }
        // Never past its room, so that nothing is allocated under the lock.
        if self.free.len() < self.free.capacity() {
            self.free.push(handle.raw());
        }
    }

    #[inline(always)]
    fn put(&mut self, handle: GrantHandle, mapping: Mapping) {
        if let Some(slot) = self.slots.get_mut(index(handle)) {
            *slot = Some(mapping);
        }
    }

    /// Makes the next group of slots in the room at hand; `false` where there is none.
    fn extend(&mut self) -> bool {
        let (first, next) = (self.slots.len(), self.slots.len() + GROUP);
        if self.slots.capacity() < next || self.free.capacity() < next {
            return false;
        }
        self.slots.resize_with(next, || None);
        for n in (first..next).rev() {
            self.free(GrantHandle::new(u32::try_from(n).unwrap_or(u32::MAX)));
        }
        true
    }
}

impl Maptrack {
    /// Gives a mapping a handle, of at most so many.
    ///
    /// # Errors
    /// `no_device_space` where there is none.
    #[inline(always)]
    pub(super) fn insert(
        &self,
        mapping: impl FnOnce() -> Mapping,
        max: impl FnOnce() -> usize,
    ) -> Result<GrantHandle, GrantStatus> {
        let mut slots = self.slots.lock();
        let Some(n) = slots.free.pop() else {
            drop(slots);
            return self.insert_in_new(mapping(), max());
        };
        let handle = GrantHandle::new(n);
        match slots.slots.get_mut(index(handle)) {
            // What is free holds nothing: made in its place, there is nothing to be dropped.
            Some(slot) if slot.is_none() => *slot = Some(mapping()),
            _ => slots.put(handle, mapping()),
        }
        Ok(handle)
    }

    /// As [`Self::insert`], where there is a free handle; gives the mapping back otherwise.
    #[inline(always)]
    pub(super) fn insert_at_once(&self, mapping: Mapping) -> Result<GrantHandle, Mapping> {
        let mut slots = self.slots.lock();
        let Slots { slots, free } = &mut *slots;
        let Some(n) = free.pop() else { return Err(mapping) };
        let handle = GrantHandle::new(n);
        match slots.get_mut(index(handle)) {
            Some(slot @ None) => *slot = Some(mapping),
            // What is free holds nothing.
            _ => return Err(mapping),
        }
        Ok(handle)
    }

    #[cold]
    fn insert_in_new(&self, mapping: Mapping, max: usize) -> Result<GrantHandle, GrantStatus> {
        let handle = self.take_new_handle(max)?;
        self.put(handle, mapping);
        Ok(handle)
    }

    fn take_new_handle(&self, max: usize) -> Result<GrantHandle, GrantStatus> {
        loop {
            let had = {
                let mut slots = self.slots.lock();
                if let Some(n) = slots.free.pop() {
                    return Ok(GrantHandle::new(n));
                }
                if slots.slots.len() + GROUP > max {
                    return Err(GrantStatus::NoDeviceSpace);
                }
                if slots.extend() {
                    continue;
                }
                slots.slots.len()
            };
            self.make_room(had)?;
        }
    }

    /// Room for twice the slots, allocated outside the lock.
    fn make_room(&self, had: usize) -> Result<(), GrantStatus> {
        let room = (had * 2).max(GROUP);
        let mut bigger = Slots::default();
        if memory_is_short!() {
            return Err(GrantStatus::NoDeviceSpace);
        }
        bigger.slots.try_reserve_exact(room).map_err(|_| GrantStatus::NoDeviceSpace)?;
        bigger.free.try_reserve_exact(room).map_err(|_| GrantStatus::NoDeviceSpace)?;
        let mut slots = self.slots.lock();
        if bigger.slots.capacity() > slots.slots.capacity() {
            bigger.slots.append(&mut slots.slots);
            bigger.free.append(&mut slots.free);
            core::mem::swap(&mut bigger, &mut slots);
        }
        drop(slots);
        drop(bigger);
        Ok(())
    }

    /// Gives taken handles back.
    #[inline(always)]
    pub(super) fn free_all(&self, handles: impl Iterator<Item = GrantHandle>) {
        let mut slots = self.slots.lock();
        handles.for_each(|handle| slots.free(handle));
    }

    /// Gives a taken handle back.
    #[inline(always)]
    pub(super) fn free(&self, handle: GrantHandle) {
        self.slots.lock().free(handle);
    }

    /// Records what a taken handle stands for.
    #[inline(always)]
    pub(super) fn put(&self, handle: GrantHandle, mapping: Mapping) {
        self.slots.lock().put(handle, mapping);
    }

    /// Takes what a handle stands for out of it; the handle stays taken.
    #[inline(always)]
    pub(super) fn take(&self, handle: GrantHandle) -> Option<Mapping> {
        let mut slots = self.slots.lock();
        let slot = slots.slots.get_mut(index(handle))?;
        if seeded!(HandleTakenTwice) {
            return slot.clone();
        }
        slot.take()
    }

    /// Takes what a handle stands for and frees it, if `wanted` finds something in that; tells what it was.
    #[inline(always)]
    pub(super) fn remove_if<R>(
        &self,
        handle: GrantHandle,
        wanted: impl FnOnce(&Mapping) -> Option<R>,
    ) -> Option<(Mapping, R)> {
        let mut slots = self.slots.lock();
        let slot = slots.slots.get_mut(index(handle))?;
        let found = wanted(slot.as_ref()?)?;
        let mapping = slot.take()?;
        slots.free(handle);
        Some((mapping, found))
    }

    /// The first handle from `from` on that stands for something; for the end of the domain.
    pub(super) fn next_mapped(&self, from: u32) -> Option<GrantHandle> {
        let slots = self.slots.lock();
        let skip = usize::try_from(from).ok()?;
        let found = slots.slots.iter().enumerate().skip(skip).find(|(_, s)| s.is_some());
        found.and_then(|(n, _)| u32::try_from(n).ok()).map(GrantHandle::new)
    }

    /// Every slot in words, and where the free list begins.
    #[cfg(test)]
    pub(super) fn describe(&self) -> alloc::string::String {
        let slots = self.slots.lock();
        let mut text = alloc::format!("{:?}", slots.free);
        for slot in &slots.slots {
            text += &slot.as_ref().map_or_else(
                || alloc::string::String::from(" none"),
                |m| {
                    let (granter, gref, frame) = (m.granter.id, m.gref, m.frame);
                    alloc::format!(" {granter} {gref} {frame} {:?}", m.uses)
                },
            );
        }
        text
    }

    /// All mappings; for the audit.
    pub(super) fn mappings(&self) -> Vec<Mapping> {
        let slots = self.slots.lock();
        slots.slots.iter().flatten().cloned().collect()
    }
}
