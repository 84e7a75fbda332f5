//! No entry takes a guest outside its own frames, into the hypervisor's slots, or past what the hypervisor checks.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::ids::Mfn;
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::{Level, Pte, PteFlags};
use pv_guest_kernel::Context;
use pv_guest_kernel::arch::probe;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot, table};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq, format};

test_guests::claim!(attack_bad_entries_are_refused);

/// The machine-to-physical table, readable by every guest.
const M2P: u64 = 0xffff_8000_0000_0000;
/// What the table holds for frames that no guest has.
const NOBODY: [u64; 2] = [u64::MAX, 0x5555_5555_5555_5555];
/// Frames below the firmware's own at the top of the smallest machine that tests use; those above belong to no guest
/// either, but dom0 may map them.
const LOW_MEMORY_FRAMES: u64 = 0xf000;
const RW: PteFlags = PteFlags::PRESENT.union(PteFlags::RW).union(PteFlags::USER);

fn attack_bad_entries_are_refused(_: &'static Context) -> Claim {
    let range = Range::reserve(1)?;
    range.entry(0)?;
    let place = range.start();
    foreign_frames(place)?;
    hypervisor_slots()?;
    wrong_addresses()?;
    superpages()?;
    ensure!(table::walk(place).is_none(), "a refused mapping is there all the same");
    Ok(())
}

/// Frames that are the hypervisor's or nobody's, found as the machine-to-physical table shows them.
fn foreign_frames(place: u64) -> Claim {
    let mut tried = 0;
    for mfn in (0x100..LOW_MEMORY_FRAMES).step_by(7) {
        let Some(pfn) = probe::read_u64(M2P + mfn * 8) else { break };
        if !NOBODY.contains(&pfn) {
            continue;
        }
        for prot in [Prot::Read, Prot::ReadWrite] {
            let answer =
                call::update_va_mapping(place, Pte::new(Mfn::new(mfn), prot.flags()), UvmFlags::INVLPG);
            call::refused_somehow(&format!("mapping frame {mfn:#x} {prot:?}"), answer)?;
        }
        tried += 1;
    }
    ensure!(tried > 0, "no foreign frame was found to try");
    // Beyond what any machine has.
    for mfn in [(1 << 40) - 1, 1 << 39] {
        let answer = call::update_va_mapping(place, Pte::new(Mfn::new(mfn), RW), UvmFlags::INVLPG);
        call::refused_somehow(&format!("mapping frame {mfn:#x}"), answer)?;
    }
    Ok(())
}

/// Slots 256 to 271 of the root are the hypervisor's.
fn hypervisor_slots() -> Claim {
    let root = table::root();
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    for slot in [256, 257, 260, 261, 271] {
        let ptr = table::entry_address(root, slot).raw();
        for val in [0, Pte::new(mfn, RW).raw()] {
            let (answer, done) = call::mmu_update(&[MmuUpdate { ptr, val }]);
            call::refused_somehow(&format!("root slot {slot} := {val:#x}"), answer)?;
            ensure_eq!(done, 0, "updates done");
        }
    }
    for va in [M2P, 0xffff_8300_0000_0000, 0xffff_82d0_8000_0000, 0xffff_87ff_ffff_f000] {
        let answer = call::update_va_mapping(va, Pte::new(mfn, RW), UvmFlags::INVLPG);
        call::refused_somehow(&format!("update_va_mapping of {va:#x}"), answer)?;
    }
    Ok(())
}

fn wrong_addresses() -> Claim {
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    let value = Pte::new(mfn, RW);
    // Not a table: ordinary memory is not written through mmu_update with a checked entry's meaning.
    let foreign = [0, 1 << 52, !7];
    for ptr in foreign {
        let (answer, _) = call::mmu_update(&[MmuUpdate { ptr, val: value.raw() }]);
        call::refused_somehow(&format!("an update at {ptr:#x}"), answer)?;
    }
    for va in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_f000] {
        call::refused_somehow(&format!("mapping at {va:#x}"), call::update_va_mapping(va, value, 0))?;
    }
    for cmd in [MmuextCmd::NewBaseptr, MmuextCmd::UnpinTable] {
        let op = MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: mfn.raw(), arg2: 0 };
        call::refused_somehow(&format!("{cmd:?} of ordinary memory"), call::mmuext_op(&[op]).0)?;
    }
    Ok(())
}

fn superpages() -> Claim {
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let Some((l2, slot)) = table::walk_to(table::root(), page.va(), Level::L2) else {
        return Err(Trouble::error("the page has no L2 table"));
    };
    // The next entry that is free is tried with a large page over frame 0 and over the page's own frame.
    let ptr = table::entry_address(l2, (slot + 300) % 512).raw();
    for frame in [0, page.mfn(0).map_or(0, Mfn::raw) & !0x1ff] {
        let value = Pte::new(Mfn::new(frame), RW | PteFlags::PSE);
        let (answer, _) = call::mmu_update(&[MmuUpdate { ptr, val: value.raw() }]);
        call::refused_somehow(&format!("a large page over frame {frame:#x}"), answer)?;
    }
    Ok(())
}
