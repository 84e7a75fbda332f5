//! The interrupt descriptor table: one for all pcpus, filled before the first of them loads it.
#![expect(unsafe_code, reason = "loads IDTR")]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::cpu_info::ist;
use super::stubs::{VECTOR_STUB_BYTES, vector_stubs};

/// The hypervisor's 64-bit code selector.
pub(crate) const HYPERVISOR_CS: u16 = 0xe008;

/// A gate is two words.
static IDT: [[AtomicU64; 2]; 256] = [const { [const { AtomicU64::new(0) }; 2] }; 256];

/// Vectors that a guest may raise by an instruction: `int3`, `into` and the system-call vector.
const RING_3_VECTORS: [usize; 3] = [3, 4, 0x80];

fn ist_of(vector: usize) -> u8 {
    match vector {
        1 => ist::DEBUG,
        2 => ist::NMI,
        8 => ist::DOUBLE_FAULT,
        18 => ist::MACHINE_CHECK,
        _ => 0,
    }
}

/// Fills the table.
pub(crate) fn fill() {
    let base = (&raw const vector_stubs).expose_provenance();
    for (vector, gate) in IDT.iter().enumerate() {
        let handler = u64::try_from(base + vector * VECTOR_STUB_BYTES).unwrap_or(0);
        let dpl = if RING_3_VECTORS.contains(&vector) { 3 } else { 0 };
        // Present, 64-bit interrupt gate (SDM vol. 3, 6.14.1).
        let attributes = 0x8e00_u64 | dpl << 13 | u64::from(ist_of(vector));
        let low = (handler & 0xffff)
            | u64::from(HYPERVISOR_CS) << 16
            | attributes << 32
            | (handler >> 16 & 0xffff) << 48;
        gate[0].store(low, Relaxed);
        gate[1].store(handler >> 32, Relaxed);
    }
}

/// Loads the table on this pcpu.
pub(crate) fn load() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let base = u64::try_from((&raw const IDT).expose_provenance()).unwrap_or(0);
    let pointer = Pointer { limit: 4095, base };
    // SAFETY: the table is static and filled with gates to the stubs.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}
