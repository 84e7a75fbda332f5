//! Uses all of the domain's memory: a large block on the heap, then page by page to the end, and gives it back.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use pv_guest_kernel::memory::{Pages, frames, mfn_of, pfn_of};
use pv_guest_kernel::{Context, println};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    report("at the start");
    let half = usize::try_from(context.page_count() / 2).unwrap_or(0) * 4096;
    let mut block = vec![0_u8; half];
    for (number, page) in block.chunks_mut(4096).enumerate() {
        page[0] = number.to_le_bytes()[0];
    }
    let right = block.chunks(4096).enumerate().all(|(number, page)| page[0] == number.to_le_bytes()[0]);
    println!("a block of {} MiB on the heap: {}", half >> 20, if right { "right" } else { "wrong" });
    drop(block);
    let mut all: Vec<Pages> = Vec::new();
    while let Some(mut page) = Pages::new(1) {
        page.as_mut_slice()[4095] = 0x5a;
        all.push(page);
    }
    report("with every page taken");
    println!("{} pages taken", all.len());
    let strange = all.iter().filter(|page| mfn_of(page.pfn()).and_then(pfn_of) != Some(page.pfn())).count();
    println!("{strange} frames whose numbers do not agree");
    drop(all);
    report("with every page given back");
    let pages = Pages::new(1000);
    println!("1000 pages in a row: {}", if pages.is_some() { "found" } else { "not found" });
}

fn report(when: &str) {
    let (free, unmapped) = frames::available();
    println!("{when}: {free} frames free, {unmapped} not mapped yet");
}
