//! Tables of every level can be validated by pinning, are read-only as long as they are tables, and are ordinary memory
//! again afterwards.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::{Pte, PteFlags};
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::mmu;
use pv_guest_kernel::memory::{Pages, Prot};
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(page_tables_can_be_pinned);

fn page_tables_can_be_pinned(_: &'static Context) -> Claim {
    let tables = Pages::new(5).ok_or(Trouble::error("no memory"))?;
    let page = |number: usize| tables.mfn(number).ok_or(Trouble::error("no frame"));
    // Page 4 is data; tables 0 to 3 are an L1 to an L4 above it.
    let link = PteFlags::PRESENT | PteFlags::RW | PteFlags::USER | PteFlags::ACCESSED;
    for level in 0..4_usize {
        let below = page(if level == 0 { 4 } else { level - 1 })?;
        call::store(tables.va() + 4096 * level as u64 + 8 * 5, Pte::new(below, link).raw());
        protect(&tables, level, Prot::Read)?;
    }
    for (level, cmd) in
        [MmuextCmd::PinL1Table, MmuextCmd::PinL2Table, MmuextCmd::PinL3Table, MmuextCmd::PinL4Table]
            .iter()
            .enumerate()
    {
        pin(*cmd, page(level)?)?;
    }
    // An entry of a pinned table is changed by mmu_update and by nothing else.
    let slot = page(0)?.to_maddr().raw() + 8 * 6;
    let data = Pte::new(page(4)?, link);
    ensure_eq!(
        call::mmu_update(&[MmuUpdate { ptr: slot, val: data.raw() }]),
        (0, 1),
        "an update of a pinned L1"
    );
    let stored = Pte::from_raw(call::load(tables.va() + 8 * 6));
    ensure_eq!(stored.mfn(), page(4)?, "the frame of the new entry");
    ensure_eq!(call::mmu_update(&[MmuUpdate { ptr: slot, val: 0 }]), (0, 1), "clearing the entry");
    ensure_eq!(call::load(tables.va() + 8 * 6), 0, "the cleared entry");
    for level in (0..4).rev() {
        let (answer, done) = call::mmuext_op(&[mmu::on_frame(MmuextCmd::UnpinTable, page(level)?)]);
        ensure_eq!((answer, done), (0, 1), "unpinning level {}", level + 1);
    }
    for level in 0..4 {
        protect(&tables, level, Prot::ReadWrite)?;
        call::store(tables.va() + 4096 * level as u64, 0x1234_5678);
    }
    Ok(())
}

fn pin(cmd: MmuextCmd, mfn: pv_abi::ids::Mfn) -> Claim {
    let (answer, done) = call::mmuext_op(&[MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: mfn.raw(), arg2: 0 }]);
    ensure_eq!((answer, done), (0, 1), "{cmd:?}");
    Ok(())
}

fn protect(pages: &Pages, number: usize, prot: Prot) -> Claim {
    let mfn = pages.mfn(number).ok_or(Trouble::error("no frame"))?;
    let va = pages.va() + 4096 * number as u64;
    let answer = call::update_va_mapping(va, Pte::new(mfn, prot.flags()), UvmFlags::INVLPG | UvmFlags::ALL);
    ensure_eq!(answer, 0, "making page {number} {prot:?}");
    Ok(())
}
