//! The shared entry: one word that the granter may write at any time. The hypervisor changes it by compare-and-exchange on
//! the whole word, so flags, domain and frame are always of one moment.

use core::sync::atomic::Ordering::SeqCst;

use pv_abi::grant::{GrantEntryV1, GrantFlags, GrantStatus};
use pv_abi::ids::{DomId, Mfn};

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

/// Marks a shared entry as used, if it serves `grantee` in that way; returns its frame.
#[inline]
pub(crate) fn mark_used(shared: &AtomicU64, grantee: DomId, access: Access) -> Result<Mfn, GrantStatus> {
    for _ in 0..MAX_RETRIES {
        let word = shared.load(SeqCst);
        let mut entry = GrantEntryV1::from_word(word);
        let flags = GrantFlags::from_bits_retain(entry.flags);
        let kind = flags & (GrantFlags::TYPE_MASK | GrantFlags::SUB_PAGE);
        if kind != GrantFlags::PERMIT_ACCESS || entry.domid != grantee.raw() {
            return Err(GrantStatus::GeneralError);
        }
        let used = match access {
            Access::Read => GrantFlags::READING,
            Access::Write if flags.contains(GrantFlags::READONLY) && !seeded!(IgnoresReadonly) => {
                return Err(GrantStatus::GeneralError);
            }
            Access::Write => GrantFlags::READING | GrantFlags::WRITING,
        };
        entry.flags |= used.bits();
        if shared.compare_exchange(word, entry.to_word(), SeqCst, SeqCst).is_ok() {
            return Ok(Mfn::new(u64::from(entry.frame)));
        }
    }
    // The guest rewrites it all the time: its own fault.
    Err(GrantStatus::GeneralError)
}

/// Clears flags of a shared entry, if the table still has it.
#[inline]
pub(crate) fn clear_flags(shared: Option<&AtomicU64>, flags: GrantFlags) {
    if let Some(word) = shared {
        word.fetch_and(!u64::from(flags.bits()), SeqCst);
    }
}
