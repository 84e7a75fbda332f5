//! The shared entry: one word that the granter may write at any time. The hypervisor changes it by compare-and-exchange on
//! the whole word, so flags, domain and frame are always of one moment.

use core::sync::atomic::Ordering::SeqCst;

use pv_abi::grant::{GrantEntryV1, GrantFlags, GrantStatus};
use pv_abi::ids::DomId;

use crate::atomic::AtomicU64;

/// What a claim of an entry may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// How often a shared entry that changes under the hypervisor is looked at again.
const MAX_RETRIES: u32 = 5;

/// Marks a shared entry as used, if it serves `grantee` in that way; returns the number of its frame.
///
/// # Errors
/// `general_error`: it does not, or does not stand still.
#[inline(always)]
pub(crate) fn mark_used(shared: &AtomicU64, grantee: DomId, access: Access) -> Result<u32, GrantStatus> {
    let mut word = shared.load(SeqCst);
    let marked = marked(word, grantee, access).ok_or(GrantStatus::GeneralError)?;
    if shared.compare_exchange(word, marked, SeqCst, SeqCst).is_err() {
        word = mark_changing(shared, grantee, access).ok_or(GrantStatus::GeneralError)?;
    }
    Ok(GrantEntryV1::from_word(word).frame)
}

/// As [`mark_used`], where the entry serves and stands still; `None`: it is not marked, and that tells.
#[inline(always)]
pub(crate) fn mark_at_once(shared: &AtomicU64, grantee: DomId, access: Access) -> Option<u32> {
    let word = shared.load(SeqCst);
    let marked = marked(word, grantee, access)?;
    shared.compare_exchange(word, marked, SeqCst, SeqCst).is_ok().then(|| GrantEntryV1::from_word(word).frame)
}

/// [`mark_used`] of an entry that its granter changes at this moment: the word that was marked.
#[cold]
fn mark_changing(shared: &AtomicU64, grantee: DomId, access: Access) -> Option<u64> {
    for _ in 1..MAX_RETRIES {
        let word = shared.load(SeqCst);
        if shared.compare_exchange(word, marked(word, grantee, access)?, SeqCst, SeqCst).is_ok() {
            return Some(word);
        }
    }
    // The guest rewrites it all the time: its own fault.
    None
}

/// An entry with the marks of its use, if it serves `grantee` in that way.
#[inline(always)]
fn marked(word: u64, grantee: DomId, access: Access) -> Option<u64> {
    const KIND: GrantFlags = GrantFlags::TYPE_MASK.union(GrantFlags::SUB_PAGE);
    let (looked_at, used) = match access {
        Access::Read => (KIND, GrantFlags::READING),
        Access::Write if seeded!(IgnoresReadonly) => (KIND, GrantFlags::READING | GrantFlags::WRITING),
        Access::Write => (KIND | GrantFlags::READONLY, GrantFlags::READING | GrantFlags::WRITING),
    };
    let entry = GrantEntryV1::from_word(word);
    // Of the flags that matter, the type's is the only one.
    let serves = entry.flags & looked_at.bits() == GrantFlags::PERMIT_ACCESS.bits();
    (serves && entry.domid == grantee.raw()).then(|| word | u64::from(used.bits()))
}

/// Clears flags of a shared entry.
#[inline(always)]
pub(crate) fn clear_flags(shared: &AtomicU64, flags: GrantFlags) {
    shared.fetch_and(!u64::from(flags.bits()), SeqCst);
}
