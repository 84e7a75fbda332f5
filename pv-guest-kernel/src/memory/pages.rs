//! Frames that somebody owns: [`Pages`] for the kernel alone, [`SharedPages`] for memory that others see too.

use core::marker::PhantomData;

use pv_abi::ids::{Mfn, Pfn};

use super::{PAGE_SIZE, direct, frames, index, p2m};

/// Contiguous frames (contiguous for the kernel, not for the machine), zeroed at first. Freed when dropped.
#[derive(Debug)]
pub struct Pages {
    pfn: Pfn,
    count: usize,
}

impl Pages {
    /// `count` zeroed pages, or `None` if there is not enough memory in one piece.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        frames::alloc_zeroed(count).map(|pfn| Self { pfn, count })
    }

    /// How many pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The first frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The address of the first byte.
    #[must_use]
    pub const fn va(&self) -> u64 {
        direct(self.pfn)
    }

    /// The machine frame of page `number`.
    #[must_use]
    pub fn mfn(&self, number: usize) -> Option<Mfn> {
        if number >= self.count {
            return None;
        }
        p2m::mfn_of(Pfn::new(self.pfn.raw() + number as u64))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let start = core::ptr::with_exposed_provenance(index(self.va()));
        // SAFETY: the frames are ours, mapped for ever, initialised.
        unsafe { core::slice::from_raw_parts(start, self.count * PAGE_SIZE) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let start = core::ptr::with_exposed_provenance_mut(index(self.va()));
        // SAFETY: the frames are ours alone, mapped for ever, initialised.
        unsafe { core::slice::from_raw_parts_mut(start, self.count * PAGE_SIZE) }
    }

    /// From now on others may see the pages, so they are no longer borrowed as bytes.
    #[must_use]
    pub const fn share(self) -> SharedPages {
        SharedPages { pages: self }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        frames::free(self.pfn, self.count);
    }
}

/// Pages that another domain or a device reads or writes too. Bytes are copied in and out; structures made of atomics can
/// be viewed in place.
#[derive(Debug)]
pub struct SharedPages {
    pages: Pages,
}

impl SharedPages {
    /// `count` zeroed pages.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        Pages::new(count).map(Pages::share)
    }

    /// How many pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.pages.count
    }

    /// The first frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pages.pfn
    }

    /// The address of the first byte.
    #[must_use]
    pub const fn va(&self) -> u64 {
        self.pages.va()
    }

    /// The machine frame of page `number`.
    #[must_use]
    pub fn mfn(&self, number: usize) -> Option<Mfn> {
        self.pages.mfn(number)
    }

    /// The memory, for copying and viewing.
    #[must_use]
    pub const fn area(&self) -> Area<'_> {
        Area { start: self.pages.va(), length: self.pages.count * PAGE_SIZE, _owner: PhantomData }
    }
}

/// Memory that others may write at any time.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    start: u64,
    length: usize,
    _owner: PhantomData<&'a ()>,
}

/// Structures that may change at any time: made of atomics (or of nothing that is read), without padding that matters.
///
/// # Safety
/// Every byte pattern must be valid, and every field must have interior mutability by atomics.
pub unsafe trait Live {}

// SAFETY: the atomics themselves.
unsafe impl Live for core::sync::atomic::AtomicU8 {}
// SAFETY: as above.
unsafe impl Live for core::sync::atomic::AtomicU16 {}
// SAFETY: as above.
unsafe impl Live for core::sync::atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl Live for core::sync::atomic::AtomicU64 {}
// SAFETY: a page of atomics.
unsafe impl Live for pv_abi::io::console::XenconsInterface {}
// SAFETY: a page of atomics.
unsafe impl Live for pv_abi::io::xenstore::XenstoreDomainInterface {}
// SAFETY: an array of what may change may change.
unsafe impl<T: Live, const N: usize> Live for [T; N] {}

impl<'a> Area<'a> {
    /// Memory at `start`.
    ///
    /// # Safety
    /// The memory must be mapped as long as `'a` lasts, writable if it is written, and not be borrowed by Rust code.
    pub(crate) const unsafe fn new(start: u64, length: usize) -> Self {
        Self { start, length, _owner: PhantomData }
    }

    /// Bytes of the area.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether the area has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The kernel's address of a range, if it lies within the area.
    #[must_use]
    #[inline]
    pub fn address(&self, offset: usize, length: usize) -> Option<u64> {
        let end = offset.checked_add(length)?;
        (end <= self.length).then(|| self.start + offset as u64)
    }

    #[inline]
    fn check(&self, offset: usize, length: usize) -> u64 {
        let Some(address) = self.address(offset, length) else { panic!("outside of the area") };
        address
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If the range leaves the area.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.check(offset, into.len());
        // SAFETY: the area is mapped, and `into` is as long.
        unsafe { copy(into.as_mut_ptr().addr() as u64, from, into.len()) }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If the range leaves the area.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.check(offset, from.len());
        // SAFETY: the area is mapped and nobody borrows it, and `from` is as long.
        unsafe { copy(to, from.as_ptr().addr() as u64, from.len()) }
    }

    /// A structure of atomics within the area.
    ///
    /// # Panics
    /// If it leaves the area or `offset` is not aligned for it.
    #[must_use]
    #[inline]
    pub fn view<T: Live>(&self, offset: usize) -> &'a T {
        let at = self.check(offset, size_of::<T>());
        assert!(index(at).is_multiple_of(align_of::<T>()), "not aligned");
        // SAFETY: within the area, aligned, and `Live` makes any concurrent change harmless.
        unsafe { &*core::ptr::with_exposed_provenance::<T>(index(at)) }
    }
}

/// Copies bytes by instructions that the compiler does not look into: the other side may write meanwhile. Eight bytes
/// at a time: where the processor has no fast string moves, that is what a copy's time depends on.
///
/// # Safety
/// Both ranges must be mapped for the access and must not overlap.
unsafe fn copy(to: u64, from: u64, count: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) count % 8,
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count / 8 => _,
            options(nostack, preserves_flags)
        );
    }
}
