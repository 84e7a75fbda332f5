//! Descriptors, segment bases, debug registers, and what a switch between tasks is made of.

use pv_abi::hypercall::Hypercall;
use pv_abi::ids::MachAddr;
use pv_abi::mmu::{MmuextCmd, UvmFlags};
use pv_abi::pte::Pte;
use pv_abi::trap::SegmentBase;
use pv_guest_kernel::arch::KERNEL_SS;
use pv_guest_kernel::hypercall::mmu;
use pv_guest_kernel::memory::user::UserSpace;
use pv_guest_kernel::memory::{Pages, Prot, table};
use test_guests::entries::Entries;
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure_eq};

/// Entries of a table of one page.
const ENTRIES: u64 = 512;
/// A flat data segment of ring 3, present.
const FLAT_DATA: u64 = 0x00cf_f300_0000_ffff;
/// Where user segments start in the table, as thread-local ones do elsewhere.
const SLOT: u64 = 12;

pub(crate) fn measure(meter: &Meter) -> Claim {
    let plain = |number: Hypercall, args: [u64; 2]| call::succeed(number, args);
    let table = descriptors()?;
    let frames = [table.mfn(0).ok_or(Trouble::error("no frame"))?.raw()];
    let list = call::address(&frames);
    plain(Hypercall::SetGdt, [list, ENTRIES])?;
    meter.row("set_gdt", 1, || plain(Hypercall::SetGdt, [list, ENTRIES]))?;
    let entry = MachAddr::new(frames[0] << 12).raw() + SLOT * 8;
    meter.row("update_descriptor", 1, || plain(Hypercall::UpdateDescriptor, [entry, FLAT_DATA]))?;
    let stack = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let top = stack.va() + 4096;
    meter.row("stack_switch", 1, || plain(Hypercall::StackSwitch, [u64::from(KERNEL_SS), top]))?;
    meter.row("fpu_taskswitch", 1, || plain(Hypercall::FpuTaskswitch, [1, 0]))?;
    plain(Hypercall::FpuTaskswitch, [0, 0])?;
    for (name, base) in [("set_fs_base", SegmentBase::Fs), ("set_user_gs_base", SegmentBase::GsUser)] {
        meter.row(name, 1, || plain(Hypercall::SetSegmentBase, [u64::from(base.raw()), 0x1000]))?;
    }
    meter.row("set_debugreg", 1, || plain(Hypercall::SetDebugreg, [0, 0x1000]))?;
    plain(Hypercall::SetDebugreg, [0, 0])?;
    task_switch(meter, entry, top)?;
    plain(Hypercall::SetGdt, [list, 0])?;
    core::mem::forget((table, stack));
    Ok(())
}

/// A page for descriptors: nobody may write it.
fn descriptors() -> Claim<Pages> {
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    let value = Pte::new(mfn, Prot::Read.flags());
    let answer = call::update_va_mapping(page.va(), value, UvmFlags::INVLPG | UvmFlags::ALL);
    ensure_eq!(answer, 0, "making the page read-only");
    Ok(page)
}

/// What Linux asks for when it goes to another process: page tables, stack, thread-local segments.
fn task_switch(meter: &Meter, entry: u64, top: u64) -> Claim {
    let spaces = [UserSpace::new()?, UserSpace::new()?];
    let mut lists = alloc::vec::Vec::new();
    let mut batches = alloc::vec::Vec::new();
    for space in &spaces {
        lists.push([
            mmu::on_frame(MmuextCmd::NewBaseptr, table::root()),
            mmu::on_frame(MmuextCmd::NewUserBaseptr, space.root()),
        ]);
    }
    for list in &lists {
        let mut batch = Entries::new(8)?;
        let own = u64::from(pv_abi::ids::DomId::SELF.raw());
        batch.push(Hypercall::MmuextOp.raw(), [call::address(list), list.len() as u64, 0, own]);
        batch.push(Hypercall::StackSwitch.raw(), [u64::from(KERNEL_SS), top]);
        for slot in 0..3 {
            batch.push(Hypercall::UpdateDescriptor.raw(), [entry + 8 * slot, FLAT_DATA]);
        }
        batch.push(Hypercall::FpuTaskswitch.raw(), [1]);
        batches.push(batch);
    }
    meter.row("task_switch_in_a_batch", batches.len() as u64, || {
        for batch in &batches {
            ensure_eq!(batch.run(), 0, "the switch");
        }
        Ok(())
    })?;
    for batch in batches.iter().filter(|_| meter.wants("task_switch_in_a_batch")) {
        ensure_eq!((0..batch.len()).find(|entry| batch.result(*entry) != 0), None, "a part of the switch");
    }
    ensure_eq!(call::call(Hypercall::FpuTaskswitch, [0]), 0, "the FPU's state");
    Ok(())
}
