//! The PVH start structure (`xen/arch-x86/hvm/start_info.h`).

use super::{BootInfo, Module, Protocol, copy_text, read};
use hv_core::boot_memory::{Kind, MemoryMap, Range};
use hv_core::bounded::Bounded;

/// The structure's own magic number; the entry code hands it on as the loader's.
pub(super) const MAGIC: u32 = 0x336e_c578;

/// Reads the structure at `info`.
pub(super) fn collect(info: u64) -> BootInfo {
    let mut modules = Bounded::new(Module::default());
    let mut dropped = 0;
    let list: u64 = read(info + 16);
    for index in 0..u64::from(read::<u32>(info + 12)) {
        // Each record: address, size, line, reserved; 64 bits each.
        let record = list + index * 32;
        let start: u64 = read(record);
        let range = Range::new(start, start.saturating_add(read(record + 8)));
        let line = copy_text(read(record + 16));
        dropped += usize::from(modules.push(Module { range, line }).is_err());
    }
    let mut memory = MemoryMap::new();
    // The map exists from version 1 on.
    if read::<u32>(info + 4) >= 1 {
        let map: u64 = read(info + 40);
        for index in 0..u64::from(read::<u32>(info + 48)) {
            let entry = map + index * 24;
            memory.push(read(entry), read(entry + 8), Kind::from_e820(read(entry + 16)));
        }
    }
    dropped += memory.dropped();
    let rsdp = Some(read::<u64>(info + 32)).filter(|&at| at != 0);
    BootInfo { protocol: Protocol::Pvh, memory, line: copy_text(read(info + 24)), modules, rsdp, dropped }
}
