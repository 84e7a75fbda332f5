//! References to frames, as tokens: dropping one gives the reference up, storing it in a PTE or a table of the
//! hypervisor's takes it out of Rust's hands with `into_raw`.

use core::fmt;
use core::mem::ManuallyDrop;

use pv_abi::ids::Mfn;

use super::page_info::PageInfo;
use super::{FrameTable, types};

/// A general reference: the frame stays with its owner.
#[must_use]
pub struct PageRef<'t> {
    pub(super) table: &'t FrameTable,
    pub(super) page: &'static PageInfo,
    pub(super) mfn: Mfn,
}

impl PageRef<'_> {
    /// The frame.
    #[must_use]
    #[inline]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// What is known of it.
    #[inline]
    pub(crate) fn info(&self) -> &'static PageInfo {
        self.page
    }

    /// Takes the reference out of the token: a PTE or a record owns it now, and [`FrameTable::adopt`] brings it back.
    #[inline]
    pub fn into_raw(self) -> Mfn {
        ManuallyDrop::new(self).mfn
    }
}

impl Drop for PageRef<'_> {
    #[inline]
    fn drop(&mut self) {
        self.table.put_raw(self.mfn, self.page);
    }
}

impl fmt::Debug for PageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRef({})", self.mfn)
    }
}

/// A general and a writable reference: the frame stays with its owner and is no page table meanwhile.
#[derive(Debug)]
#[must_use]
pub struct WritableRef<'t> {
    page: ManuallyDrop<PageRef<'t>>,
}

impl<'t> WritableRef<'t> {
    /// Joins a general reference with a writable type reference that the caller holds.
    pub(super) fn new(page: PageRef<'t>) -> Self {
        Self { page: ManuallyDrop::new(page) }
    }

    /// The frame.
    #[must_use]
    #[inline]
    pub fn mfn(&self) -> Mfn {
        self.page.mfn
    }

    /// Takes both references out of the token; [`FrameTable::adopt_writable`] brings them back.
    #[inline]
    pub fn into_raw(self) -> Mfn {
        ManuallyDrop::new(self).page.mfn
    }
}

/// What a mapping of a frame owns: a general reference and, where it may write, a writable one (I3).
#[must_use]
pub struct LeafRef<'t> {
    page: ManuallyDrop<PageRef<'t>>,
    writable: bool,
}

impl<'t> LeafRef<'t> {
    /// Joins references that the caller holds.
    #[inline(always)]
    pub(super) fn new(page: PageRef<'t>, writable: bool) -> Self {
        Self { page: ManuallyDrop::new(page), writable }
    }

    /// The frame.
    #[must_use]
    #[inline(always)]
    pub fn mfn(&self) -> Mfn {
        self.page.mfn
    }

    /// Whether there is a writable reference.
    #[must_use]
    #[inline(always)]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Takes the references out of the token: a PTE or a record owns them now, and [`FrameTable::adopt_leaf`] brings them
    /// back.
    #[inline(always)]
    pub fn into_raw(self) -> Mfn {
        ManuallyDrop::new(self).page.mfn
    }

    /// Gives the references up: what dropping does, for hot paths.
    #[inline(always)]
    pub fn put(self) {
        ManuallyDrop::new(self).give_up();
    }

    #[inline(always)]
    fn give_up(&self) {
        let (table, page, mfn) = (self.page.table, self.page.page, self.page.mfn);
        if self.writable && types::put_writable(page) != types::TypePut::Done {
            // The type of a writable reference is never an audited one.
            table.count_leak();
            return;
        }
        table.put_raw(mfn, page);
    }
}

impl Drop for LeafRef<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for LeafRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafRef({}, writable: {})", self.page.mfn, self.writable)
    }
}

impl Drop for WritableRef<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let (table, page, mfn) = (self.page.table, self.page.page, self.page.mfn);
        let types::TypePut::Done = types::put_writable(page) else {
            // The type of a writable reference is never an audited one.
            table.count_leak();
            return;
        };
        table.put_raw(mfn, page);
    }
}
