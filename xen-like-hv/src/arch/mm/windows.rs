//! What a pcpu's descriptor-table windows show: the running guest's GDT and LDT.
//!
//! A window is a stretch of addresses that only its pcpu uses, so entries are rewritten without asking others; each page
//! is forgotten by the pcpu's own TLB as it changes.
#![expect(unsafe_code, reason = "rewrites page-table entries and loads LDTR")]

use super::layout::{self, GDT_WINDOW_PAGES, PAGE, RESERVED_GDT_PAGE, direct_map, gdt_window, ldt_window};
use super::paging;
use crate::arch::cpu::gdt::{LDT_SELECTOR, system_segment};
use crate::arch::cpu::regs::invlpg;
use crate::percpu;
use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use pv_abi::ids::Mfn;

/// This pcpu's window entries: GDT pages first, then LDT pages.
fn entries() -> &'static [AtomicU64] {
    let first = percpu::this().window_entries.load(Ordering::Relaxed);
    let count = usize::try_from(2 * GDT_WINDOW_PAGES).unwrap_or(0);
    // SAFETY: the entries of this pcpu's windows, consecutive in a table that is never freed, reached as atomics only.
    unsafe { core::slice::from_raw_parts(first, count) }
}

/// Shows `frames` from `address` on, and `filler` in the rest of the places, which those beyond the first `used` hold
/// already.
fn show(places: &[AtomicU64], address: u64, frames: &[Mfn], filler: u64, used: &AtomicUsize) {
    let count = used.load(Ordering::Relaxed).max(frames.len());
    used.store(frames.len(), Ordering::Relaxed);
    for (index, place) in places.iter().enumerate().take(count) {
        // Writable, since the CPU sets the accessed bit of descriptors it loads.
        let wanted = frames.get(index).map_or(filler, |mfn| mfn.to_maddr().raw() | paging::WINDOW);
        if place.load(Ordering::Relaxed) & paging::FRAME_AND_ACCESS != wanted & paging::FRAME_AND_ACCESS {
            place.store(wanted, Ordering::Relaxed);
            invlpg(address + index as u64 * PAGE);
        }
    }
}

/// Shows a guest's GDT frames. The table's limit stays: the hypervisor's descriptors lie behind the guest's, and what the
/// guest has not got reads as zeroes.
pub(crate) fn load_gdt(frames: &[Mfn], entries_used: u32) {
    let _ = entries_used;
    let guest_pages = usize::try_from(RESERVED_GDT_PAGE).unwrap_or(0);
    let zeroes = super::zero_frame() | paging::READ_ONLY_WINDOW;
    let [used, _] = &percpu::this().windows_used;
    show(&entries()[..guest_pages], gdt_window(percpu::this_cpu()), frames, zeroes, used);
}

/// Shows a guest's LDT frames and loads LDTR; without entries it holds the null selector.
pub(crate) fn load_ldt(frames: &[Mfn], entries_used: u32) {
    let [_, used] = &percpu::this().windows_used;
    if frames.is_empty() && used.load(Ordering::Relaxed) == 0 {
        // The last one had none either: the window is empty and LDTR null.
        return;
    }
    let cpu = percpu::this_cpu();
    let window = ldt_window(cpu);
    let first = usize::try_from(GDT_WINDOW_PAGES).unwrap_or(0);
    show(&entries()[first..], window, frames, 0, used);
    let limit = u64::from(entries_used.min(8192)) * 8;
    let selector = if frames.is_empty() || limit == 0 { 0 } else { LDT_SELECTOR };
    if selector != 0 {
        let words = system_segment(window, limit - 1, 0x2);
        let page = direct_map(percpu::record(cpu).descriptors.load(Ordering::Relaxed));
        let offset = u64::from(LDT_SELECTOR) - RESERVED_GDT_PAGE * layout::PAGE;
        let place: *mut [u64; 2] = with_exposed_provenance_mut(usize::try_from(page + offset).unwrap_or(0));
        // SAFETY: this pcpu's own descriptor page; the entry is the LDT's, which only this function writes.
        unsafe { place.write_volatile(words) }
    }
    // SAFETY: null, or the descriptor just written.
    unsafe { asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) }
}
