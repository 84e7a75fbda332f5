//! The interrupt descriptor table: one for all pcpus.
#![expect(unsafe_code, reason = "loads IDTR")]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::stubs::vector_entry;
use crate::arch::cpu::gdt::{HV_CS, ist};

/// A gate is two words.
static TABLE: [[AtomicU64; 2]; 256] = [const { [const { AtomicU64::new(0) }; 2] }; 256];

/// Vectors that a guest may raise by an instruction: `int3`, `into` and the system-call vector.
const RING_3_VECTORS: [usize; 3] = [3, 4, 0x80];
/// Present, 64-bit interrupt gate (Intel SDM volume 3, 6.14.1).
const GATE: u64 = 0x8e00;

/// Whether gates name stacks of their own, which need a TSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stacks {
    None,
    Own,
}

fn fill(selector: u16, stacks: Stacks) {
    for (vector, gate) in TABLE.iter().enumerate() {
        let handler = vector_entry(vector);
        let dpl = if RING_3_VECTORS.contains(&vector) { 3 } else { 0 };
        let ist = if stacks == Stacks::Own { ist::of_vector(vector) } else { 0 };
        let attributes = GATE | dpl << 13 | ist;
        let low = (handler & 0xffff)
            | u64::from(selector) << 16
            | attributes << 32
            | (handler >> 16 & 0xffff) << 48;
        gate[0].store(low, Relaxed);
        gate[1].store(handler >> 32, Relaxed);
    }
}

/// First table, for exceptions during boot: on the boot GDT, without stacks of their own.
pub(crate) fn init_early() {
    fill(8, Stacks::None);
    load();
}

/// The final table, once GDT and TSS are loaded.
pub(crate) fn init() {
    fill(HV_CS, Stacks::Own);
    load();
}

/// What LIDT and LGDT read.
#[repr(C, packed)]
pub(crate) struct TablePointer {
    pub(crate) limit: u16,
    pub(crate) base: u64,
}

/// Loads the table on this pcpu.
pub(crate) fn load() {
    let base = u64::try_from((&raw const TABLE).expose_provenance()).unwrap_or(0);
    let pointer = TablePointer { limit: 0xfff, base };
    // SAFETY: the table is static and filled with gates to the stubs.
    unsafe {
        core::arch::asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags))
    }
}
