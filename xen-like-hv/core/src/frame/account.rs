//! The frames of one domain: how many, which, and how many it may have.
//!
//! A domain's account outlives the domain while others still hold references to its frames, so that its number cannot
//! be given to another domain meanwhile (I7).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use hv_sync::{SpinLock, rank};
use pv_abi::ids::{DomId, Mfn};

use super::list;
use super::page_info::{CountInfo, NIL, PageInfo};
use super::{FrameError, mfn_of};

/// Lists and limits; behind a lock of rank `DOMAIN_PAGES`.
#[derive(Debug)]
struct Lists {
    /// Frames with the allocator's reference, and those that a teardown has yet to look at.
    owned: u32,
    /// Frames without it, kept by references of others or by a pin.
    released: u32,
    /// Whether a teardown has moved `released` to `owned`, to look for pins there too.
    merged: bool,
    /// Frames of the hypervisor that the domain may map.
    special: u32,
    tot_pages: u64,
    special_pages: u64,
    max_pages: u64,
}

/// What [`super::FrameTable`] and the domain share.
#[derive(Debug)]
pub(super) struct Account {
    id: DomId,
    pages: &'static [PageInfo],
    lists: SpinLock<Lists>,
    dying: AtomicBool,
    /// Frames set aside for the domain; written under the allocator's lock.
    claim: AtomicU64,
    /// Copy of `tot_pages` for readers without the lock; written under it.
    tot: AtomicU64,
}

impl Account {
    pub(super) fn new(pages: &'static [PageInfo], id: DomId, max_pages: u64) -> Self {
        let lists = Lists {
            owned: NIL,
            released: NIL,
            merged: false,
            special: NIL,
            tot_pages: 0,
            special_pages: 0,
            max_pages,
        };
        Self {
            id,
            pages,
            lists: SpinLock::new(rank::DOMAIN_PAGES, lists),
            dying: AtomicBool::new(false),
            claim: AtomicU64::new(0),
            tot: AtomicU64::new(0),
        }
    }

    /// Counts `n` frames that are about to be allocated.
    ///
    /// # Errors
    /// `OverQuota`, `Dying`.
    pub(super) fn reserve(&self, n: u64) -> Result<(), FrameError> {
        let mut lists = self.lists.lock();
        if self.dying.load(Relaxed) {
            return Err(FrameError::Dying);
        }
        let sum = lists.tot_pages.checked_add(n).ok_or(FrameError::OverQuota)?;
        if sum > lists.max_pages {
            return Err(FrameError::OverQuota);
        }
        lists.tot_pages = sum;
        self.tot.store(sum, Relaxed);
        Ok(())
    }

    pub(super) fn claim(&self) -> u64 {
        self.claim.load(Relaxed)
    }

    pub(super) fn set_claim(&self, frames: u64) {
        self.claim.store(frames, Relaxed);
    }

    /// Takes back what [`Self::reserve`] counted.
    pub(super) fn unreserve(&self, n: u64) {
        let mut lists = self.lists.lock();
        lists.tot_pages -= n;
        self.tot.store(lists.tot_pages, Relaxed);
    }

    /// Puts counted frames on the list and makes them the domain's.
    pub(super) fn assign(&self, first: u32, n: u32) {
        let mut lists = self.lists.lock();
        for index in first..first + n {
            list::push(self.pages, &mut lists.owned, index);
            if let Some(page) = self.page(index) {
                page.set_count_info(CountInfo::allocated_to(self.id));
            }
        }
    }

    /// Puts a frame of the hypervisor on the list of those that the domain may map.
    pub(super) fn assign_special(&self, index: u32) {
        let mut lists = self.lists.lock();
        lists.special_pages += 1;
        list::push(self.pages, &mut lists.special, index);
        if let Some(page) = self.page(index) {
            page.set_count_info(CountInfo::shared_with(self.id));
        }
    }

    /// Moves a frame without the allocator's reference, which the caller's own keeps meanwhile.
    pub(super) fn note_released(&self, index: u32) {
        let mut lists = self.lists.lock();
        self.unlink_ordinary(&mut lists, index);
        list::push(self.pages, &mut lists.released, index);
    }

    /// Takes a frame off whichever of the two lists of ordinary frames it is on.
    fn unlink_ordinary(&self, lists: &mut Lists, index: u32) {
        // The head matters only for the first frame of a list.
        let head = if lists.released == index { &mut lists.released } else { &mut lists.owned };
        list::unlink(self.pages, head, index);
    }

    /// Takes a stolen frame off the list; it stays counted.
    pub(super) fn unlink_owned(&self, index: u32) {
        let mut lists = self.lists.lock();
        list::unlink(self.pages, &mut lists.owned, index);
    }

    /// Takes a frame without references off its list.
    pub(super) fn remove(&self, index: u32, info: CountInfo) {
        let mut lists = self.lists.lock();
        let lists = &mut *lists;
        if info.special() {
            list::unlink(self.pages, &mut lists.special, index);
            lists.special_pages -= 1;
        } else {
            self.unlink_ordinary(lists, index);
            lists.tot_pages -= 1;
            self.tot.store(lists.tot_pages, Relaxed);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let lists = self.lists.lock();
        lists.tot_pages == 0 && lists.special_pages == 0
    }

    fn page(&self, index: u32) -> Option<&'static PageInfo> {
        self.pages.get(usize::try_from(index).ok()?)
    }
}

/// Frames that a domain owns and may own.
#[derive(Debug)]
pub struct DomainMemory {
    pub(super) account: Arc<Account>,
}

impl DomainMemory {
    /// The domain.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.account.id
    }

    /// Frames it has, those included that only others' references keep.
    #[must_use]
    pub fn tot_pages(&self) -> u64 {
        self.account.tot.load(Relaxed)
    }

    /// Frames of the hypervisor that it may map.
    #[must_use]
    pub fn special_pages(&self) -> u64 {
        self.account.lists.lock().special_pages
    }

    /// Frames it may have.
    #[must_use]
    pub fn max_pages(&self) -> u64 {
        self.account.lists.lock().max_pages
    }

    /// Sets how many frames it may have. A limit below what it has only stops it from getting more.
    pub fn set_max_pages(&self, max: u64) {
        self.account.lists.lock().max_pages = max;
    }

    /// Whether it gets no more frames.
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.account.dying.load(Relaxed)
    }

    /// From now on it gets no more frames.
    pub fn set_dying(&self) {
        let _lists = self.account.lists.lock();
        self.account.dying.store(true, Relaxed);
    }

    /// The next frame for a teardown to look at: first those with the allocator's reference, then those without.
    #[must_use]
    pub fn next_for_teardown(&self) -> Option<Mfn> {
        let mut lists = self.account.lists.lock();
        if lists.owned == NIL && !lists.merged {
            lists.merged = true;
            lists.owned = core::mem::replace(&mut lists.released, NIL);
        }
        (lists.owned != NIL).then(|| mfn_of(lists.owned))
    }

    /// Copies frame numbers, skipping the first `skip`; returns how many. Takes time in proportion to `skip` and the
    /// length of `dst`.
    pub fn copy_list(&self, skip: usize, dst: &mut [u64]) -> usize {
        let lists = self.account.lists.lock();
        let frames = list::iter(self.account.pages, lists.owned).skip(skip);
        let mut n = 0;
        for (slot, index) in dst.iter_mut().zip(frames) {
            *slot = u64::from(index);
            n += 1;
        }
        n
    }

    /// The lists with the order of their frames, and whether a teardown has joined them.
    #[cfg(test)]
    pub(crate) fn lists(&self) -> ([alloc::vec::Vec<u32>; 3], bool) {
        let lists = self.account.lists.lock();
        let frames = |head| list::iter(self.account.pages, head).collect();
        ([frames(lists.owned), frames(lists.released), frames(lists.special)], lists.merged)
    }

    /// Calls `f` for each frame: owned, kept by others, the hypervisor's. For audits: it holds the lock throughout.
    pub fn for_each(&self, mut f: impl FnMut(Mfn)) {
        let lists = self.account.lists.lock();
        for head in [lists.owned, lists.released, lists.special] {
            list::iter(self.account.pages, head).for_each(|i| f(mfn_of(i)));
        }
    }
}
