//! Mapping the frames that others grant.

#![expect(unsafe_code, reason = "grant mappings change page tables")]

use alloc::vec::Vec;

use pv_abi::grant::{GntmapFlags, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef};
use pv_abi::ids::{DomId, GrantRef};

use super::{Access, GrantError};
use crate::hypercall;
use crate::memory::PAGE_SIZE;
use crate::memory::pages::Area;
use crate::memory::vmap::Range;

/// Granted frames, mapped one after another. Unmapped when dropped.
#[derive(Debug)]
pub struct GrantMapping {
    range: Range,
    /// Page number and handle of each.
    handles: Vec<(usize, u32)>,
}

/// Maps frames that `granter` granted to this domain. Either all are mapped or none.
pub fn map(granter: DomId, references: &[GrantRef], access: Access) -> Result<GrantMapping, GrantError> {
    let range = Range::reserve(references.len())?;
    let flags = match access {
        Access::Read => GntmapFlags::HOST_MAP | GntmapFlags::READONLY,
        Access::ReadWrite => GntmapFlags::HOST_MAP,
    };
    let mut entries: Vec<GnttabMapGrantRef> = references
        .iter()
        .enumerate()
        .map(|(number, gref)| GnttabMapGrantRef {
            host_addr: range.page(number),
            flags: flags.bits(),
            gref: gref.raw(),
            dom: granter.raw(),
            ..GnttabMapGrantRef::default()
        })
        .collect();
    // SAFETY: the addresses were just reserved and nothing is mapped there.
    unsafe { hypercall::grant_table_op(GnttabOp::MapGrantRef, &mut entries) }?;
    let mapped = entries.iter().enumerate().filter(|(_, entry)| entry.status == 0);
    let mapping =
        GrantMapping { handles: mapped.map(|(number, entry)| (number, entry.handle)).collect(), range };
    // On an error `mapping` is dropped, which takes back what was done.
    entries.iter().try_for_each(|entry| GrantError::check(entry.status))?;
    Ok(mapping)
}

impl GrantMapping {
    /// The memory, for copying and viewing.
    #[must_use]
    pub const fn area(&self) -> Area<'_> {
        // SAFETY: mapped as long as `self` lives, and never borrowed as plain bytes.
        unsafe { Area::new(self.range.start(), self.range.pages() * PAGE_SIZE) }
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.range.pages()
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        let mut entries: Vec<GnttabUnmapGrantRef> = self
            .handles
            .iter()
            .map(|(number, handle)| GnttabUnmapGrantRef {
                host_addr: self.range.page(*number),
                handle: *handle,
                ..GnttabUnmapGrantRef::default()
            })
            .collect();
        if entries.is_empty() {
            return;
        }
        // SAFETY: the owner of the mapping is gone, so nobody uses these addresses.
        let _ = unsafe { hypercall::grant_table_op(GnttabOp::UnmapGrantRef, &mut entries) };
    }
}
