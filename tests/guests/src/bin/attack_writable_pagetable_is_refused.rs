//! No frame is a page table and writable at the same time, whichever comes first and by whichever call (I1).
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::ids::Mfn;
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::{Pte, PteFlags};
use pv_guest_kernel::Context;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot};
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(attack_writable_pagetable_is_refused);

const FLUSH: u64 = UvmFlags::INVLPG | UvmFlags::ALL;

fn attack_writable_pagetable_is_refused(_: &'static Context) -> Claim {
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    for cmd in [MmuextCmd::PinL1Table, MmuextCmd::PinL2Table, MmuextCmd::PinL3Table, MmuextCmd::PinL4Table] {
        refuse_pin("a page that is mapped writable", cmd, mfn)?;
    }
    let protect = |prot: Prot| call::update_va_mapping(page.va(), Pte::new(mfn, prot.flags()), FLUSH);
    ensure_eq!(protect(Prot::Read), 0, "making the page read-only");
    // A second, writable mapping elsewhere keeps it from being a table.
    let other = Range::reserve(1)?;
    let map_other = |prot: Prot| call::update_va_mapping(other.start(), Pte::new(mfn, prot.flags()), FLUSH);
    let entry = other.entry(0)?;
    ensure_eq!(map_other(Prot::ReadWrite), 0, "a second mapping");
    refuse_pin("a page with a second writable mapping", MmuextCmd::PinL1Table, mfn)?;
    ensure_eq!(map_other(Prot::Read), 0, "making the second mapping read-only");

    let pin = MmuextOp { cmd: MmuextCmd::PinL1Table.raw(), _pad: 0, arg1: mfn.raw(), arg2: 0 };
    ensure_eq!(call::mmuext_op(&[pin]), (0, 1), "pinning a read-only page");
    call::refused_somehow("mapping a table writable", protect(Prot::ReadWrite))?;
    call::refused_somehow("mapping a table writable elsewhere", map_other(Prot::ReadWrite))?;
    // The read-only flag of an existing mapping cannot be lifted by a direct update either.
    let writable = Pte::new(mfn, Prot::ReadWrite.flags()).raw();
    for command in [0, 2] {
        let (answer, done) = call::mmu_update(&[MmuUpdate { ptr: entry.raw() | command, val: writable }]);
        call::refused_somehow("an update that makes a table writable", answer)?;
        ensure_eq!(done, 0, "updates done");
    }
    // The table may not be reached by one of its own entries.
    let own = Pte::new(mfn, PteFlags::PRESENT | PteFlags::RW | PteFlags::USER);
    let (answer, _) = call::mmu_update(&[MmuUpdate { ptr: mfn.to_maddr().raw(), val: own.raw() }]);
    call::refused_somehow("a table that maps itself writable", answer)?;
    for cmd in [MmuextCmd::ClearPage, MmuextCmd::CopyPage] {
        let wipe = MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: mfn.raw(), arg2: mfn.raw() };
        call::refused_somehow("wiping a table", call::mmuext_op(&[wipe]).0)?;
    }
    let unpin = MmuextOp { cmd: MmuextCmd::UnpinTable.raw(), _pad: 0, arg1: mfn.raw(), arg2: 0 };
    ensure_eq!(call::mmuext_op(&[unpin]), (0, 1), "unpinning");
    ensure_eq!(map_other(Prot::ReadWrite), 0, "a writable mapping afterwards");
    ensure_eq!(call::update_va_mapping(other.start(), Pte::EMPTY, FLUSH), 0, "unmapping");
    ensure_eq!(protect(Prot::ReadWrite), 0, "the page's own mapping afterwards");
    Ok(())
}

fn refuse_pin(what: &str, cmd: MmuextCmd, mfn: Mfn) -> Claim {
    let (answer, done) = call::mmuext_op(&[MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: mfn.raw(), arg2: 0 }]);
    call::refused_somehow(what, answer)?;
    ensure_eq!(done, 0, "operations done");
    Ok(())
}
