//! From the builder's page tables to the direct map.
//!
//! The builder mapped one region, with at least 512 KiB of unused pages at its end. Those pages become the tables of a
//! direct map that covers the region (and the allocator's maps). Everything is filled in while it is still plain memory and
//! linked by a single update at the root.

use pv_abi::ids::{DomId, GuestVa, Mfn, Pfn};
use pv_abi::mmu::MmuUpdate;
use pv_abi::pte::{Level, Pte};
use pv_abi::start_info::StartInfo;

use super::frames::{self, CHUNK, ChunkMap};
use super::{DIRECT_MAP, FIRST_REGION, PAGE, Prot, TABLE_FLAGS, index, p2m, table};
use crate::arch::sections::{Image, image};
use crate::hypercall::{Errno, Result, mmu};

/// Entries of a table.
const SLOTS: u64 = CHUNK;

/// Where things lie, in pfns.
struct Plan {
    image: Image,
    /// The builder's page tables.
    tables: core::ops::Range<u64>,
    /// Pages of ours: new tables.
    new_tables: core::ops::Range<u64>,
    l1_count: u64,
    l2_count: u64,
    /// The allocator's maps.
    maps: core::ops::Range<u64>,
    /// End of what the builder mapped.
    region_end: u64,
}

pub(super) fn init(info: &StartInfo) -> Result {
    p2m::init(info.mfn_list, info.nr_pages);
    let plan = Plan::new(info)?;
    build_direct_map(info, &plan)?;
    table::set_root(region_mfn(plan.tables.start)?);
    protect_image(&plan)?;
    drop_aliases(&plan)?;
    start_allocator(&plan);
    Ok(())
}

/// The pfn of an address in the first region.
const fn region_pfn(va: u64) -> u64 {
    (va - FIRST_REGION) / PAGE
}

const fn region_va(pfn: u64) -> u64 {
    FIRST_REGION + pfn * PAGE
}

fn region_mfn(pfn: u64) -> Result<Mfn> {
    p2m::mfn_of(Pfn::new(pfn)).ok_or(Errno::Inval)
}

impl Plan {
    fn new(info: &StartInfo) -> Result<Self> {
        let first_table = region_pfn(info.pt_base);
        let tables = first_table..first_table + info.nr_pt_frames;
        let region_end = find_region_end(tables.end)?;
        let chunk_count = info.nr_pages.div_ceil(CHUNK);
        let map_pages = (chunk_count * size_of::<ChunkMap>() as u64).div_ceil(PAGE);
        // The builder's stack, right after its tables, is not in use any more: unused pages start there.
        let start = tables.end;
        let mut l1_count = region_end.div_ceil(SLOTS);
        loop {
            let l2_count = l1_count.div_ceil(SLOTS);
            let new_end = start + l1_count + l2_count + 1;
            let maps = new_end..new_end + map_pages;
            let needed = maps.end.max(region_end).div_ceil(SLOTS);
            if needed <= l1_count {
                if new_end > region_end || maps.end > info.nr_pages || l2_count > SLOTS {
                    return Err(Errno::NoMem);
                }
                let image = image();
                return Ok(Self {
                    image,
                    tables,
                    new_tables: start..new_end,
                    l1_count,
                    l2_count,
                    maps,
                    region_end,
                });
            }
            l1_count = needed;
        }
    }

    fn is_read_only(&self, pfn: u64) -> bool {
        let constant = region_pfn(self.image.start)..region_pfn(self.image.rodata_end);
        self.tables.contains(&pfn) || self.new_tables.contains(&pfn) || constant.contains(&pfn)
    }

    fn l1(&self, number: u64) -> u64 {
        self.new_tables.start + number
    }

    fn l2(&self, number: u64) -> u64 {
        self.new_tables.start + self.l1_count + number
    }

    fn l3(&self) -> u64 {
        self.new_tables.end - 1
    }
}

/// The first pfn after `start` that the builder did not map.
fn find_region_end(start: u64) -> Result<u64> {
    (start..p2m::count())
        .find(|pfn| crate::arch::probe::read_u64(region_va(*pfn)).is_none())
        .or(Some(p2m::count()))
        .ok_or(Errno::Inval)
}

fn build_direct_map(info: &StartInfo, plan: &Plan) -> Result {
    for number in 0..plan.l1_count {
        let entries = (number * SLOTS..(number + 1) * SLOTS).map(|pfn| direct_entry(plan, pfn));
        table::fill(region_va(plan.l1(number)), entries);
    }
    for number in 0..plan.l2_count {
        let below =
            (number * SLOTS..((number + 1) * SLOTS).min(plan.l1_count)).map(|l1| table_entry(plan.l1(l1)));
        table::fill(region_va(plan.l2(number)), below);
    }
    table::fill(region_va(plan.l3()), (0..plan.l2_count).map(|l2| table_entry(plan.l2(l2))));
    for pfn in plan.new_tables.clone() {
        set_region_entry(pfn, Pte::new(region_mfn(pfn)?, Prot::Read.flags()))?;
    }
    let root = region_mfn(region_pfn(info.pt_base))?;
    let slot = Level::L4.index(GuestVa::new(DIRECT_MAP));
    let update: MmuUpdate = mmu::update(table::entry_address(root, slot), table_entry(plan.l3()));
    // SAFETY: the slot was empty: nothing that is in use changes.
    unsafe { mmu::mmu_update(&[update], DomId::SELF) }
}

fn direct_entry(plan: &Plan, pfn: u64) -> Pte {
    let prot = if plan.is_read_only(pfn) { Prot::Read } else { Prot::ReadWrite };
    p2m::mfn_of(Pfn::new(pfn)).map_or(Pte::EMPTY, |mfn| Pte::new(mfn, prot.flags()))
}

fn table_entry(pfn: u64) -> Pte {
    p2m::mfn_of(Pfn::new(pfn)).map_or(Pte::EMPTY, |mfn| Pte::new(mfn, TABLE_FLAGS))
}

fn set_region_entry(pfn: u64, entry: Pte) -> Result {
    // SAFETY: used on pages that nobody uses any more, or to take away rights that nobody needs.
    unsafe { mmu::update_va_mapping(region_va(pfn), entry) }
}

/// Code is executable, nothing else is; constants cannot be written; below the stack lies nothing.
fn protect_image(plan: &Plan) -> Result {
    let image = plan.image;
    let shared_page =
        region_pfn((crate::shared::info() as *const pv_abi::shared_info::SharedInfo).addr() as u64);
    for pfn in region_pfn(image.start)..region_pfn(image.end) {
        let va = region_va(pfn);
        let prot = match va {
            _ if va < image.text_end => Prot::ReadExecute,
            _ if va < image.rodata_end => Prot::Read,
            _ => Prot::ReadWrite,
        };
        if pfn != shared_page {
            set_region_entry(pfn, Pte::new(region_mfn(pfn)?, prot.flags()))?;
        }
    }
    for stack in [crate::arch::start::BOOT_STACK.bottom(), crate::arch::start::TRAP_STACK.bottom()] {
        set_region_entry(region_pfn(stack), Pte::EMPTY)?;
    }
    Ok(())
}

/// Unused pages of the region keep one mapping only, the direct map's.
fn drop_aliases(plan: &Plan) -> Result {
    let below = 0..region_pfn(plan.image.start);
    let above = plan.new_tables.end..plan.region_end;
    below.chain(above).try_for_each(|pfn| set_region_entry(pfn, Pte::EMPTY))
}

fn start_allocator(plan: &Plan) {
    let start =
        core::ptr::with_exposed_provenance_mut::<ChunkMap>(index(DIRECT_MAP + plan.maps.start * PAGE));
    let length = index(p2m::count().div_ceil(CHUNK));
    for at in 0..length {
        // SAFETY: the plan set these pages aside and they are in the direct map.
        unsafe { start.add(at).write(ChunkMap::FULL) };
    }
    // SAFETY: initialised just now; nobody else has a reference.
    let maps = unsafe { core::slice::from_raw_parts_mut(start, length) };
    frames::init(maps, index(plan.l1_count));
    let in_direct_map = frames::limit();
    // Frame 0 stays unused, so that a zero never names a frame that somebody owns.
    let below = 1..region_pfn(plan.image.start);
    let above = (plan.new_tables.end..in_direct_map).filter(|pfn| !plan.maps.contains(pfn));
    for pfn in below.chain(above).map(Pfn::new).filter(|pfn| p2m::mfn_of(*pfn).is_some()) {
        frames::free(pfn, 1);
    }
}
