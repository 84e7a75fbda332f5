//! Entries of granted frames: made and removed by the grant calls, at an address or at an entry that the guest names.
//!
//! An entry that is made here owns references like any other (I3), beside those that the grant's records own. A guest
//! may therefore overwrite it: the entry's references are given up then, and the unmap finds another entry and fails.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, GuestVa, MachAddr, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::leaf::Rights;
use super::tables::Pt;
use super::update::{LockedTable, Store, update_l1};
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
pub fn install_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
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
    let (table, index) = lock_entry(cx, at)?;
    let word = cx.m.words(table.mfn()).get(index).ok_or(Errno::Inval)?;
    let rights = Rights { frames_of: owner, devices: Privilege::Unprivileged };
    update_l1(&cx.hv.frames, cx.m, word, Pte::new(mfn, flags), rights, Store::Replace)
}

/// Takes a mapping of a granted frame away, if the entry is still that mapping: present, the frame, and writable
/// exactly if it was made so (XSA-234). The caller flushes before it tells anyone.
///
/// # Errors
/// `EINVAL`: the entry is something else by now.
pub fn remove_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
    at: HostAddress,
    mfn: Mfn,
    access: MapAccess,
) -> Result<(), Errno> {
    let (table, index) = lock_entry(cx, at)?;
    let word = cx.m.words(table.mfn()).get(index).ok_or(Errno::Inval)?;
    let now = Pte::from_raw(word.load(Relaxed));
    let writable = now.flags().contains(PteFlags::RW);
    if !now.is_present() || now.mfn() != mfn || writable != (access == MapAccess::ReadWrite) {
        return Err(Errno::Inval);
    }
    let rights = Rights { frames_of: cx.dom.id, devices: Privilege::Unprivileged };
    update_l1(&cx.hv.frames, cx.m, word, Pte::EMPTY, rights, Store::Replace)
}

/// Locks the L1 of the calling domain that holds the entry.
#[inline(never)]
fn lock_entry<'a, M: Machine>(cx: &Cx<'a, M>, at: HostAddress) -> Result<(LockedTable<'a>, usize), Errno> {
    let pt = Pt::of(cx);
    let (mfn, index) = match at {
        HostAddress::Va(va) => {
            let root = cx.vcpu.mm.kernel_root().ok_or(Errno::Inval)?;
            walk::find_l1_entry(pt.frames, pt.m, cx.dom.id, root, va).ok_or(Errno::Inval)?
        }
        HostAddress::Pte(maddr) => (maddr.mfn(), entry_index(maddr)?),
    };
    let page = pt.frames.get_page(mfn, cx.dom.id)?;
    let table = LockedTable::lock(page).map_err(|_| Errno::Inval)?;
    if table.level() == Level::L1 { Ok((table, index)) } else { Err(Errno::Inval) }
}

/// The index of the entry at a machine address, which must be that of a whole entry.
#[inline]
pub(crate) fn entry_index(maddr: MachAddr) -> Result<usize, Errno> {
    if !maddr.offset().is_multiple_of(8) {
        return Err(Errno::Inval);
    }
    usize::try_from(maddr.offset() / 8).map_err(|_| Errno::Inval)
}
