//! Registers of devices that the hypervisor touches now and then: each pcpu has a page of addresses for them, which shows a
//! frame for one access only.
#![expect(unsafe_code, reason = "device registers")]

use super::layout::{PAGE, register_window};
use super::paging;
use crate::arch::cpu::regs::invlpg;
use crate::percpu::{self, MAX_PCPUS};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use hv_core::port::PortWidth;

/// The page-table entries of all pcpus' pages.
static ENTRIES: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the tables.
pub(crate) fn init() {
    ENTRIES.store(paging::leaf_entries(register_window(0), MAX_PCPUS as u64), Ordering::Relaxed);
}

/// Has `f` access a machine address through this pcpu's page. The hypervisor runs with interrupts off: nobody else uses the
/// page meanwhile.
fn show<R>(at: u64, f: impl FnOnce(usize) -> R) -> R {
    let cpu = percpu::this_cpu();
    let first = ENTRIES.load(Ordering::Relaxed);
    assert!(!first.is_null() && cpu < MAX_PCPUS, "no window on registers");
    // SAFETY: the entries of all pcpus' pages are consecutive in a table that is never freed, reached as atomics only.
    let entry = unsafe { &*first.add(cpu) };
    entry.store(at & !(PAGE - 1) | paging::DEVICE_WINDOW, Ordering::Relaxed);
    let page = register_window(cpu);
    let result = f(usize::try_from(page + at % PAGE).unwrap_or(0));
    entry.store(0, Ordering::Relaxed);
    invlpg(page);
    result
}

/// Reads a register outside RAM, which does not cross its four bytes.
pub(crate) fn read(at: u64, width: PortWidth) -> u32 {
    show(at, |address| {
        // SAFETY: the core has checked that no RAM and no controller of the hypervisor's is there; the page is mapped.
        unsafe {
            match width {
                PortWidth::Byte => with_exposed_provenance_mut::<u8>(address).read_volatile().into(),
                PortWidth::Word => with_exposed_provenance_mut::<u16>(address).read_volatile().into(),
                PortWidth::Dword => with_exposed_provenance_mut::<u32>(address).read_volatile(),
            }
        }
    })
}

/// Writes a register outside RAM.
pub(crate) fn write(at: u64, width: PortWidth, value: u32) {
    let [b0, b1, ..] = value.to_le_bytes();
    show(at, |address| {
        // SAFETY: as in `read`.
        unsafe {
            match width {
                PortWidth::Byte => with_exposed_provenance_mut::<u8>(address).write_volatile(b0),
                PortWidth::Word => {
                    with_exposed_provenance_mut::<u16>(address).write_volatile(u16::from_le_bytes([b0, b1]));
                }
                PortWidth::Dword => with_exposed_provenance_mut::<u32>(address).write_volatile(value),
            }
        }
    });
}
