//! The shared-info page: what the hypervisor and this domain tell one another without hypercalls.

#![expect(unsafe_code, reason = "maps a page that the hypervisor writes, seen only as atomics")]

use core::cell::UnsafeCell;

use pv_abi::ids::MachAddr;
use pv_abi::pte::{Pte, PteFlags};
use pv_abi::shared_info::{SharedInfo, VcpuInfo};

use crate::hypercall::{self, mmu};

/// The page whose mapping is exchanged for the shared one. Until then it is a plain zeroed page, which reads as "events
/// open, none pending", so the rest of the SDK need not know how far the boot has come.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: only reached as `&SharedInfo`, which is made of atomics.
unsafe impl Sync for Page {}

static PAGE: Page = Page(UnsafeCell::new([0; 4096]));

/// Maps the page at its machine address from start_info.
pub(crate) fn init(address: MachAddr) -> hypercall::Result {
    let flags = PteFlags::PRESENT | PteFlags::RW | PteFlags::NX | PteFlags::ACCESSED | PteFlags::DIRTY;
    let va = PAGE.0.get().addr() as u64;
    // SAFETY: replaces one page of our own that holds nothing yet; both old and new contents are valid.
    unsafe { mmu::update_va_mapping(va, Pte::new(address.mfn(), flags)) }
}

/// The shared page.
#[inline]
#[must_use]
pub fn info() -> &'static SharedInfo {
    // SAFETY: the page is mapped for ever, big and aligned enough, and the type is all atomics.
    unsafe { &*PAGE.0.get().cast::<SharedInfo>() }
}

/// The part of the shared page that belongs to this vcpu.
#[inline]
#[must_use]
pub fn vcpu_info() -> &'static VcpuInfo {
    &info().vcpu_info[crate::arch::percpu::vcpu_index()]
}
