//! One virtio ring in the legacy layout: descriptors and the driver's ring, then the device's ring on its own page.
//!
//! Each request takes exactly one descriptor: a single buffer or an indirect table. So a descriptor's index
//! names the request, and the free list is a plain stack. Everything the device writes is checked before use:
//! an index that names no request in flight is dropped.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use pv_abi::frame::{PAGE_SHIFT, PAGE_SIZE};
use pv_abi::ids::MachAddr;
use pv_guest_kernel::privileged::dma::DmaBuf;

const DESC_BYTES: usize = 16;
/// This buffer is for the device to write.
pub(crate) const DESC_WRITE: u16 = 2;
/// Another descriptor follows; only used inside indirect tables.
pub(crate) const DESC_NEXT: u16 = 1;
const DESC_INDIRECT: u16 = 4;
/// In the used ring's flags: the device looks at the ring without being told.
const NO_NOTIFY: u16 = 1;
/// In the driver's ring's flags: the driver looks at the ring without being told.
const NO_INTERRUPT: u16 = 1;
/// The layout allows 32768; more than this many requests in flight gain nothing.
const MAX_SIZE: u16 = 1024;

/// Why a ring could not be made.
#[derive(Debug)]
pub(crate) enum QueueError {
    /// The device has no such ring, or one of a size that cannot be.
    Absent,
    /// No memory that is contiguous for the device.
    NoMemory,
}

/// What a descriptor describes.
pub(crate) enum Buffer {
    /// One buffer that the device reads.
    Read(MachAddr, u32),
    /// One buffer that the device writes.
    Write(MachAddr, u32),
    /// A table of descriptors, length in bytes.
    Indirect(MachAddr, u32),
}

/// The driver's half of a ring.
pub(crate) struct Queue {
    mem: DmaBuf,
    index: u16,
    size: u16,
    avail: usize,
    used: usize,
    free: Vec<u16>,
    in_flight: Vec<bool>,
    /// Driver's producer index.
    avail_idx: u16,
    /// Next entry of the device's ring to look at.
    used_idx: u16,
}

/// Offsets of the driver's ring and of the device's ring, and the bytes of it all.
fn layout(size: u16) -> (usize, usize, usize) {
    let n = usize::from(size);
    let avail = DESC_BYTES * n;
    let used = (avail + 6 + 2 * n).next_multiple_of(PAGE_SIZE);
    (avail, used, (used + 6 + 8 * n).next_multiple_of(PAGE_SIZE))
}

/// Writes a descriptor at `offset` of `mem`.
pub(crate) fn write_desc(mem: &DmaBuf, offset: usize, addr: MachAddr, len: u32, flags: u16, next: u16) {
    mem.write_u64(offset, addr.raw());
    mem.write_u32(offset + 8, len);
    mem.write_u16(offset + 12, flags);
    mem.write_u16(offset + 14, next);
}

impl Queue {
    /// Makes an empty ring of the size the device dictates, for up to `depth` requests in flight.
    pub(crate) fn new(index: u16, size: u16, depth: u16) -> Result<Self, QueueError> {
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(QueueError::Absent);
        }
        let (avail, used, bytes) = layout(size);
        let mem = DmaBuf::alloc(bytes).ok_or(QueueError::NoMemory)?;
        let depth = depth.min(size);
        let in_flight = (0..depth).map(|_| false).collect();
        let free = (0..depth).rev().collect();
        Ok(Self { mem, index, size, avail, used, free, in_flight, avail_idx: 0, used_idx: 0 })
    }

    /// Which ring of the device this is.
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The page number the device is told. [`DmaBuf`] stays below 2^44 bytes, as the legacy register needs.
    pub(crate) fn page_number(&self) -> u32 {
        u32::try_from(self.mem.maddr().raw() >> PAGE_SHIFT).unwrap_or(0)
    }

    /// How many requests can be in flight.
    pub(crate) fn depth(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes a free descriptor for a request that is about to be written; `None` when the ring is full.
    pub(crate) fn claim(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives a claimed descriptor to the device.
    pub(crate) fn publish(&mut self, id: u16, buffer: &Buffer) {
        let (addr, len, flags) = match *buffer {
            Buffer::Read(addr, len) => (addr, len, 0),
            Buffer::Write(addr, len) => (addr, len, DESC_WRITE),
            Buffer::Indirect(addr, len) => (addr, len, DESC_INDIRECT),
        };
        write_desc(&self.mem, DESC_BYTES * usize::from(id), addr, len, flags, 0);
        if let Some(flag) = self.in_flight.get_mut(usize::from(id)) {
            *flag = true;
        }
        let slot = usize::from(self.avail_idx % self.size);
        self.mem.write_u16(self.avail + 4 + 2 * slot, id);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        // The entry must be seen before the index that publishes it.
        fence(Ordering::Release);
        self.mem.write_u16(self.avail + 2, self.avail_idx);
    }

    /// Whether the device wants to be told about what was pushed.
    pub(crate) fn needs_notify(&self) -> bool {
        // Our index must be visible before the flag is read, or both sides could sleep.
        fence(Ordering::SeqCst);
        self.mem.read_u16(self.used) & NO_NOTIFY == 0
    }

    /// The device need not interrupt when it has finished a request.
    pub(crate) fn mute(&mut self) {
        self.mem.write_u16(self.avail, NO_INTERRUPT);
    }

    /// The device interrupts again. What it finished just before is found by looking once more.
    pub(crate) fn unmute(&mut self) {
        self.mem.write_u16(self.avail, 0);
        fence(Ordering::SeqCst);
    }

    /// Gives back a descriptor whose request is over, or was never published.
    pub(crate) fn release(&mut self, id: u16) {
        self.free.push(id);
    }

    /// Whether the device has finished a request that was not taken yet.
    pub(crate) fn has_answer(&self) -> bool {
        self.mem.read_u16(self.used + 2) != self.used_idx
    }

    /// The next finished request: its number and how many bytes the device wrote. Its descriptor stays taken
    /// until [`Queue::release`].
    pub(crate) fn pop(&mut self) -> Option<(u16, u32)> {
        while self.mem.read_u16(self.used + 2) != self.used_idx {
            fence(Ordering::Acquire);
            let slot = usize::from(self.used_idx % self.size);
            let id = self.mem.read_u32(self.used + 4 + 8 * slot);
            let len = self.mem.read_u32(self.used + 8 + 8 * slot);
            self.used_idx = self.used_idx.wrapping_add(1);
            let Ok(id) = u16::try_from(id) else { continue };
            if let Some(flag) = self.in_flight.get_mut(usize::from(id))
                && core::mem::take(flag)
            {
                return Some((id, len));
            }
        }
        None
    }
}
