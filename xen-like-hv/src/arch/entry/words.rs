//! A few words between guest and hypervisor, without the cost of a call: what hot paths use in place of `guest_copy`.
//!
//! Each access is one instruction that is registered in `.fixup_table`. Where a load faults, execution goes on behind it with
//! `failed` set; where a store faults, nothing more is stored. SMAP is lifted around the accesses by the sites that `stubs` patches.
//!
//! Callers check where a range begins. One that begins below the hypervisor's area and reaches in begins in the hole that is not
//! canonical: the first access faults. The loads behind it read the first words of the M2P, which guests may read, and are dropped.
#![expect(unsafe_code, reason = "accesses guest memory that may not be there")]

use core::arch::asm;

use hv_core::port::MOST_WORDS;

/// Loads the word at `base + OFFSET`; a fault sets `failed`.
///
/// # Safety
/// The word lies outside the hypervisor's area, and guest access is open.
#[inline(always)]
unsafe fn load<const OFFSET: usize>(base: u64, failed: &mut u32) -> u64 {
    let value;
    // SAFETY: reads memory that the hypervisor does not own, or goes on at 4.
    unsafe {
        asm!(
            "2: mov {value}, [{base} + {offset}]",
            "3:",
            ".pushsection .fixup_table, \"a\", @progbits",
            ".quad 2b, 4f",
            ".popsection",
            ".pushsection .text.fixup, \"ax\", @progbits",
            "4: mov {failed:e}, 1",
            "xor {value:e}, {value:e}",
            "jmp 3b",
            ".popsection",
            value = lateout(reg) value,
            base = in(reg) base,
            failed = inout(reg) *failed,
            offset = const OFFSET,
            options(nostack, readonly)
        );
    }
    value
}

/// Loads 32 bits at `base + offset`; a fault sets `failed`.
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn load_half(at: u64, failed: &mut u32) -> u32 {
    let value;
    // SAFETY: as in `load`.
    unsafe {
        asm!(
            "2: mov {value:e}, [{at}]",
            "3:",
            ".pushsection .fixup_table, \"a\", @progbits",
            ".quad 2b, 4f",
            ".popsection",
            ".pushsection .text.fixup, \"ax\", @progbits",
            "4: mov {failed:e}, 1",
            "xor {value:e}, {value:e}",
            "jmp 3b",
            ".popsection",
            value = lateout(reg) value,
            at = in(reg) at,
            failed = inout(reg) *failed,
            options(nostack, readonly)
        );
    }
    value
}

/// Stores a word at `base + OFFSET`, or goes on at the block after a fault.
macro_rules! store {
    ($base:expr, $offset:expr, $value:literal, $word:expr, $failed:block) => {
        // SAFETY: the caller vouches for the range: memory that the hypervisor does not own, or a fault; CR0.WP is set.
        unsafe {
            asm!(
                concat!("2: mov [{base} + {offset}], ", $value),
                ".pushsection .fixup_table, \"a\", @progbits",
                ".quad 2b, {failed}",
                ".popsection",
                value = in(reg) $word,
                base = in(reg) $base,
                offset = const $offset,
                failed = label $failed,
                options(nostack)
            );
        }
    };
}

/// Opens guest memory to the hypervisor.
#[inline(always)]
fn open() {
    // SAFETY: a no-operation, or STAC where the CPU has SMAP.
    unsafe {
        asm!(
            "2: .byte 0x0f, 0x1f, 0x00",
            ".pushsection .stac_sites, \"a\", @progbits",
            ".quad 2b",
            ".popsection",
            options(nostack)
        );
    }
}

/// Closes it again.
#[inline(always)]
fn close() {
    // SAFETY: a no-operation, or CLAC where the CPU has SMAP.
    unsafe {
        asm!(
            "2: .byte 0x0f, 0x1f, 0x00",
            ".pushsection .clac_sites, \"a\", @progbits",
            ".quad 2b",
            ".popsection",
            options(nostack)
        );
    }
}

/// Calls a macro with each index below [`MOST_WORDS`].
macro_rules! each_word {
    ($do:ident) => {
        $do!(0);
        $do!(1);
        $do!(2);
        $do!(3);
        $do!(4);
        $do!(5);
        $do!(6);
        $do!(7);
        $do!(8);
        $do!(9);
        $do!(10);
    };
}

/// Reads words of the guest, ascending; `None` after a fault.
///
/// # Safety
/// The range begins outside the hypervisor's area.
#[inline(always)]
pub(crate) unsafe fn read<const N: usize>(at: u64) -> Option<[u64; N]> {
    const { assert!(N <= MOST_WORDS) };
    let mut words = [0; N];
    let mut failed = 0;
    open();
    macro_rules! one {
        ($index:literal) => {
            if $index < N {
                // SAFETY: the caller vouches for the range.
                words[$index] = unsafe { load::<{ $index * 8 }>(at, &mut failed) };
            }
        };
    }
    each_word!(one);
    close();
    (failed == 0).then_some(words)
}

/// Writes words of the guest, ascending; `false` after a fault.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(crate) unsafe fn write<const N: usize>(at: u64, words: &[u64; N]) -> bool {
    const { assert!(N <= MOST_WORDS) };
    open();
    macro_rules! one {
        ($index:literal) => {
            if $index < N {
                store!(at, $index * 8, "{value}", words[$index], {
                    close();
                    return false;
                });
            }
        };
    }
    each_word!(one);
    close();
    true
}

/// Whether so many bytes can be moved by [`read_bytes`] and [`write_bytes`].
#[inline(always)]
pub(crate) const fn suits(len: usize) -> bool {
    len <= 8 * MOST_WORDS && len.is_multiple_of(4)
}

/// Reads bytes of the guest whose number the compiler knows, a multiple of four; `false` after a fault.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(crate) unsafe fn read_bytes(at: u64, dst: &mut [u8]) -> bool {
    let mut failed = 0;
    let len = dst.len();
    open();
    macro_rules! one {
        ($index:literal) => {
            if let Some(place) = dst.get_mut($index * 8..$index * 8 + 8) {
                // SAFETY: the caller vouches for the range.
                place.copy_from_slice(&unsafe { load::<{ $index * 8 }>(at, &mut failed) }.to_le_bytes());
            }
        };
    }
    each_word!(one);
    if let Some(place) = dst.get_mut(len & !7..)
        && place.len() == 4
    {
        // SAFETY: as above: the last four bytes of the range.
        let half = unsafe { load_half(at.wrapping_add(len as u64 & !7), &mut failed) };
        place.copy_from_slice(&half.to_le_bytes());
    }
    close();
    failed == 0
}

/// Writes bytes of the guest whose number the compiler knows, a multiple of four; `false` after a fault.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub(crate) unsafe fn write_bytes(at: u64, src: &[u8]) -> bool {
    open();
    macro_rules! one {
        ($index:literal) => {
            if let Some(word) = src.get($index * 8..$index * 8 + 8).and_then(|b| b.first_chunk()) {
                store!(at, $index * 8, "{value}", u64::from_le_bytes(*word), {
                    close();
                    return false;
                });
            }
        };
    }
    each_word!(one);
    if let Some(half) = src.get(src.len() & !7..).and_then(|b| b.first_chunk()) {
        // The last four bytes of the range.
        let at = at.wrapping_add(src.len() as u64 & !7);
        store!(at, 0, "{value:e}", u32::from_le_bytes(*half), {
            close();
            return false;
        });
    }
    close();
    true
}
