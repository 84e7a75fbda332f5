//! The multiboot 1 information structure (Multiboot Specification 0.6.96, section 3.3).

use super::{BootInfo, Module, Protocol, copy_text, read, without_name};
use hv_core::boot_memory::{Kind, MemoryMap, Range};
use hv_core::bounded::Bounded;

/// What the loader leaves in EAX.
pub(super) const MAGIC: u32 = 0x2BAD_B002;

const HAS_BASIC_MEMORY: u32 = 1 << 0;
const HAS_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;

/// The 32-bit word at a field's offset.
fn word(info: u32, offset: u32) -> u32 {
    read(u64::from(info) + u64::from(offset))
}

/// Reads the structure at `info`.
pub(super) fn collect(info: u32) -> BootInfo {
    let flags = word(info, 0);
    let line = if flags & HAS_LINE != 0 { without_name(copy_text(u64::from(word(info, 16)))) } else { "" };
    let mut modules = Bounded::new(Module::default());
    let mut dropped = 0;
    if flags & HAS_MODULES != 0 {
        for index in 0..word(info, 20) {
            // Each record: start, end, line, reserved.
            let record = word(info, 24) + index * 16;
            let range = Range::new(u64::from(word(record, 0)), u64::from(word(record, 4)));
            let line = copy_text(u64::from(word(record, 8)));
            dropped += usize::from(modules.push(Module { range, line }).is_err());
        }
    }
    let memory = memory_map(info, flags);
    dropped += memory.dropped();
    BootInfo { protocol: Protocol::Multiboot, memory, line, modules, rsdp: None, dropped }
}

/// The e820 map, or what the two basic numbers tell: KiB below 640 KiB and from 1 MiB on.
fn memory_map(info: u32, flags: u32) -> MemoryMap {
    let mut map = MemoryMap::new();
    if flags & HAS_MAP != 0 {
        let (bytes, start) = (word(info, 44), word(info, 48));
        let mut offset = 0;
        while offset < bytes {
            // Each entry: size of what follows, address (64 bits), length (64 bits), kind.
            let entry = u64::from(start) + u64::from(offset);
            map.push(read(entry + 4), read(entry + 12), Kind::from_e820(read(entry + 20)));
            offset = offset.saturating_add(read::<u32>(entry).saturating_add(4));
        }
    } else if flags & HAS_BASIC_MEMORY != 0 {
        map.push(0, u64::from(word(info, 4)) << 10, Kind::Ram);
        map.push(1 << 20, u64::from(word(info, 8)) << 10, Kind::Ram);
    }
    map
}
