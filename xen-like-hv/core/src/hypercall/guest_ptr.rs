//! Guest pointers: an address that a guest alleged, checked when it is built, that offers only copies.
//!
//! Invariant I15: no access of the hypervisor on a guest's behalf reaches the hypervisor's own area (XSA-29, XSA-212).

use core::marker::PhantomData;

use pv_abi::errno::Errno;
use pv_abi::ids::GuestVa;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::port::{GuestMem, MOST_WORDS};

/// First byte of the hypervisor's area.
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// First byte after the hypervisor's area.
pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;

/// An address shifted right by this is [`HYPERVISOR_TOP`] in all of the hypervisor's area, and nowhere else.
pub const HYPERVISOR_SHIFT: u32 = 43;
/// What the upper bits of addresses in the hypervisor's area are.
pub const HYPERVISOR_TOP: u64 = HYPERVISOR_START >> HYPERVISOR_SHIFT;
const _: () = assert!(HYPERVISOR_END - HYPERVISOR_START == 1 << HYPERVISOR_SHIFT);
const _: () = assert!(HYPERVISOR_START.is_multiple_of(1 << HYPERVISOR_SHIFT));

/// Whether an access that begins at `va` and goes upwards from there may be tried.
///
/// It never reaches the hypervisor's area: below that lies the hole in which no address is canonical, and the first access there
/// faults. That is one comparison in place of four, for the records that every hypercall reads; a list of which a guest says how
/// long it is goes through [`access_ok`].
#[inline(always)]
#[must_use]
pub const fn begins_outside(va: GuestVa) -> bool {
    va.raw() >> HYPERVISOR_SHIFT != HYPERVISOR_TOP
}

/// Whether an address is canonical and outside the hypervisor's area. What is the guest's goes from the end of that area, past
/// the last address and the first, to where no address is canonical: one stretch.
#[inline(always)]
#[must_use]
pub const fn is_guests(va: GuestVa) -> bool {
    const END: u64 = (1_u64 << 47).wrapping_sub(HYPERVISOR_END);
    va.raw().wrapping_sub(HYPERVISOR_END) < END
}

/// Whether a guest may have `len` bytes at `va` accessed for it: canonical, no wrap, outside the hypervisor's area.
#[must_use]
#[inline]
pub fn access_ok(va: GuestVa, len: u64) -> bool {
    let Some(last) = va.raw().checked_add(len.saturating_sub(1)) else { return false };
    let low = last < 0x0000_8000_0000_0000;
    let high = va.raw() >= HYPERVISOR_END;
    // Both parts are canonical as a whole.
    low || high
}

/// The address of `WORDS` words that a guest may have accessed for it, the lowest first. Only a check makes one, so whoever is
/// given one need not check again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked<const WORDS: usize>(GuestVa);

impl<const WORDS: usize> Checked<WORDS> {
    /// The words at `va`; `None` where they are not the guest's to name.
    #[inline(always)]
    #[must_use]
    pub fn new(va: GuestVa) -> Option<Self> {
        begins_outside(va).then_some(Self(va))
    }

    /// Where they are.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> GuestVa {
        self.0
    }
}

/// A record of `WORDS` words, alone or in a list that was checked as a whole, to its last byte: any part of it may be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<const WORDS: usize>(GuestVa);

impl<const WORDS: usize> Record<WORDS> {
    /// A record alone, at `va`; parts of it may be written once it has been read as a whole.
    ///
    /// # Errors
    /// `EFAULT` where it is not the guest's to name.
    #[inline(always)]
    pub fn alone(va: u64) -> Result<Self, Errno> {
        // One that begins below the hypervisor's area and reaches into it faults when it is read.
        let va = GuestVa::new(va);
        if begins_outside(va) { Ok(Self(va)) } else { Err(Errno::Fault) }
    }

    /// Where it is.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> GuestVa {
        self.0
    }

    /// `REST` of its words from word `FROM` on.
    #[inline(always)]
    #[must_use]
    pub const fn part<const FROM: usize, const REST: usize>(self) -> Checked<REST> {
        const { assert!(FROM + REST <= WORDS) };
        Checked(GuestVa::new(self.0.raw() + (FROM * 8) as u64))
    }
}

/// A list of records of `WORDS` words each, checked as a whole, taken one after the other.
#[derive(Clone, Copy, Debug)]
pub struct CheckedList<const WORDS: usize> {
    at: GuestVa,
    left: u64,
}

impl<const WORDS: usize> CheckedList<WORDS> {
    /// `count` records at `va`.
    ///
    /// # Errors
    /// `EFAULT` where the list wraps or is not the guest's to name.
    pub fn new(va: u64, count: u64) -> Result<Self, Errno> {
        let bytes = ((WORDS * 8) as u64).checked_mul(count).ok_or(Errno::Fault)?;
        let at = GuestVa::new(va);
        if count != 0 && !access_ok(at, bytes) {
            return Err(Errno::Fault);
        }
        Ok(Self { at, left: count })
    }

    /// The next record.
    #[inline(always)]
    #[must_use]
    pub fn first(&self) -> Option<Record<WORDS>> {
        (self.left != 0).then_some(Record(self.at))
    }

    /// Goes on to the one behind it.
    #[inline(always)]
    pub fn advance(&mut self) {
        if self.left != 0 {
            self.left -= 1;
            // A list may end where the addresses do.
            self.at = GuestVa::new(self.at.raw().wrapping_add((WORDS * 8) as u64));
        }
    }

    /// Records that are left.
    #[inline(always)]
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Where they are.
    #[must_use]
    pub const fn address(&self) -> GuestVa {
        self.at
    }
}

/// An array of `count` values of `T` in the current guest's memory.
#[derive(Debug)]
pub struct GuestPtr<T> {
    base: GuestVa,
    count: u64,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for GuestPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestPtr<T> {}

impl<T> GuestPtr<T> {
    /// Bytes of one value.
    #[must_use]
    pub fn stride() -> u64 {
        u64::try_from(size_of::<T>()).unwrap_or(u64::MAX)
    }

    /// One value at `va`.
    ///
    /// # Errors
    /// `EFAULT` where it is not the guest's to name.
    #[inline(always)]
    pub fn new(va: u64) -> Result<Self, Errno> {
        let base = GuestVa::new(va);
        // Copies go upwards.
        if begins_outside(base) { Ok(Self { base, count: 1, of: PhantomData }) } else { Err(Errno::Fault) }
    }

    /// `count` values at `va`.
    ///
    /// # Errors
    /// `EFAULT` where the range wraps or is not the guest's to name.
    pub fn array(va: u64, count: u64) -> Result<Self, Errno> {
        let bytes = Self::stride().checked_mul(count).ok_or(Errno::Fault)?;
        let base = GuestVa::new(va);
        if count != 0 && !access_ok(base, bytes) {
            return Err(Errno::Fault);
        }
        Ok(Self { base, count, of: PhantomData })
    }

    /// Values in the array.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Address of the first value.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.raw()
    }

    /// Address of value `index`.
    #[inline(always)]
    fn at(&self, index: u64) -> Result<GuestVa, Errno> {
        if index >= self.count {
            return Err(Errno::Fault);
        }
        let offset = Self::stride().checked_mul(index).ok_or(Errno::Fault)?;
        self.base.raw().checked_add(offset).map(GuestVa::new).ok_or(Errno::Fault)
    }
}

/// Whether a value is copied word by word rather than by a call.
const fn is_small<T>() -> bool {
    size_of::<T>() <= 8 * MOST_WORDS && size_of::<T>().is_multiple_of(4)
}

#[inline(always)]
fn read_value<T: FromBytes + IntoBytes>(m: &impl GuestMem, at: GuestVa) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    let copied = if is_small::<T>() {
        m.copy_small_from_guest(value.as_mut_bytes(), at)
    } else {
        m.copy_from_guest(value.as_mut_bytes(), at)
    };
    copied.map_err(|_| Errno::Fault)?;
    Ok(value)
}

impl<T: FromBytes + IntoBytes + Immutable> GuestPtr<T> {
    /// Copies value `index` in: the one time that these bytes are read.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(always)]
    pub fn read_at(&self, m: &impl GuestMem, index: u64) -> Result<T, Errno> {
        read_value(m, self.at(index)?)
    }

    /// Copies the first value in.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(always)]
    pub fn read(&self, m: &impl GuestMem) -> Result<T, Errno> {
        if self.count == 0 {
            return Err(Errno::Fault);
        }
        read_value(m, self.base)
    }

    /// Copies value `index` out.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(always)]
    pub fn write_at(&self, m: &impl GuestMem, index: u64, value: &T) -> Result<(), Errno> {
        let at = self.at(index)?;
        let copied = if is_small::<T>() {
            m.copy_small_to_guest(at, value.as_bytes())
        } else {
            m.copy_to_guest(at, value.as_bytes())
        };
        copied.map_err(|_| Errno::Fault)
    }

    /// Copies the first value out.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(always)]
    pub fn write(&self, m: &impl GuestMem, value: &T) -> Result<(), Errno> {
        self.write_at(m, 0, value)
    }

    /// Copies consecutive values in, starting at `index`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_slice(&self, m: &impl GuestMem, index: u64, dst: &mut [T]) -> Result<(), Errno> {
        self.check_slice(index, dst.len())?;
        m.copy_from_guest(dst.as_mut_bytes(), self.at(index)?).map_err(|_| Errno::Fault)
    }

    /// Copies consecutive values out, starting at `index`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_slice(&self, m: &impl GuestMem, index: u64, src: &[T]) -> Result<(), Errno> {
        self.check_slice(index, src.len())?;
        m.copy_to_guest(self.at(index)?, src.as_bytes()).map_err(|_| Errno::Fault)
    }

    fn check_slice(&self, index: u64, len: usize) -> Result<(), Errno> {
        let len = u64::try_from(len).map_err(|_| Errno::Fault)?;
        let end = index.checked_add(len).ok_or(Errno::Fault)?;
        if end > self.count { Err(Errno::Fault) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_END: u64 = 0x0000_8000_0000_0000;

    #[test]
    fn records_are_checked_to_their_last_byte() {
        let ok = |va| access_ok(GuestVa::new(va), 72);
        assert!(ok(0) && ok(LOW_END - 72) && ok(HYPERVISOR_END) && ok(u64::MAX - 71));
        for va in
            [LOW_END - 71, LOW_END, HYPERVISOR_START - 8, HYPERVISOR_START, HYPERVISOR_END - 8, u64::MAX - 70]
        {
            assert!(!ok(va), "{va:#x}");
        }
    }

    #[test]
    fn words_begin_outside_of_the_hypervisor() {
        let ok = |va| Checked::<9>::new(GuestVa::new(va)).is_some();
        for va in [HYPERVISOR_START, HYPERVISOR_START + 1, HYPERVISOR_END - 8, HYPERVISOR_END - 1] {
            assert!(!ok(va) && !is_guests(GuestVa::new(va)), "{va:#x}");
        }
        // What begins here and is not the guest's faults at its first word.
        for va in [0, LOW_END - 1, LOW_END, HYPERVISOR_START - 1, HYPERVISOR_END, u64::MAX] {
            assert!(ok(va), "{va:#x}");
            let last = access_ok(GuestVa::new(va), 1);
            assert_eq!(last, crate::regs::is_canonical(va), "{va:#x}: either one's own or not canonical");
            assert_eq!(last, is_guests(GuestVa::new(va)), "{va:#x}");
        }
    }

    #[test]
    fn a_list_is_checked_as_a_whole_and_ends() {
        assert!(CheckedList::<8>::new(HYPERVISOR_START, 0).is_ok_and(|list| list.first().is_none()));
        for (va, count) in [(LOW_END - 64, 2), (HYPERVISOR_START, 1), (u64::MAX - 63, 2), (0, u64::MAX)] {
            assert!(CheckedList::<8>::new(va, count).is_err(), "{count} at {va:#x}");
        }
        let Ok(mut list) = CheckedList::<8>::new(LOW_END - 128, 2) else { panic!("a good list is refused") };
        let mut seen = 0;
        while let Some(record) = list.first() {
            assert_eq!(record.part::<1, 1>().address().raw(), LOW_END - 128 + 64 * seen + 8);
            list.advance();
            seen += 1;
        }
        assert_eq!((seen, list.left()), (2, 0));
        list.advance();
        assert_eq!(list.address().raw(), LOW_END);
        let Ok(mut last) = CheckedList::<8>::new(u64::MAX - 63, 1) else {
            panic!("the last record is refused")
        };
        last.advance();
        assert_eq!((last.first(), last.left()), (None, 0));
    }
}
