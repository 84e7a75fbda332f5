//! The type word's moves. Each is one compare-and-swap on one snapshot (I4, XSA-401).
//!
//! | from | by | to |
//! |---|---|---|
//! | count 0 | [`get`] | busy (audited types, or a change that needs a flush), or in use |
//! | busy | [`publish`] | in use |
//! | busy | [`retire`] | count 0 |
//! | in use, count n | [`get`], [`put`] | count n ± 1 |
//! | in use, count 1, audited | [`put`] | busy; the caller devalidates and retires |
//! | in use | [`lock`], [`unlock`] | one use more and `LOCKED`, and back |

use pv_abi::pte::Level;

use super::flush::Flushed;
use super::page_info::{PageInfo, PageType, TypeInfo};
use crate::atomic::relax;

/// Why a type reference was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeRefused {
    /// The frame is in use as something else.
    Mismatch,
    /// Another CPU, or unfinished work of a vcpu, is at it.
    Busy,
    /// The count is full.
    Overflow,
}

/// What came of asking for a type reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeGot {
    /// The caller has one.
    Held,
    /// The caller has one and the frame is busy: flush, audit, then [`publish`] or [`retire`].
    Claimed,
}

/// What came of giving up a type reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum TypePut {
    /// Done.
    Done,
    /// It was the last of an audited type. The frame is busy and the caller still has the reference: devalidate, then
    /// [`retire`].
    Last,
}

/// Takes a type reference.
///
/// # Errors
/// See [`TypeRefused`]. `Busy` may be tried again.
#[inline(always)]
pub(crate) fn get(page: &PageInfo, ty: PageType) -> Result<TypeGot, TypeRefused> {
    let now = page.type_info();
    // Nearly always it is in use so already: see `after_get` for the rest.
    if now.has_uses_as(ty, 1) && page.swap_type_info(now, now.plus_one()).is_ok() {
        return Ok(TypeGot::Held);
    }
    get_in_any_state(page, ty)
}

#[inline(never)]
fn get_in_any_state(page: &PageInfo, ty: PageType) -> Result<TypeGot, TypeRefused> {
    let mut now = page.type_info();
    loop {
        let (next, got) = after_get(now, ty)?;
        match page.swap_type_info(now, next) {
            Ok(()) => return Ok(got),
            Err(seen) => now = seen,
        }
    }
}

fn after_get(now: TypeInfo, ty: PageType) -> Result<(TypeInfo, TypeGot), TypeRefused> {
    if now.count() == 0 {
        let claimed = TypeInfo::of(ty, 1);
        return if now.is_type(ty) && !ty.needs_audit() {
            Ok((claimed.with_validated(), TypeGot::Held))
        } else {
            Ok((claimed, TypeGot::Claimed))
        };
    }
    let sown = seeded!(TableIsWritable) && now.validated() && ty == PageType::Writable;
    if !now.is_type(ty) && !sown {
        return Err(TypeRefused::Mismatch);
    }
    if !now.validated() && !seeded!(BusyIsHeld) {
        return Err(TypeRefused::Busy);
    }
    if now.count() >= TypeInfo::MAX_COUNT {
        return Err(TypeRefused::Overflow);
    }
    Ok((now.plus_one(), TypeGot::Held))
}

/// Ends the busy state of a claimed frame: its content has been audited, after a flush (I2, I12).
pub(crate) fn publish(page: &PageInfo, flushed: Flushed) {
    let Flushed { .. } = flushed;
    let now = page.type_info();
    debug_assert!(now.count() == 1 && !now.validated());
    page.set_type_info(now.with_validated());
}

/// Ends the busy state of a frame that is not, or no longer, what it was claimed as. Drops the type reference.
pub(crate) fn retire(page: &PageInfo) {
    let now = page.type_info();
    assert!(now.count() == 1 && !now.validated(), "retire of a frame that is not busy: {now:?}");
    page.set_type_info(TypeInfo::of(now.ty(), 0));
}

/// Gives up a type reference. Waits while the frame's lock holds the only other one: the lock's release devalidates
/// nothing (XSA-242).
#[inline(always)]
pub(crate) fn put(page: &PageInfo) -> TypePut {
    let now = page.type_info();
    if now.has_uses_to_spare() && page.swap_type_info(now, now.minus_one()).is_ok() {
        return TypePut::Done;
    }
    put_in_any_state(page)
}

#[inline(never)]
fn put_in_any_state(page: &PageInfo) -> TypePut {
    let mut now = page.type_info();
    loop {
        assert!(now.count() != 0 && now.validated(), "type reference put that nobody holds: {now:?}");
        let last = now.count() == 1;
        if now.locked() && now.count() == 2 {
            relax();
            now = page.type_info();
            continue;
        }
        let (next, result) = if last && now.ty().needs_audit() && !seeded!(NoDevalidation) {
            (now.without_validated(), TypePut::Last)
        } else if last {
            (now.minus_one().without_validated(), TypePut::Done)
        } else {
            (now.minus_one(), TypePut::Done)
        };
        match page.swap_type_info(now, next) {
            Ok(()) => return result,
            Err(seen) => now = seen,
        }
    }
}

/// A frame that was last used as writable, and is not in use.
const IDLE_WRITABLE: TypeInfo = TypeInfo::of(PageType::Writable, 0);

/// Takes a writable reference where that is a matter of counting: the frame is in use so, or was so last. `false`: nothing
/// is taken, and [`get`] tells.
#[inline(always)]
pub(crate) fn get_writable_again(page: &PageInfo) -> bool {
    let now = page.type_info();
    if !now.has_uses_as(PageType::Writable, 1) {
        return get_first_writable(page);
    }
    page.swap_type_info(now, now.plus_one()).is_ok()
}

/// [`get_writable_again`] of a frame that is in use so, and of no other.
#[inline(always)]
pub(crate) fn get_writable_once_more(page: &PageInfo) -> bool {
    let now = page.type_info();
    now.has_uses_as(PageType::Writable, 1) && page.swap_type_info(now, now.plus_one()).is_ok()
}

#[cold]
fn get_first_writable(page: &PageInfo) -> bool {
    page.swap_type_info(IDLE_WRITABLE, IDLE_WRITABLE.plus_one().with_validated()).is_ok()
}

/// Gives up a writable reference that is not the last one, where nothing is in the way; `false`: nothing is given up, and
/// [`put_writable`] does it.
#[inline(always)]
pub(crate) fn put_writable_at_once(page: &PageInfo) -> bool {
    let now = page.type_info();
    now.has_uses_as(PageType::Writable, 2) && page.swap_type_info(now, now.minus_one()).is_ok()
}

/// [`put`] of a writable reference.
#[inline(always)]
pub(crate) fn put_writable(page: &PageInfo) -> TypePut {
    if put_writable_at_once(page) { TypePut::Done } else { put_last_writable(page) }
}

#[cold]
fn put_last_writable(page: &PageInfo) -> TypePut {
    let last = IDLE_WRITABLE.plus_one().with_validated();
    if page.swap_type_info(last, IDLE_WRITABLE).is_ok() { TypePut::Done } else { put_in_any_state(page) }
}

/// Locks an L1 in use as [`lock`] does, if that is free at this moment; `false`: [`lock_l1_in_any_state`] tells.
#[inline(always)]
pub(crate) fn try_lock_l1(page: &PageInfo) -> bool {
    let now = page.type_info();
    let is_free = !now.locked() && now.has_uses_as(L1, 1);
    is_free && page.swap_type_info(now, now.plus_one().with_locked()).is_ok()
}

const L1: PageType = PageType::Table(Level::L1);

/// Locks an L1 in use; `false` where it is none. As [`lock`] otherwise.
#[inline(never)]
pub(crate) fn lock_l1_in_any_state(page: &PageInfo) -> bool {
    match lock(page) {
        Some(Level::L1) => true,
        Some(_) => {
            unlock(page);
            false
        }
        None => false,
    }
}

/// Locks a page table in use, with a type reference; waits for another holder. `None` where it is no table in use.
#[inline(always)]
pub(crate) fn lock(page: &PageInfo) -> Option<Level> {
    let mut now = page.type_info();
    loop {
        let PageType::Table(level) = now.ty() else { return None };
        if now.count() == 0 || !now.validated() || now.count() >= TypeInfo::MAX_COUNT {
            return None;
        }
        if now.locked() {
            relax();
            now = page.type_info();
            continue;
        }
        match page.swap_type_info(now, now.plus_one().with_locked()) {
            Ok(()) => return Some(level),
            Err(seen) => now = seen,
        }
    }
}

/// Unlocks. There is another type reference: [`put`] waits for the lock rather than drop it.
#[inline(always)]
pub(crate) fn unlock(page: &PageInfo) {
    let before = page.take_lock_off();
    if !before.locked() || before.count() <= 1 {
        not_locked(before);
    }
}

/// Apart, so that who unlocks needs no memory for what the message shows.
#[cold]
#[inline(never)]
fn not_locked(before: TypeInfo) -> ! {
    panic!("unlock of a frame that is not locked: {before:?}")
}

/// Sets or clears the pin bit of a frame of which the caller holds a type reference; tells whether it changed.
pub(crate) fn set_pinned(page: &PageInfo, pin: Pin) -> bool {
    let mut now = page.type_info();
    loop {
        let next = match pin {
            Pin::Pin => now.with_pinned(),
            Pin::Unpin => now.without_pinned(),
        };
        if next == now {
            return seeded!(PinsTwice) && pin == Pin::Pin;
        }
        match page.swap_type_info(now, next) {
            Ok(()) => return true,
            Err(seen) => now = seen,
        }
    }
}

/// Which way [`set_pinned`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// Set the bit; the caller's references become the pin's.
    Pin,
    /// Clear it; the pin's references become the caller's.
    Unpin,
}
