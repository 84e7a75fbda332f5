//! M2P and frame table: arrays by machine frame number, with memory behind them only where there is RAM.
//!
//! Both have 2 MiB pages. In the M2P, stretches without any RAM share one page of all ones ("no such frame"). The frame
//! table has memory everywhere below the end of RAM, since records of device frames are marked as such.
#![expect(unsafe_code, reason = "writes the M2P and lends out the frame table")]

use super::layout::{FRAME_TABLE_BASE, LARGE, M2P_BASE, PAGE, RAM_LIMIT, direct_map};
use super::{boot_alloc, paging};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_core::boot_memory::Range;
use hv_core::frame::PageInfo;

/// Bytes of an M2P entry.
const M2P_ENTRY: u64 = 8;
/// Frames that one page of the M2P covers: 1 GiB of memory.
const M2P_SPAN: u64 = LARGE / M2P_ENTRY;
/// Bytes of a record of the frame table.
const FRAME_RECORD: u64 = size_of::<PageInfo>() as u64;
/// Frames that one page of the frame table covers.
const RECORD_SPAN: u64 = LARGE / FRAME_RECORD;
const _: () = assert!(LARGE.is_multiple_of(FRAME_RECORD));

/// Machine addresses of the M2P's pages, for writing; 0 where there is no RAM.
static M2P_PAGES: [AtomicU64; (RAM_LIMIT / PAGE / M2P_SPAN) as usize] =
    [const { AtomicU64::new(0) }; (RAM_LIMIT / PAGE / M2P_SPAN) as usize];
/// One more than the highest frame.
static FRAME_COUNT: AtomicU64 = AtomicU64::new(0);
/// Pages each array got, for the log.
static PAGES: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

/// Makes both arrays.
pub(crate) fn build() {
    let frames = boot_alloc::memory_map().ram_end() / PAGE;
    FRAME_COUNT.store(frames, Ordering::Relaxed);
    let no_frame = boot_alloc::zeroed(LARGE, LARGE);
    boot_alloc::fill(no_frame, LARGE, 0xff);
    for (page, slot) in (0..frames.div_ceil(M2P_SPAN)).zip(&M2P_PAGES) {
        let address = M2P_BASE + page * LARGE;
        if has_ram(page * M2P_SPAN, M2P_SPAN) {
            let memory = boot_alloc::zeroed(LARGE, LARGE);
            boot_alloc::fill(memory, LARGE, 0xff);
            slot.store(memory, Ordering::Relaxed);
            PAGES[0].fetch_add(1, Ordering::Relaxed);
            paging::map(address, memory, LARGE, paging::GUEST_READ_ONLY);
        } else {
            paging::map(address, no_frame, LARGE, paging::GUEST_READ_ONLY);
        }
    }
    for page in 0..frames.div_ceil(RECORD_SPAN) {
        let address = FRAME_TABLE_BASE + page * LARGE;
        PAGES[1].fetch_add(1, Ordering::Relaxed);
        paging::map(address, boot_alloc::zeroed(LARGE, LARGE), LARGE, paging::DATA);
    }
}

/// Whether any of `count` frames from `first` on is RAM.
fn has_ram(first: u64, count: u64) -> bool {
    let span = Range::new(first * PAGE, (first + count) * PAGE);
    boot_alloc::memory_map().ram().any(|range| range.overlaps(&span))
}

/// One more than the highest frame of RAM.
pub(crate) fn frame_count() -> u64 {
    FRAME_COUNT.load(Ordering::Relaxed)
}

/// Bytes that M2P and frame table take.
pub(crate) fn bytes() -> (u64, u64) {
    let bytes = |n: usize| u64::from(PAGES[n].load(Ordering::Relaxed)) * LARGE;
    (bytes(0), bytes(1))
}

/// An M2P entry through the direct map, where RAM is behind it.
pub(crate) fn m2p_word(mfn: u64) -> Option<&'static AtomicU64> {
    let page = M2P_PAGES.get(usize::try_from(mfn / M2P_SPAN).ok()?)?.load(Ordering::Relaxed);
    if page == 0 {
        return None;
    }
    let address = direct_map(page) + mfn % M2P_SPAN * M2P_ENTRY;
    // SAFETY: the page is the M2P's for ever and in the direct map; it is reached only as atomics.
    Some(unsafe { AtomicU64::from_ptr(with_exposed_provenance_mut(usize::try_from(address).ok()?)) })
}

/// The frame table.
pub(crate) fn frame_table() -> &'static [PageInfo] {
    let count = usize::try_from(frame_count()).unwrap_or(0);
    let base = usize::try_from(FRAME_TABLE_BASE).unwrap_or(0);
    // SAFETY: the table is mapped in full, zeroed (a valid record), never unmapped, and lent out as shared atomics only.
    unsafe { core::slice::from_raw_parts(with_exposed_provenance(base), count) }
}
