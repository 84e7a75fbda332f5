//! The boot allocator: hands out frames until the frame table's own allocator takes over what is left.
#![expect(unsafe_code, reason = "clears frames")]

use super::layout::{PAGE, direct_map, image_to_machine};
use super::paging::image_symbols;
use crate::arch::boot;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::boot_memory::{MemoryMap, Range, RangeList};
use hv_sync::{SpinLock, rank};
use spin::Once;

static FREE: SpinLock<RangeList> = SpinLock::new(rank::HEAP, RangeList::new());
/// Frames above this are not mapped yet.
static LIMIT: AtomicU64 = AtomicU64::new(4 << 30);
static MAP: Once<MemoryMap> = Once::new();

/// Memory below this is left alone, but for the trampoline: firmware data, the screen, and what SMM left.
pub(crate) const LOW_MEMORY: u64 = 1 << 20;

/// Fills the allocator: all RAM but the first MiB, the image and the modules.
pub(crate) fn init(map: MemoryMap) {
    let mut free = FREE.lock();
    map.ram().for_each(|range| free.insert(range));
    free.remove(Range::new(0, LOW_MEMORY));
    free.remove(Range::new(LOW_MEMORY, image_to_machine(image_symbols().image_end)));
    for module in boot::info().modules.as_slice() {
        free.remove(module.range.frames_touched());
    }
    MAP.call_once(|| map);
}

/// The sanitised memory map.
pub(crate) fn memory_map() -> &'static MemoryMap {
    MAP.wait()
}

/// From now on memory above 4 GiB is mapped too.
pub(crate) fn use_all_memory() {
    LIMIT.store(u64::MAX, Ordering::Relaxed);
}

/// Takes aligned bytes from the top of memory.
pub(crate) fn try_take(bytes: u64, align: u64) -> Option<Range> {
    FREE.lock().take_top(bytes, align, LIMIT.load(Ordering::Relaxed))
}

/// Takes and clears contiguous frames. Boot cannot go on without them.
pub(crate) fn zeroed_frames(count: u64) -> u64 {
    zeroed(count * PAGE, PAGE)
}

/// Takes and clears aligned memory. Boot cannot go on without it.
pub(crate) fn zeroed(bytes: u64, align: u64) -> u64 {
    let range = try_take(bytes, align);
    assert!(range.is_some(), "out of memory during boot: {bytes} bytes wanted");
    let start = range.map_or(0, |r| r.start);
    fill(start, bytes, 0);
    start
}

/// Fills mapped memory that was just taken.
pub(crate) fn fill(start: u64, bytes: u64, value: u8) {
    let (address, length) = (to_usize(direct_map(start)), to_usize(bytes));
    // SAFETY: the range was taken from the free list and lies below the mapped limit, so it is mapped and unused.
    unsafe { with_exposed_provenance_mut::<u8>(address).write_bytes(value, length) }
}

/// Gives memory back: modules that were used up, temporary buffers.
pub(crate) fn give_back(range: Range) {
    FREE.lock().insert(range);
}

/// Bytes left.
pub(crate) fn free_bytes() -> u64 {
    FREE.lock().bytes()
}

/// Takes everything that is left, for the frame allocator; from then on the boot allocator has nothing.
pub(crate) fn hand_over() -> RangeList {
    core::mem::take(&mut *FREE.lock())
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(0)
}
