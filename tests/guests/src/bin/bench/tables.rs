//! Entries of page tables, and what is forgotten when they change.

use alloc::vec::Vec;
use pv_abi::hypercall::Hypercall;
use pv_abi::mmu::{MmuUpdate, MmuextCmd, UvmFlags};
use pv_abi::pte::Pte;
use pv_abi::vm_assist::{VmAssist, VmAssistCmd};
use pv_guest_kernel::hypercall::mmu;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot, p2m, table};
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure_eq};

/// Entries of the long list.
const BATCH: usize = 128;

pub(crate) fn measure(meter: &Meter) -> Claim {
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    let range = Range::reserve(BATCH)?;
    let full = Pte::new(mfn, Prot::ReadWrite.flags());
    for (name, flags) in [
        ("update_va_mapping", UvmFlags::NONE),
        ("update_va_mapping_and_invlpg", UvmFlags::INVLPG),
        ("update_va_mapping_and_invlpg_all", UvmFlags::INVLPG | UvmFlags::ALL),
    ] {
        meter.row(name, 2, || {
            ensure_eq!(call::update_va_mapping(range.start(), full, flags), 0, "mapping");
            ensure_eq!(call::update_va_mapping(range.start(), Pte::EMPTY, flags), 0, "unmapping");
            Ok(())
        })?;
    }
    updates(meter, "l1_update", &range, full, 1)?;
    updates(meter, "l1_update_in_batch_of_128_per_entry", &range, full, BATCH)?;
    direct_writes(meter, &range, full)?;
    flushes(meter, &range)?;
    copies(meter, &page)
}

fn updates(meter: &Meter, name: &str, range: &Range, full: Pte, count: usize) -> Claim {
    let fill = |value: Pte| -> Claim<Vec<MmuUpdate>> {
        (0..count).map(|number| Ok(mmu::update(range.entry(number)?, value))).collect()
    };
    let (map, unmap) = (fill(full)?, fill(Pte::EMPTY)?);
    meter.row(name, 2 * count as u64, || {
        ensure_eq!(call::mmu_update(&map).0, 0, "mapping");
        ensure_eq!(call::mmu_update(&unmap).0, 0, "unmapping");
        Ok(())
    })
}

/// Writes to a table as if it were memory: the hypervisor checks and does what was meant.
fn direct_writes(meter: &Meter, range: &Range, full: Pte) -> Claim {
    let name = "writable_page_table_write";
    let entry = range.entry(0)?;
    let pfn = p2m::pfn_of(entry.mfn()).ok_or(Trouble::error("a table without a frame number"))?;
    let at = pv_guest_kernel::memory::DIRECT_MAP + pfn.raw() * 4096 + entry.raw() % 4096;
    assist(VmAssistCmd::Enable)?;
    meter.row(name, 2, || {
        call::store(at, full.raw());
        call::store(at, 0);
        Ok(())
    })?;
    ensure_eq!(call::load(at), 0, "the entry in the end");
    assist(VmAssistCmd::Disable)
}

fn assist(cmd: VmAssistCmd) -> Claim {
    let args = [u64::from(cmd.raw()), u64::from(VmAssist::WritablePagetables.raw())];
    ensure_eq!(call::call(Hypercall::VmAssist, args), 0, "{cmd:?} writable page tables");
    Ok(())
}

fn flushes(meter: &Meter, range: &Range) -> Claim {
    for (name, cmd) in [
        ("tlb_flush_local", MmuextCmd::TlbFlushLocal),
        ("tlb_flush_all", MmuextCmd::TlbFlushAll),
        ("invlpg_local", MmuextCmd::InvlpgLocal),
        ("invlpg_all", MmuextCmd::InvlpgAll),
    ] {
        let operation = [mmu::on_address(cmd, range.start())];
        meter.row(name, 1, || {
            ensure_eq!(call::mmuext_op(&operation), (0, 1), "{cmd:?}");
            Ok(())
        })?;
    }
    let user = [mmu::on_frame(MmuextCmd::NewUserBaseptr, pv_abi::ids::Mfn::new(0))];
    meter.row("new_user_baseptr_of_none", 1, || {
        ensure_eq!(call::mmuext_op(&user), (0, 1), "no user tables");
        Ok(())
    })?;
    let same = [mmu::on_frame(MmuextCmd::NewBaseptr, table::root())];
    meter.row("new_baseptr_of_the_same", 1, || {
        ensure_eq!(call::mmuext_op(&same), (0, 1), "the same tables");
        Ok(())
    })
}

/// Whole pages, by the hypervisor's hand.
fn copies(meter: &Meter, page: &Pages) -> Claim {
    let other = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let frame = |pages: &Pages| pages.mfn(0).ok_or(Trouble::error("no frame"));
    let clear = [mmu::on_frame(MmuextCmd::ClearPage, frame(page)?)];
    meter.row("clear_page", 1, || {
        ensure_eq!(call::mmuext_op(&clear), (0, 1), "clearing");
        Ok(())
    })?;
    let mut copy = mmu::on_frame(MmuextCmd::CopyPage, frame(page)?);
    copy.arg2 = frame(&other)?.raw();
    let copy = [copy];
    meter.row("copy_page", 1, || {
        ensure_eq!(call::mmuext_op(&copy), (0, 1), "copying");
        Ok(())
    })
}
