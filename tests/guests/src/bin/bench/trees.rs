//! Whole page tables: validated by pinning, given back by unpinning, loaded.

use pv_abi::ids::Mfn;
use pv_abi::mmu::{MmuextCmd, UvmFlags};
use pv_abi::pte::{ENTRIES_PER_TABLE, Pte, PteFlags};
use pv_guest_kernel::hypercall::mmu;
use pv_guest_kernel::memory::user::UserSpace;
use pv_guest_kernel::memory::{DIRECT_MAP, PAGE_SIZE, Pages, Prot, p2m, table};
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure_eq};

/// L1 tables of the tree.
const LEAVES: usize = 4;
/// Root entries that are the hypervisor's.
const RESERVED: core::ops::Range<usize> = 256..272;

pub(crate) fn measure(meter: &Meter) -> Claim {
    let data = Pages::new(ENTRIES_PER_TABLE).ok_or(Trouble::error("no memory"))?;
    let leaves = Pages::new(LEAVES).ok_or(Trouble::error("no memory"))?;
    for number in 0..LEAVES {
        fill(&leaves, number, |slot| Some(Pte::new(data.mfn(slot)?, Prot::ReadWrite.user_flags())));
        protect(&leaves, number, Prot::Read)?;
    }
    pinning(meter, "pin_and_unpin_of_a_full_l1", MmuextCmd::PinL1Table, frame(&leaves, 0)?)?;
    let empty = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    protect(&empty, 0, Prot::Read)?;
    pinning(meter, "pin_and_unpin_of_an_empty_l1", MmuextCmd::PinL1Table, frame(&empty, 0)?)?;
    tree(meter, &leaves)?;
    loading(meter)?;
    // Tables stay read-only, so they are not given back.
    core::mem::forget((leaves, empty));
    Ok(())
}

fn frame(pages: &Pages, number: usize) -> Claim<Mfn> {
    pages.mfn(number).ok_or(Trouble::error("no frame"))
}

/// Writes a table's entries while it is still ordinary memory.
fn fill(pages: &Pages, number: usize, entry: impl Fn(usize) -> Option<Pte>) {
    let base = pages.va() + (number * PAGE_SIZE) as u64;
    for slot in 0..ENTRIES_PER_TABLE {
        call::store(base + 8 * slot as u64, entry(slot).unwrap_or(Pte::EMPTY).raw());
    }
}

fn protect(pages: &Pages, number: usize, prot: Prot) -> Claim {
    let va = pages.va() + (number * PAGE_SIZE) as u64;
    let value = Pte::new(frame(pages, number)?, prot.flags());
    ensure_eq!(call::update_va_mapping(va, value, UvmFlags::INVLPG | UvmFlags::ALL), 0, "protecting");
    Ok(())
}

fn pinning(meter: &Meter, name: &str, cmd: MmuextCmd, mfn: Mfn) -> Claim {
    let (pin, unpin) = ([mmu::on_frame(cmd, mfn)], [mmu::on_frame(MmuextCmd::UnpinTable, mfn)]);
    meter.long_row(name, 1, || {
        ensure_eq!(call::mmuext_op(&pin), (0, 1), "pinning");
        ensure_eq!(call::mmuext_op(&unpin), (0, 1), "unpinning");
        Ok(())
    })
}

const LINK: PteFlags = PteFlags::PRESENT
    .union(PteFlags::RW)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY);

/// A root, one L3, one L2 and some full L1 tables.
fn tree(meter: &Meter, leaves: &Pages) -> Claim {
    let upper = Pages::new(3).ok_or(Trouble::error("no memory"))?;
    fill(&upper, 0, |slot| leaves.mfn(slot).map(|mfn| Pte::new(mfn, LINK)));
    for level in 1..3 {
        let below = frame(&upper, level - 1)?;
        fill(&upper, level, |slot| (slot == 0).then(|| Pte::new(below, LINK)));
    }
    for level in 0..3 {
        protect(&upper, level, Prot::Read)?;
    }
    pinning(meter, "pin_and_unpin_of_a_tree", MmuextCmd::PinL4Table, frame(&upper, 2)?)?;
    core::mem::forget(upper);
    Ok(())
}

/// Going from one root to another, as a kernel with a root for each process does.
fn loading(meter: &Meter) -> Claim {
    let root = table::root();
    let second = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let pfn = p2m::pfn_of(root).ok_or(Trouble::error("a root without a frame number"))?;
    fill(&second, 0, |slot| {
        let entry = DIRECT_MAP + pfn.raw() * 4096 + 8 * slot as u64;
        (!RESERVED.contains(&slot)).then(|| Pte::from_raw(call::load(entry)))
    });
    protect(&second, 0, Prot::Read)?;
    let copy = frame(&second, 0)?;
    ensure_eq!(
        call::mmuext_op(&[mmu::on_frame(MmuextCmd::PinL4Table, copy)]),
        (0, 1),
        "pinning the second root"
    );
    let load = |cmd: MmuextCmd, mfn: Mfn| [mmu::on_frame(cmd, mfn)];
    let (to, back) = (load(MmuextCmd::NewBaseptr, copy), load(MmuextCmd::NewBaseptr, root));
    meter.row("new_baseptr", 2, || {
        ensure_eq!(call::mmuext_op(&to), (0, 1), "the second root");
        ensure_eq!(call::mmuext_op(&back), (0, 1), "the first root");
        Ok(())
    })?;
    ensure_eq!(
        call::mmuext_op(&[mmu::on_frame(MmuextCmd::UnpinTable, copy)]),
        (0, 1),
        "unpinning the second root"
    );
    core::mem::forget(second);
    let (one, two) = (UserSpace::new()?, UserSpace::new()?);
    let one = load(MmuextCmd::NewUserBaseptr, one.root());
    let two = load(MmuextCmd::NewUserBaseptr, two.root());
    meter.row("new_user_baseptr", 2, || {
        ensure_eq!(call::mmuext_op(&one), (0, 1), "the first space");
        ensure_eq!(call::mmuext_op(&two), (0, 1), "the second space");
        Ok(())
    })
}
