//! Frame numbers: the guest's own (pfn) and the machine's (mfn).
//!
//! The p2m list is ours; the hypervisor only gave its first contents. The M2P is the hypervisor's, readable at a fixed
//! address.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pv_abi::frame::{INVALID_P2M_ENTRY, MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_START};
use pv_abi::ids::{MachAddr, Mfn, Pfn};

use super::{PAGE, index};

static LIST: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Takes over the list that the builder left at `va`.
pub(super) fn init(va: u64, count: u64) {
    LIST.store(core::ptr::with_exposed_provenance_mut(index(va)), Ordering::Relaxed);
    COUNT.store(count, Ordering::Release);
}

/// How many pfns the domain has.
#[must_use]
pub fn count() -> u64 {
    COUNT.load(Ordering::Acquire)
}

fn entry(pfn: Pfn) -> Option<&'static AtomicU64> {
    if pfn.raw() >= count() {
        return None;
    }
    // SAFETY: the list has `count` entries and stays mapped; entries are only used as atomics.
    Some(unsafe { &*LIST.load(Ordering::Relaxed).add(index(pfn.raw())) })
}

/// The machine frame behind `pfn`, if it has one.
#[must_use]
pub fn mfn_of(pfn: Pfn) -> Option<Mfn> {
    let raw = entry(pfn)?.load(Ordering::Relaxed);
    (raw != INVALID_P2M_ENTRY).then(|| Mfn::new(raw))
}

/// Records that another machine frame (or none) is behind `pfn`.
pub(crate) fn set(pfn: Pfn, mfn: Option<Mfn>) {
    if let Some(entry) = entry(pfn) {
        entry.store(mfn.map_or(INVALID_P2M_ENTRY, Mfn::raw), Ordering::Relaxed);
    }
}

/// The pfn of a machine frame of this domain.
#[must_use]
pub fn pfn_of(mfn: Mfn) -> Option<Pfn> {
    if mfn.raw() >= MACH2PHYS_NR_ENTRIES {
        return None;
    }
    let pfn = Pfn::new(crate::arch::probe::read_u64(MACH2PHYS_VIRT_START + mfn.raw() * 8)?);
    // The entry of a foreign frame is somebody else's number; ours agree in both directions.
    (mfn_of(pfn) == Some(mfn)).then_some(pfn)
}

/// The machine address of a frame.
#[must_use]
pub fn maddr_of(pfn: Pfn) -> Option<MachAddr> {
    mfn_of(pfn).map(Mfn::to_maddr)
}

/// The machine frame behind an address of this kernel.
#[must_use]
pub fn va_to_mfn(va: u64) -> Option<Mfn> {
    match super::direct_to_pfn(va) {
        Some(pfn) => mfn_of(pfn),
        None => super::table::walk(va).map(|pte| pte.mfn()),
    }
}

/// The machine address behind an address of this kernel.
#[must_use]
pub fn va_to_maddr(va: u64) -> Option<MachAddr> {
    va_to_mfn(va).map(|mfn| MachAddr::new(mfn.to_maddr().raw() + va % PAGE))
}
