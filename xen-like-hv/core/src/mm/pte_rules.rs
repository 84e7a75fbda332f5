//! What a guest may write into a page-table entry, and what the hypervisor adds. Pure.
//!
//! Invariant I10: flags are allowed from a list, never forbidden from one (XSA-182, XSA-148). A present entry of a level
//! above 1 has no PSE: there are no large pages for guests.
//!
//! Unlike Xen, GLOBAL is never set: a plain load of CR3 then drops every translation of a guest, and no stale one of
//! a domain can outlive a switch to another.

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;
use pv_abi::pte::{ADDRESS_MASK, Level, Pte, PteFlags};

/// Slots of an L4 that are the hypervisor's.
pub const HYPERVISOR_SLOTS: core::ops::Range<usize> = 256..272;

/// Cache attributes.
pub const CACHE_FLAGS: PteFlags = PteFlags::PWT.union(PteFlags::PCD).union(PteFlags::PAT);

/// What an entry of any level may have.
const COMMON: PteFlags = PteFlags::PRESENT
    .union(PteFlags::RW)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY)
    .union(PteFlags::AVAIL)
    .union(PteFlags::AVAIL_HIGH)
    .union(PteFlags::PKEY)
    .union(PteFlags::NX);

/// What may change in a present entry without a look at the frame behind it: no right to write, no cache attribute.
const HARMLESS: PteFlags =
    COMMON.difference(PteFlags::PRESENT).difference(PteFlags::RW).union(PteFlags::GLOBAL);

/// Whether slot `index` of a table of `level` is the guest's to change.
#[must_use]
pub fn is_guest_slot(level: Level, index: usize) -> bool {
    level != Level::L4 || !HYPERVISOR_SLOTS.contains(&index)
}

/// Checks an entry that maps nothing. Its address may be speculated upon (L1TF, XSA-273), so it must be 0 or name
/// nothing below `ram_end`. Linux stores inverted addresses in such entries, which pass.
///
/// # Errors
/// `EINVAL`.
#[inline]
pub fn check_absent(pte: Pte, level: Level, ram_end: Mfn) -> Result<(), Errno> {
    let mfn = pte.mfn();
    if pte.raw() == 0 || (mfn.raw() == 0 && level == Level::L1) {
        return Ok(());
    }
    let large = level != Level::L1 && pte.flags().contains(PteFlags::PSE);
    if large || (mfn.raw() != 0 && mfn < ram_end) { Err(Errno::Inval) } else { Ok(()) }
}

/// Checks the flags of a present L1 entry; cache attributes are looked at where the frame is known.
///
/// # Errors
/// `EINVAL`.
#[inline]
pub fn check_l1_flags(pte: Pte) -> Result<(), Errno> {
    check_flags(pte, COMMON.union(PteFlags::GLOBAL).union(CACHE_FLAGS))
}

/// Whether a present L1 entry has other flags than ordinary ones: cache attributes, or what [`check_l1_flags`] refuses.
#[must_use]
#[inline(always)]
pub const fn has_unusual_flags(pte: Pte) -> bool {
    pte.raw() & !USUAL != 0
}

const USUAL: u64 = COMMON.union(PteFlags::GLOBAL).bits() | ADDRESS_MASK;

/// Whether an L1 entry is present, has no unusual flags, and would be left as it is by [`adjust`]: what nearly all entries
/// of a user's tables are.
#[must_use]
#[inline(always)]
pub const fn is_plain_l1(pte: Pte) -> bool {
    const PLAIN: u64 = PteFlags::PRESENT.union(PteFlags::USER).bits();
    const MASK: u64 = PLAIN | PteFlags::GLOBAL.bits() | !USUAL;
    pte.raw() & MASK == PLAIN
}

/// Checks the flags of a present L2, L3 or L4 entry.
///
/// # Errors
/// `EINVAL`.
pub fn check_upper_flags(pte: Pte) -> Result<(), Errno> {
    check_flags(pte, COMMON)
}

#[inline]
fn check_flags(pte: Pte, allowed: PteFlags) -> Result<(), Errno> {
    if allowed.contains(pte.flags()) { Ok(()) } else { Err(Errno::Inval) }
}

/// The entry as it goes into the table: guests run at ring 3, so every present entry is a user's; an L1 entry that the
/// guest meant for its kernel is marked.
#[must_use]
#[inline]
pub fn adjust(pte: Pte, level: Level) -> Pte {
    if !pte.is_present() {
        return pte;
    }
    let mut flags = pte.flags();
    match level {
        Level::L1 => {
            if !flags.contains(PteFlags::USER) {
                flags |= PteFlags::GUEST_KERNEL;
            }
            flags -= PteFlags::GLOBAL;
        }
        Level::L2 | Level::L3 => {}
        Level::L4 => flags |= PteFlags::ACCESSED,
    }
    pte.with_flags(flags | PteFlags::USER)
}

/// Whether `new` may replace `old` without a look at the frame: the same frame, both present, and a difference in
/// harmless flags alone.
#[must_use]
#[inline]
pub fn differs_harmlessly(old: Pte, new: Pte) -> bool {
    let harmless = HARMLESS.bits();
    (old.raw() ^ new.raw()) & !harmless == 0 && new.is_present()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM_END: Mfn = Mfn::new(0x1000);

    fn pte(raw: u64) -> Pte {
        Pte::from_raw(raw)
    }

    #[test]
    fn xsa_182_fast_path_flags() {
        let harmless_bits = [2, 5, 6, 8, 9, 10, 11, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63];
        for bit in 0..64 {
            let old = pte(0x5001);
            let new = pte(old.raw() ^ 1 << bit);
            assert_eq!(differs_harmlessly(old, new), harmless_bits.contains(&bit), "bit {bit}");
        }
    }

    #[test]
    fn xsa_148_large_pages_are_refused() {
        for level in [Level::L2, Level::L3, Level::L4] {
            assert!(check_upper_flags(pte(0x5081)).is_err());
            assert!(check_absent(pte(0x80), level, RAM_END).is_err());
        }
        assert!(check_upper_flags(pte(0x5067)).is_ok());
    }

    #[test]
    fn upper_levels_have_neither_cache_attributes_nor_global() {
        for bit in [3, 4, 7, 8] {
            assert!(check_upper_flags(pte(0x5001 | 1 << bit)).is_err(), "bit {bit}");
            assert!(check_l1_flags(pte(0x5001 | 1 << bit)).is_ok(), "bit {bit}");
        }
    }

    #[test]
    fn l1tf_absent_entries_name_no_ram() {
        assert!(check_absent(pte(0), Level::L1, RAM_END).is_ok());
        assert!(check_absent(pte(0x1e6), Level::L1, RAM_END).is_ok(), "no address");
        assert!(check_absent(pte(0x5000), Level::L1, RAM_END).is_err());
        assert!(check_absent(pte(0x00ff_f000), Level::L1, RAM_END).is_err());
        assert!(check_absent(pte(0x0100_0000), Level::L1, RAM_END).is_ok());
        assert!(
            check_absent(pte(0x000f_ffff_ffff_a000), Level::L1, RAM_END).is_ok(),
            "Linux's inverted form"
        );
    }

    #[test]
    fn kernel_entries_are_marked_and_all_are_users() {
        assert_eq!(adjust(pte(0x5063), Level::L1), pte(0x5067 | 1 << 52));
        assert_eq!(adjust(pte(0x5067), Level::L1), pte(0x5067));
        assert_eq!(adjust(pte(0x5167), Level::L1), pte(0x5067), "never global");
        assert_eq!(adjust(pte(0x5003), Level::L2), pte(0x5007));
        assert_eq!(adjust(pte(0x5003), Level::L4), pte(0x5027));
        assert_eq!(adjust(pte(0x5002), Level::L1), pte(0x5002), "absent entries stay");
    }

    #[test]
    fn the_short_tests_of_flags_agree_with_the_long_ones() {
        for bits in 0..1_u64 << 12 {
            let entry = pte(0x5001 | (bits & 0xfff) | (bits & 1) << 58);
            let unusual = entry.flags().intersects(CACHE_FLAGS) || check_l1_flags(entry).is_err();
            assert_eq!(has_unusual_flags(entry), unusual, "{entry}");
            assert_eq!(is_plain_l1(entry), !unusual && adjust(entry, Level::L1) == entry, "{entry}");
            assert!(!is_plain_l1(pte(entry.raw() & !1)), "absent");
        }
    }

    #[test]
    fn the_hypervisors_slots_are_not_the_guests() {
        assert!(
            is_guest_slot(Level::L4, 255) && is_guest_slot(Level::L4, 272) && is_guest_slot(Level::L3, 256)
        );
        assert!(!is_guest_slot(Level::L4, 256) && !is_guest_slot(Level::L4, 271));
    }
}
