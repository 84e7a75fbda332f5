//! The count word's moves: references, the allocator's own one, stealing. Each is one compare-and-swap on one snapshot.

use pv_abi::ids::DomId;

use super::page_info::{CountInfo, PageInfo};

/// Why a reference was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountRefused {
    /// It is another's, or being freed (XSA-32).
    NotOwned,
    /// The count is full.
    Overflow,
}

/// Takes a reference to a frame of `owner`, where there are fewer than `max`.
///
/// # Errors
/// See [`CountRefused`].
#[inline(always)]
pub(crate) fn get(page: &PageInfo, owner: DomId, max: u64) -> Result<(), CountRefused> {
    let (mut now, least) = (page.count_info(), CountInfo::least_of(owner));
    loop {
        if !now.is_available(least, max) {
            return Err(why_refused(now, owner));
        }
        match page.swap_count_info(now, now.plus_one()) {
            Ok(()) => return Ok(()),
            Err(seen) => now = seen,
        }
    }
}

/// As [`get`], by the owner's least word, where nothing is in the way; `false`: nothing is taken, and [`get`] tells.
#[inline(always)]
pub(crate) fn get_at_once(page: &PageInfo, least: CountInfo) -> bool {
    let now = page.count_info();
    now.is_available(least, CountInfo::MAX_COUNT) && page.swap_count_info(now, now.plus_one()).is_ok()
}

/// What [`get`] says of a frame to which it gives no reference.
#[cold]
fn why_refused(now: CountInfo, owner: DomId) -> CountRefused {
    if !now.is_owned_by(owner) || now.count() == 0 { CountRefused::NotOwned } else { CountRefused::Overflow }
}

/// Clears `ALLOCATED`; `None` where it was clear. The caller gives the reference up.
pub(crate) fn clear_allocated(page: &PageInfo) -> Option<CountInfo> {
    let mut now = page.count_info();
    loop {
        if !now.allocated() {
            return None;
        }
        match page.swap_count_info(now, now.without_allocated()) {
            Ok(()) => return Some(now),
            Err(seen) => now = seen,
        }
    }
}

/// Makes a frame of `owner` the hypervisor's if nobody has a reference to it but the allocator; whether it did.
pub(crate) fn steal(page: &PageInfo, owner: DomId) -> bool {
    let idle = CountInfo::allocated_to(owner);
    loop {
        match page.swap_count_info(idle, CountInfo::hypervisor()) {
            Ok(()) => return true,
            Err(seen) if seen == idle => {}
            Err(seen) if seeded!(StealsUsedFrames) && seen.is_owned_by(owner) && seen.allocated() => {
                page.set_count_info(CountInfo::hypervisor());
                return true;
            }
            Err(_) => return false,
        }
    }
}
