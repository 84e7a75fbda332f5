//! State of every frame: who has it, what it is used as, how many references there are; and the allocator.
//!
//! | file | holds |
//! |---|---|
//! | [`page_info`] | the two words of a frame, with their states |
//! | `types`, `counts` | moves of the type word and of the count word |
//! | [`refs`] | references as tokens |
//! | [`flush`] | the flush that must come before a new use |
//! | [`account`] | the frames of one domain |
//! | `heap`, `list` | free blocks |
//! | `scrub` | zeroing free frames ahead of their use |
//!
//! Invariants: I1, I4, I7, I8, I12. A frame that the hypervisor took for itself is in no look-up, so no guest maps it;
//! one that it shares has a writable type reference for as long as it is shared, so it never becomes a page table.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use hv_sync::{RwLock, SpinLock, rank};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};

pub mod account;
pub(crate) mod counts;
pub mod flush;
mod heap;
mod list;
pub mod page_info;
mod read_only;
pub mod refs;
mod scrub;
pub(crate) mod types;

#[cfg(test)]
mod tests;

pub use account::DomainMemory;
pub use page_info::{FrameState, PageInfo, PageType};
pub use read_only::ReadOnlyDevices;
pub use refs::{LeafRef, PageRef, WritableRef};

use crate::port::{Cpu, Frames, Tlb};
use account::Account;
use counts::CountRefused;
use heap::{Block, Heap};
use page_info::CountInfo;
use scrub::Scrubber;

/// Largest order of an allocation: 1 GiB.
pub const MAX_ORDER: u32 = 18;

/// Why a frame could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No such frame, or it is another's.
    NotOwned,
    /// It is in use as something else.
    WrongType,
    /// A count is full.
    Overflow,
    /// No free memory.
    NoMemory,
    /// The domain has all that it may have.
    OverQuota,
    /// The domain is being destroyed.
    Dying,
    /// The domain's number is still in use by frames that others hold.
    InUse,
}

impl From<FrameError> for Errno {
    fn from(e: FrameError) -> Self {
        match e {
            FrameError::NotOwned | FrameError::WrongType | FrameError::Overflow | FrameError::Dying => {
                Self::Inval
            }
            FrameError::NoMemory => Self::NoMem,
            FrameError::OverQuota => Self::TooBig,
            FrameError::InUse => Self::Busy,
        }
    }
}

/// What a domain may do with a frame of the hypervisor that is shared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareAccess {
    /// Map it read-only.
    ReadOnly,
    /// Map it writable.
    ReadWrite,
}

/// The number of a frame in the table.
pub(crate) fn mfn_of(index: u32) -> Mfn {
    Mfn::new(u64::from(index))
}

/// What is known of a frame, of all frames.
#[inline]
pub(crate) fn page_of(pages: &'static [PageInfo], mfn: Mfn) -> Option<&'static PageInfo> {
    pages.get(usize::try_from(mfn.raw()).ok()?)
}

/// Every frame of RAM.
#[derive(Debug)]
pub struct FrameTable {
    pages: &'static [PageInfo],
    heap: SpinLock<Heap>,
    scrubber: Scrubber,
    accounts: RwLock<BTreeMap<DomId, Arc<Account>>>,
    /// Frames of devices that no domain may map: the hypervisor's interrupt controllers. `[start, end)`.
    denied: RwLock<Vec<(u64, u64)>>,
    /// Frames of devices that nobody may map writable.
    read_only: ReadOnlyDevices,
    /// Frames that the allocator was given.
    total: AtomicU64,
    /// Bits of a machine address.
    address_bits: AtomicU32,
    /// Table references that were dropped without being put; the audit wants 0.
    leaks: AtomicU64,
}

impl FrameTable {
    /// A table whose frames are all reserved. Entry `n` is frame `n`; what lies beyond is no RAM.
    #[must_use]
    pub fn new(pages: &'static [PageInfo]) -> Self {
        Self {
            pages,
            heap: SpinLock::new(rank::HEAP, Heap::new()),
            scrubber: Scrubber::default(),
            accounts: RwLock::new(BTreeMap::new()),
            denied: RwLock::new(Vec::new()),
            read_only: ReadOnlyDevices::default(),
            total: AtomicU64::new(0),
            leaks: AtomicU64::new(0),
            address_bits: AtomicU32::new(36),
        }
    }

    /// Gives frames `[start, end)` of RAM to the allocator, at boot. Frame 0 stays reserved: as a number it means none.
    pub fn add_free_range(&self, start: Mfn, end: Mfn) {
        let Ok(len) = u32::try_from(self.pages.len()) else { return };
        let bound = |mfn: Mfn| u32::try_from(mfn.raw()).unwrap_or(u32::MAX).min(len);
        let (mut first, end) = (bound(start).max(1), bound(end));
        let mut heap = self.heap.lock();
        while first < end {
            let order = first.trailing_zeros().min((end - first).ilog2()).min(MAX_ORDER);
            let block = first..first + (1 << order);
            assert!(block.clone().all(|i| self.make_free(i)), "frames from {first:#x} are not reserved");
            heap.give(self.pages, first, usize::try_from(order).unwrap_or(0));
            self.total.fetch_add(1 << order, Relaxed);
            first = block.end;
        }
    }

    /// Moves a reserved frame to `Free`.
    fn make_free(&self, index: u32) -> bool {
        let page = self.info(mfn_of(index));
        let reserved = page.filter(|p| p.count_info() == CountInfo::of(FrameState::Reserved));
        reserved.map(heap::mark_free).is_some()
    }

    /// Marks frames `[start, end)` below the table's end as devices, firmware tables or holes, at boot: what a
    /// privileged domain may map though it is no RAM. The rest stays reserved.
    pub fn add_device_range(&self, start: Mfn, end: Mfn) {
        let len = u64::try_from(self.pages.len()).unwrap_or(u64::MAX);
        for mfn in start.raw()..end.raw().min(len) {
            if let Some(page) = self.info(Mfn::new(mfn))
                && page.count_info() == CountInfo::of(FrameState::Reserved)
            {
                page.set_count_info(CountInfo::of(FrameState::Device));
            }
        }
    }

    /// Keeps device frames `[start, end)` from every domain: the hypervisor's own interrupt controllers.
    pub fn deny_device_range(&self, start: Mfn, end: Mfn) {
        self.denied.write().push((start.raw(), end.raw()));
    }

    /// Frames of devices that may be mapped read-only at most.
    #[must_use]
    pub fn read_only_devices(&self) -> &ReadOnlyDevices {
        &self.read_only
    }

    /// Tells how many bits a machine address has: an entry with more would fault as reserved.
    pub fn set_address_bits(&self, bits: u32) {
        self.address_bits.store(bits.clamp(32, 52), Relaxed);
    }

    /// Whether a privileged domain may map the frame although it is no RAM.
    #[must_use]
    pub fn is_device(&self, mfn: Mfn) -> bool {
        let raw = mfn.raw();
        let outside = self.info(mfn).is_none_or(|p| p.count_info().state() == FrameState::Device);
        let exists = raw < 1 << (self.address_bits.load(Relaxed) - 12);
        outside && exists && !self.denied.read().iter().any(|(s, e)| (*s..*e).contains(&raw))
    }

    /// Whether the frame is RAM, so that [`Frames::words`] has it.
    #[must_use]
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.info(mfn).is_some_and(|p| p.count_info().state() != FrameState::Device)
    }

    /// One more than the largest frame number of the table.
    #[must_use]
    pub fn end(&self) -> Mfn {
        Mfn::new(u64::try_from(self.pages.len()).unwrap_or(u64::MAX))
    }

    /// Frames in the allocator.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.heap.lock().free_frames()
    }

    /// Frames that the allocator was given at boot.
    #[must_use]
    pub fn total_frames(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// References that were lost; anything but 0 is a fault of the hypervisor.
    #[must_use]
    pub fn leaks(&self) -> u64 {
        self.leaks.load(Relaxed)
    }

    pub(crate) fn count_leak(&self) {
        self.leaks.fetch_add(1, Relaxed);
    }

    /// What is known of a frame.
    #[inline]
    pub(crate) fn info(&self, mfn: Mfn) -> Option<&'static PageInfo> {
        page_of(self.pages, mfn)
    }

    /// What is known of every frame, for loops that look many up with [`page_of`].
    #[inline]
    pub(crate) fn pages(&self) -> &'static [PageInfo] {
        self.pages
    }

    // ---- accounts ----

    /// Opens the account of a new domain.
    ///
    /// # Errors
    /// `InUse`: frames of an earlier domain of that number are still held by others.
    pub fn create_memory(&self, id: DomId, max_pages: u64) -> Result<DomainMemory, FrameError> {
        let account = Arc::new(Account::new(self.pages, id, max_pages));
        let mut accounts = self.accounts.write();
        if accounts.contains_key(&id) {
            return Err(FrameError::InUse);
        }
        accounts.insert(id, account.clone());
        Ok(DomainMemory { account })
    }

    /// Closes the account of a destroyed domain.
    ///
    /// # Errors
    /// `InUse` as long as it has frames.
    pub fn close_memory(&self, memory: &DomainMemory) -> Result<(), FrameError> {
        if !memory.account.is_empty() {
            return Err(FrameError::InUse);
        }
        self.claim(memory, 0)?;
        self.accounts.write().remove(&memory.id());
        Ok(())
    }

    fn account(&self, id: DomId) -> Option<Arc<Account>> {
        self.accounts.read().get(&id).cloned()
    }

    // ---- allocation ----

    /// A block for `whom`, or for the hypervisor. What others have claimed is not touched.
    fn take(&self, order: u32, address_bits: u32, whom: Option<&Account>) -> Result<Block, FrameError> {
        let order = usize::try_from(order).map_err(|_| FrameError::NoMemory)?;
        if order >= heap::ORDERS || frames_are_short!() {
            return Err(FrameError::NoMemory);
        }
        let zones = heap::zones_within(address_bits);
        let mut heap = self.heap.lock();
        let own_claim = whom.map_or(0, Account::claim);
        let block = heap.take(self.pages, order, zones, own_claim).ok_or(FrameError::NoMemory)?;
        if let Some(account) = whom {
            account.set_claim(heap.use_claim(own_claim, 1 << order));
        }
        Ok(block)
    }

    /// Sets frames aside for a domain, so that it can get `total` in all; 0 gives the claim up.
    ///
    /// # Errors
    /// `OverQuota`: more than it may have, no more than it has, or it has a claim already. `NoMemory`.
    pub fn claim(&self, memory: &DomainMemory, total: u64) -> Result<(), FrameError> {
        let (has, may_have) = (memory.tot_pages(), memory.max_pages());
        let account = &memory.account;
        let mut heap = self.heap.lock();
        let own = account.claim();
        if total == 0 {
            heap.drop_claim(own);
            account.set_claim(0);
            return Ok(());
        }
        if own != 0 || total > may_have || total <= has {
            return Err(FrameError::OverQuota);
        }
        if !heap.add_claim(total - has) {
            return Err(FrameError::NoMemory);
        }
        account.set_claim(total - has);
        Ok(())
    }

    /// Flushes (C.5.4, XSA-511), then zeroes what is not zeroed yet.
    fn scrub(&self, m: &(impl Frames + Tlb + Cpu), block: Block, frames: u32) {
        let flushed = flush::before_reuse(m, block.stamp);
        for mfn in (block.first..block.first + frames).map(mfn_of) {
            if self.info(mfn).is_none_or(|page| page.count_info() != CountInfo::clean()) {
                Self::clean(m, mfn, &flushed);
            }
        }
    }

    /// 2^`order` contiguous zeroed frames for a domain, on its account, below 2^`address_bits` bytes (0: anywhere).
    /// Each has the allocator's reference; [`Self::release`] gives it up.
    ///
    /// # Errors
    /// `NoMemory`, `OverQuota`, `Dying`.
    pub fn alloc_for(
        &self,
        m: &(impl Frames + Tlb + Cpu),
        memory: &DomainMemory,
        order: u32,
        address_bits: u32,
    ) -> Result<Mfn, FrameError> {
        let frames = 1_u32.checked_shl(order).ok_or(FrameError::NoMemory)?;
        memory.account.reserve(u64::from(frames))?;
        let block = self
            .take(order, address_bits, Some(&memory.account))
            .inspect_err(|_| memory.account.unreserve(u64::from(frames)))?;
        self.scrub(m, block, frames);
        self.hand_over(memory, block.first, frames)
    }

    /// Makes counted frames a domain's, unless it has begun to die meanwhile: its teardown may be over already and would
    /// not see them.
    fn hand_over(&self, memory: &DomainMemory, first: u32, frames: u32) -> Result<Mfn, FrameError> {
        memory.account.assign(first, frames);
        if !memory.is_dying() {
            return Ok(mfn_of(first));
        }
        for index in first..first + frames {
            // Whoever clears the allocator's reference, the teardown or this: only one does.
            if let Ok(page) = self.get_page_passing(mfn_of(index), memory.id()) {
                self.release(&page);
            }
        }
        Err(FrameError::Dying)
    }

    // ---- exchange ----

    /// Takes a frame away from its domain if nobody has a reference to it but the allocator (I7; XSA-214, XSA-217,
    /// XSA-287). The domain's count of frames stays: [`Self::assign_unowned`] or [`Self::return_stolen`] fills the gap.
    ///
    /// # Errors
    /// `NotOwned`: it is not the domain's, or in use.
    pub(crate) fn steal(&self, memory: &DomainMemory, mfn: Mfn) -> Result<(), FrameError> {
        let page = self.info(mfn).ok_or(FrameError::NotOwned)?;
        let index = u32::try_from(mfn.raw()).map_err(|_| FrameError::NotOwned)?;
        if !counts::steal(page, memory.id()) {
            return Err(FrameError::NotOwned);
        }
        // No reference, so no use: a type reference comes with a general one.
        assert!(page.type_info().count() == 0, "{mfn} in use without a reference");
        memory.account.unlink_owned(index);
        Ok(())
    }

    /// Undoes [`Self::steal`].
    pub(crate) fn return_stolen(&self, memory: &DomainMemory, mfn: Mfn) {
        self.assign_unowned(memory, mfn, 0);
    }

    /// Frees a stolen frame.
    pub(crate) fn free_stolen(&self, mfn: Mfn) {
        self.free_unowned(mfn, 0);
    }

    /// 2^`order` zeroed frames that are on nobody's account yet.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn alloc_unowned(
        &self,
        m: &(impl Frames + Tlb + Cpu),
        order: u32,
        address_bits: u32,
    ) -> Result<Mfn, FrameError> {
        let frames = 1_u32.checked_shl(order).ok_or(FrameError::NoMemory)?;
        let block = self.take(order, address_bits, None)?;
        self.scrub(m, block, frames);
        for index in block.first..block.first + frames {
            if let Some(page) = self.info(mfn_of(index)) {
                page.set_count_info(CountInfo::hypervisor());
            }
        }
        Ok(mfn_of(block.first))
    }

    /// Frees what [`Self::alloc_unowned`] gave.
    pub(crate) fn free_unowned(&self, mfn: Mfn, order: u32) {
        for raw in mfn.raw()..mfn.raw() + (1 << order) {
            if let Some(page) = self.info(Mfn::new(raw)) {
                self.free_to_heap(Mfn::new(raw), page);
            }
        }
    }

    /// Gives a domain 2^`order` frames that are nobody's, in place of stolen ones.
    pub(crate) fn assign_unowned(&self, memory: &DomainMemory, mfn: Mfn, order: u32) {
        if let Ok(first) = u32::try_from(mfn.raw()) {
            memory.account.assign(first, 1 << order);
        }
    }

    /// A zeroed frame for the hypervisor. No guest can name it (I8) until it is shared.
    pub fn alloc_hypervisor(&self, m: &(impl Frames + Tlb + Cpu)) -> Option<Mfn> {
        let block = self.take(0, 0, None).ok()?;
        self.scrub(m, block, 1);
        let mfn = mfn_of(block.first);
        self.info(mfn)?.set_count_info(CountInfo::hypervisor());
        Some(mfn)
    }

    /// Lets a domain map a frame of the hypervisor. The hypervisor's type reference keeps the frame from ever
    /// becoming a page table; with [`ShareAccess::ReadOnly`] also from being mapped writable.
    pub fn share_with(&self, mfn: Mfn, memory: &DomainMemory, access: ShareAccess) {
        let Some(page) = self.info(mfn) else { return };
        assert!(page.count_info() == CountInfo::hypervisor(), "{mfn} is not the hypervisor's to share");
        let ty = match access {
            ShareAccess::ReadOnly => PageType::None,
            ShareAccess::ReadWrite => PageType::Writable,
        };
        page.set_type_info(page_info::TypeInfo::of(ty, 1).with_validated());
        if let Ok(index) = u32::try_from(mfn.raw()) {
            memory.account.assign_special(index);
        }
    }

    /// Gives back a frame of the hypervisor. A shared one lives on until its last mapping is gone.
    pub fn free_hypervisor(&self, mfn: Mfn) {
        let Some(page) = self.info(mfn) else { return };
        if page.count_info() == CountInfo::hypervisor() {
            self.free_to_heap(mfn, page);
            return;
        }
        assert!(page.count_info().special(), "{mfn} is not the hypervisor's to free");
        let types::TypePut::Done = types::put(page) else { return self.count_leak() };
        if counts::clear_allocated(page).is_some() {
            self.put_raw(mfn, page);
        }
    }

    /// Gives up the allocator's reference to a domain's frame; the frame is freed when nobody else has one. `false`
    /// where that was done before, or the frame is not an ordinary one of the domain's.
    pub fn release(&self, page: &PageRef<'_>) -> bool {
        if page.page.count_info().special() {
            return false;
        }
        let released = counts::clear_allocated(page.page).is_some();
        if released {
            self.note_released(page);
            self.put_raw(page.mfn, page.page);
        }
        released
    }

    /// Frees a frame of a domain to which nobody but the allocator has a reference; `false`: nothing is done, it is another's or
    /// somebody else has a reference too.
    pub fn release_unused(&self, memory: &DomainMemory, mfn: Mfn) -> bool {
        let Some(page) = self.info(mfn) else { return false };
        let sole = CountInfo::allocated_to(memory.id());
        // In one step: from no count on nobody can take a reference (XSA-32).
        if page.swap_count_info(sole, CountInfo::unreferenced(memory.id())).is_err() {
            return false;
        }
        self.free_frame_of(&memory.account, mfn, page, sole);
        true
    }

    /// Puts a frame that the caller holds, and the allocator does not, where a teardown has nothing more to do.
    pub(crate) fn note_released(&self, page: &PageRef<'_>) {
        let owner = page.page.count_info().owner();
        if let (Some(account), Ok(index)) =
            (owner.and_then(|o| self.account(o)), u32::try_from(page.mfn.raw()))
        {
            account.note_released(index);
        }
    }

    // ---- references ----

    /// A reference to a frame of `owner`.
    ///
    /// # Errors
    /// `NotOwned`: no such frame, another's, or being freed (XSA-32). `Overflow`.
    #[inline(always)]
    pub fn get_page(&self, mfn: Mfn, owner: DomId) -> Result<PageRef<'_>, FrameError> {
        self.get_page_below(mfn, owner, CountInfo::MAX_COUNT)
    }

    /// As [`Self::get_page`], for the hypervisor's own passing need: it succeeds where guests have used the count up.
    pub(crate) fn get_page_passing(&self, mfn: Mfn, owner: DomId) -> Result<PageRef<'_>, FrameError> {
        self.get_page_below(mfn, owner, CountInfo::MAX_PASSING)
    }

    #[inline(always)]
    fn get_page_below(&self, mfn: Mfn, owner: DomId, max: u64) -> Result<PageRef<'_>, FrameError> {
        let page = self.info(mfn).ok_or(FrameError::NotOwned)?;
        match counts::get(page, owner, max) {
            Ok(()) => Ok(PageRef { table: self, page, mfn }),
            Err(CountRefused::NotOwned) => Err(FrameError::NotOwned),
            Err(CountRefused::Overflow) => Err(FrameError::Overflow),
        }
    }

    /// A reference to a frame of whichever domain, with that domain.
    ///
    /// # Errors
    /// As [`Self::get_page`].
    pub fn get_page_any_owner(&self, mfn: Mfn) -> Result<(PageRef<'_>, DomId), FrameError> {
        let owner = self.owner(mfn).ok_or(FrameError::NotOwned)?;
        Ok((self.get_page(mfn, owner)?, owner))
    }

    /// The domain that has the frame at this moment.
    #[must_use]
    pub fn owner(&self, mfn: Mfn) -> Option<DomId> {
        self.info(mfn)?.count_info().owner()
    }

    /// Whether the frame is one of the hypervisor's that it shares with its owner.
    #[must_use]
    pub fn is_special(&self, mfn: Mfn) -> bool {
        self.info(mfn).is_some_and(|p| p.count_info().special())
    }

    /// Adds a writable type reference to a general one.
    ///
    /// # Errors
    /// `WrongType`: the frame is in use as a table or as descriptors. `Overflow`.
    #[inline(always)]
    pub fn make_writable<'t>(
        &self,
        m: &(impl Tlb + Cpu),
        page: PageRef<'t>,
    ) -> Result<WritableRef<'t>, FrameError> {
        self.get_writable_type(m, page.page)?;
        Ok(WritableRef::new(page))
    }

    #[inline(always)]
    pub(crate) fn get_writable_type(&self, m: &(impl Tlb + Cpu), page: &PageInfo) -> Result<(), FrameError> {
        if types::get_writable_again(page) { Ok(()) } else { Self::get_new_writable_type(m, page) }
    }

    /// The reference to a frame that was not in use as writable, or by somebody else at the same moment.
    #[inline(never)]
    fn get_new_writable_type(m: &(impl Tlb + Cpu), page: &PageInfo) -> Result<(), FrameError> {
        loop {
            match types::get(page, PageType::Writable) {
                Ok(types::TypeGot::Held) => return Ok(()),
                Ok(types::TypeGot::Claimed) => {
                    types::publish(page, flush::before_reuse(m, page.stamp()));
                    return Ok(());
                }
                // Another CPU flushes for the same change of type.
                Err(types::TypeRefused::Busy) => hv_sync::relax(),
                Err(types::TypeRefused::Mismatch) => return Err(FrameError::WrongType),
                Err(types::TypeRefused::Overflow) => return Err(FrameError::Overflow),
            }
        }
    }

    /// A general and a writable reference to a frame of `owner`.
    ///
    /// # Errors
    /// As [`Self::get_page`] and [`Self::make_writable`].
    #[inline(always)]
    pub fn get_page_writable(
        &self,
        m: &(impl Tlb + Cpu),
        mfn: Mfn,
        owner: DomId,
    ) -> Result<WritableRef<'_>, FrameError> {
        self.make_writable(m, self.get_page(mfn, owner)?)
    }

    /// What a mapping of a frame of `owner` owns.
    ///
    /// # Errors
    /// As [`Self::get_page`] and, for a writable one, [`Self::make_writable`].
    #[inline(always)]
    pub fn get_leaf(
        &self,
        m: &(impl Tlb + Cpu),
        mfn: Mfn,
        owner: DomId,
        writable: bool,
    ) -> Result<LeafRef<'_>, FrameError> {
        let page = self.get_page(mfn, owner)?;
        if writable {
            self.get_writable_type(m, page.page)?;
        }
        Ok(LeafRef::new(page, writable))
    }

    /// As [`Self::get_leaf`], where that is a matter of counting and nothing is in the way; `None`: nothing is taken, and
    /// that tells.
    #[inline(always)]
    pub(crate) fn get_leaf_at_once(&self, mfn: Mfn, owner: DomId, writable: bool) -> Option<LeafRef<'_>> {
        let page = self.info(mfn)?;
        if !counts::get_at_once(page, CountInfo::least_of(owner)) {
            return None;
        }
        let page = PageRef { table: self, page, mfn };
        if writable && !types::get_writable_once_more(page.page) {
            return None;
        }
        Some(LeafRef::new(page, writable))
    }

    /// Brings stored references back, as [`Self::adopt`].
    pub fn adopt_leaf(&self, mfn: Mfn, writable: bool) -> Option<LeafRef<'_>> {
        Some(LeafRef::new(self.adopt(mfn)?, writable))
    }

    /// Whether a frame is `owner`'s and writable references on it are held: for audits.
    pub(crate) fn is_held_writable(&self, mfn: Mfn, owner: DomId) -> bool {
        let held = |page: &PageInfo| {
            let ty = page.type_info();
            ty.count() > 0 && ty.is_type(PageType::Writable)
        };
        self.owner(mfn) == Some(owner) && self.info(mfn).is_some_and(held)
    }

    /// Brings a stored reference back. The caller's record owned it and must forget it; a frame outside the table is
    /// a broken record and a bug.
    pub fn adopt(&self, mfn: Mfn) -> Option<PageRef<'_>> {
        Some(PageRef { table: self, page: self.info(mfn)?, mfn })
    }

    /// Brings stored references back, as [`Self::adopt`].
    pub fn adopt_writable(&self, mfn: Mfn) -> Option<WritableRef<'_>> {
        Some(WritableRef::new(self.adopt(mfn)?))
    }

    /// Gives up a general reference.
    #[inline(always)]
    pub(crate) fn put_raw(&self, mfn: Mfn, page: &PageInfo) {
        let before = page.take_one_off();
        if before.count() <= 1 {
            self.free_domain_frame(mfn, page, before);
        }
    }

    /// The last reference, that of the count word `info`, is gone: nobody can find the frame any more.
    #[cold]
    pub(crate) fn free_domain_frame(&self, mfn: Mfn, page: &PageInfo, info: CountInfo) {
        assert!(info.count() != 0, "reference to {mfn} put that nobody holds");
        match info.owner().and_then(|o| self.account(o)) {
            Some(account) => self.free_frame_of(&account, mfn, page, info),
            None => self.free_to_heap(mfn, page),
        }
    }

    /// [`Self::free_domain_frame`], on the account of the frame's owner.
    fn free_frame_of(&self, account: &Account, mfn: Mfn, page: &PageInfo, info: CountInfo) {
        let ty = page.type_info();
        assert!(ty.count() == 0, "{mfn} freed while in use: {ty:?}");
        if let Ok(index) = u32::try_from(mfn.raw()) {
            account.remove(index, info);
        }
        self.free_to_heap(mfn, page);
    }

    fn free_to_heap(&self, mfn: Mfn, page: &PageInfo) {
        let Ok(index) = u32::try_from(mfn.raw()) else { return };
        heap::mark_free(page);
        let mut heap = self.heap.lock();
        heap.give(self.pages, index, 0);
        if !heap.dirty.holds(index) {
            heap.dirty.note(index);
            self.scrubber.ask();
        }
    }

    /// Recounts the allocator's frames and all others.
    pub(crate) fn audit_heap(&self, wrong: &mut Vec<String>) {
        let heap = self.heap.lock();
        let free = heap.recount(self.pages);
        if free != Some(heap.free_frames()) {
            wrong.push(format!("allocator has {free:?} frames, says {}", heap.free_frames()));
        }
        let states = self.pages.iter().filter(|p| p.count_info().state() == FrameState::Free).count();
        if u64::try_from(states).ok() != free {
            wrong.push(format!("{states} frames are free, the allocator has {free:?}"));
        }
    }
}
