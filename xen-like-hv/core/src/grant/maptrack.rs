//! The mapper's side: what a domain has mapped of others, by handle.
//!
//! | slot | by | then |
//! |---|---|---|
//! | free | a map begins | taken |
//! | taken | the map succeeds; fails | mapped; free |
//! | mapped | an unmap begins | taken |
//! | taken | the unmap ends, or leaves a part | free, or mapped |
//!
//! A slot that is taken belongs to the call that took it: a second call finds a bad handle (XSA-218). A mapped slot owns
//! one reference to the frame, of the kind that its access needs, whatever it is used for.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_sync::{SpinLock, rank};
use pv_abi::grant::GrantStatus;
use pv_abi::ids::{GrantHandle, GrantRef, Mfn};

use super::active::{Access, Purposes};
use crate::domain::Domain;
use crate::mm::grant_map::HostAddress;

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
    /// How.
    pub(super) access: Access,
    /// Where the CPU has it, if it has.
    pub(super) host: Option<HostAddress>,
    /// Whether a device may use it.
    pub(super) device: bool,
}

impl Mapping {
    /// What it pins the entry for.
    pub(super) fn purposes(&self) -> Purposes {
        Purposes { host: self.host.is_some(), device: self.device }
    }
}

#[derive(Default)]
enum Slot {
    /// With the next free one.
    #[default]
    Taken,
    Free(Option<u32>),
    Mapped(Mapping),
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    first_free: Option<u32>,
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
    fn take(&mut self) -> Option<GrantHandle> {
        let n = self.first_free?;
        let handle = GrantHandle::new(n);
        if let Some(Slot::Free(next)) = self.slots.get_mut(index(handle)).map(core::mem::take) {
            self.first_free = next;
        }
        Some(handle)
    }

    fn free(&mut self, handle: GrantHandle) {
        let next = self.first_free.replace(handle.raw());
        if let Some(slot) = self.slots.get_mut(index(handle)) {
            *slot = Slot::Free(next);
        }
    }

    /// Makes the next group of slots in the room at hand; `false` where there is none.
    fn extend(&mut self) -> bool {
        if self.slots.capacity() - self.slots.len() < GROUP {
            return false;
        }
        let first = self.slots.len();
        self.slots.extend((0..GROUP).map(|_| Slot::Taken));
        for n in (first..first + GROUP).rev() {
            self.free(GrantHandle::new(u32::try_from(n).unwrap_or(u32::MAX)));
        }
        true
    }
}

impl Maptrack {
    /// Takes a free handle, of at most `max`.
    ///
    /// # Errors
    /// `no_device_space` where there is none.
    pub(super) fn take_handle(&self, max: usize) -> Result<GrantHandle, GrantStatus> {
        loop {
            let had = {
                let mut slots = self.slots.lock();
                if let Some(handle) = slots.take() {
                    return Ok(handle);
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
        let mut bigger = Vec::new();
        if memory_is_short!() {
            return Err(GrantStatus::NoDeviceSpace);
        }
        bigger.try_reserve_exact((had * 2).max(GROUP)).map_err(|_| GrantStatus::NoDeviceSpace)?;
        let mut slots = self.slots.lock();
        if bigger.capacity() > slots.slots.capacity() {
            bigger.append(&mut slots.slots);
            core::mem::swap(&mut bigger, &mut slots.slots);
        }
        drop(slots);
        drop(bigger);
        Ok(())
    }

    /// Gives a taken handle back.
    pub(super) fn free(&self, handle: GrantHandle) {
        self.slots.lock().free(handle);
    }

    /// Records what a taken handle stands for.
    pub(super) fn put(&self, handle: GrantHandle, mapping: Mapping) {
        if let Some(slot) = self.slots.lock().slots.get_mut(index(handle)) {
            *slot = Slot::Mapped(mapping);
        }
    }

    /// Takes what a handle stands for out of it; the handle stays taken.
    pub(super) fn take(&self, handle: GrantHandle) -> Option<Mapping> {
        let mut slots = self.slots.lock();
        let slot = slots.slots.get_mut(index(handle))?;
        match core::mem::take(slot) {
            Slot::Mapped(mapping) if seeded!(HandleTakenTwice) => {
                *slot = Slot::Mapped(mapping.clone());
                Some(mapping)
            }
            Slot::Mapped(mapping) => Some(mapping),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// The first handle from `from` on that stands for something; for the end of the domain.
    pub(super) fn next_mapped(&self, from: u32) -> Option<GrantHandle> {
        let slots = self.slots.lock();
        let skip = usize::try_from(from).ok()?;
        let found = slots.slots.iter().enumerate().skip(skip).find(|(_, s)| matches!(s, Slot::Mapped(_)));
        found.and_then(|(n, _)| u32::try_from(n).ok()).map(GrantHandle::new)
    }

    /// Every slot in words, and where the free list begins.
    #[cfg(test)]
    pub(super) fn describe(&self) -> alloc::string::String {
        let slots = self.slots.lock();
        let mut text = alloc::format!("{:?}", slots.first_free);
        for slot in &slots.slots {
            text += &match slot {
                Slot::Taken => alloc::string::String::from(" taken"),
                Slot::Free(next) => alloc::format!(" {next:?}"),
                Slot::Mapped(m) => {
                    alloc::format!(
                        " {} {} {} {:?} {:?} {}",
                        m.granter.id,
                        m.gref,
                        m.frame,
                        m.access,
                        m.host,
                        m.device
                    )
                }
            };
        }
        text
    }

    /// All mappings; for the audit.
    pub(super) fn mappings(&self) -> Vec<Mapping> {
        let slots = self.slots.lock();
        let mapped = slots.slots.iter().filter_map(|slot| match slot {
            Slot::Mapped(mapping) => Some(mapping.clone()),
            Slot::Taken | Slot::Free(_) => None,
        });
        mapped.collect()
    }
}
