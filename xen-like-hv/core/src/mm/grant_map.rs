//! Entries of granted frames: made and removed by the grant calls, at an address or at an entry that the guest names.
//!
//! An entry that is made here owns references like any other (I3), beside those that the grant's records own. A guest
//! may therefore overwrite it: the entry's references are given up then, and the unmap finds another entry and fails.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, GuestVa, MachAddr, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::leaf::Rights;
use super::update::{LockedL1, Store, clear_l1, update_l1_inline};
use super::walk;
use crate::access::Privilege;
use crate::cx::Cx;
use crate::port::Machine;

/// Where the caller wants, or has, a granted frame mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// At an address of its kernel (`GNTMAP_host_map`).
    Va(GuestVa),
    /// In the entry at that machine address (`GNTMAP_contains_pte`).
    Pte(MachAddr),
}

/// How a [`HostAddress`] names the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// By an address of the kernel.
    Va,
    /// By the entry's machine address.
    Pte,
}

impl HostKind {
    /// The place that a guest's number names in this way.
    #[must_use]
    #[inline]
    pub const fn at(self, raw: u64) -> HostAddress {
        match self {
            Self::Va => HostAddress::Va(GuestVa::new(raw)),
            Self::Pte => HostAddress::Pte(MachAddr::new(raw)),
        }
    }
}

/// How a granted frame is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapAccess {
    /// `GNTMAP_readonly`.
    ReadOnly,
    /// Writable.
    ReadWrite,
}

/// Who may use the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFor {
    /// The guest's kernel.
    Kernel,
    /// Its processes too (`GNTMAP_application_map`).
    Application,
}

/// Bits that every grant entry has.
const GRANT_ENTRY: PteFlags =
    PteFlags::PRESENT.union(PteFlags::ACCESSED).union(PteFlags::DIRTY).union(PteFlags::NX);

/// Maps a frame of `owner` for the calling domain. `avail` are the entry's software bits 9 to 11, as the caller gave
/// them. Former contents of the entry are given up.
///
/// # Errors
/// `EINVAL`: no L1 there, a PTE address that is not aligned (XSA-227), or the frame is not to be had that way.
#[expect(clippy::too_many_arguments, reason = "what the ABI lets a mapper choose")]
#[inline(always)]
pub fn install_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    at: HostAddress,
    mfn: Mfn,
    owner: DomId,
    access: MapAccess,
    user: MapFor,
    avail: PteFlags,
) -> Result<(), Errno> {
    let mut flags = GRANT_ENTRY | avail & PteFlags::AVAIL;
    flags.set(PteFlags::RW, access == MapAccess::ReadWrite);
    flags.set(PteFlags::USER, user == MapFor::Application);
    let (table, index) = lock_entry(cx, l1, at)?;
    let word = table.entry(cx.m, index)?;
    let rights = Rights { frames_of: owner, devices: Privilege::Unprivileged };
    update_l1_inline(&cx.hv.frames, cx.m, word, Pte::new(mfn, flags), rights, Store::Replace)
}

/// Takes a mapping of a granted frame away, if the entry is still that mapping: present, the frame, and writable
/// exactly if it was made so (XSA-234). The caller flushes before it tells anyone.
///
/// # Errors
/// `EINVAL`: the entry is something else by now.
#[inline(always)]
pub fn remove_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    at: HostAddress,
    mfn: Mfn,
    access: MapAccess,
) -> Result<(), Errno> {
    let (table, index) = lock_entry(cx, l1, at)?;
    let word = table.entry(cx.m, index)?;
    let now = Pte::from_raw(word.load(Relaxed));
    let writable = now.flags().contains(PteFlags::RW);
    if !now.is_present() || now.mfn() != mfn || writable != (access == MapAccess::ReadWrite) {
        return Err(Errno::Inval);
    }
    clear_l1(&cx.hv.frames, cx.m, word, now);
    Ok(())
}

/// The L1 of the address that was looked up last in one call: that of the next one is nearly always the same. It is a hint,
/// as [`walk::find_l1_entry`]'s result is anyway: whoever uses it takes a reference and locks the table.
#[derive(Debug, Default)]
pub struct L1Hint(Option<(u64, Mfn)>);

impl L1Hint {
    /// Bits of an address within what one L1 maps.
    const SHIFT: u32 = 21;

    /// The entry of an address of the caller's kernel.
    #[inline(always)]
    fn find<M: Machine>(&mut self, cx: &Cx<'_, M>, va: GuestVa) -> Option<(Mfn, usize)> {
        let part = va.raw() >> Self::SHIFT;
        if let Some((_, table)) = self.0.filter(|(last, _)| *last == part) {
            return Some((table, Level::L1.index(va)));
        }
        let root = cx.vcpu.mm.kernel_root()?;
        let found = walk::find_l1_entry(&cx.hv.frames, cx.m, root, va)?;
        self.0 = Some((part, found.0));
        Some(found)
    }
}

/// Locks the L1 of the calling domain that holds the entry.
#[inline(always)]
fn lock_entry<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    at: HostAddress,
) -> Result<(LockedL1, usize), Errno> {
    let (mfn, index) = match at {
        HostAddress::Va(va) => l1.find(cx, va).ok_or(Errno::Inval)?,
        HostAddress::Pte(maddr) => (maddr.mfn(), entry_index(maddr)?),
    };
    Ok((LockedL1::lock(&cx.hv.frames, mfn, cx.dom.id)?, index))
}

/// The index of the entry at a machine address, which must be that of a whole entry.
#[inline]
pub(crate) fn entry_index(maddr: MachAddr) -> Result<usize, Errno> {
    if !maddr.offset().is_multiple_of(8) {
        return Err(Errno::Inval);
    }
    usize::try_from(maddr.offset() / 8).map_err(|_| Errno::Inval)
}
