//! Tests of page-table rules, each named as its claim.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;
use pv_abi::mmu::MmuextCmd;
use pv_abi::pte::Level;
use zerocopy::IntoBytes;

use super::testing::{ARGS, RO, RW, SELF, World, op, pte};
use crate::access::Privilege;
use crate::error::{Args, Exit};
use crate::frame::PageType;
use crate::hypercall::{mmu, mmuext};
use crate::mm::teardown::{Relinquished, relinquish};
use crate::port::Frames;

const L1: PageType = PageType::Table(Level::L1);
const L2: PageType = PageType::Table(Level::L2);
const L4: PageType = PageType::Table(Level::L4);

#[test]
fn a_tree_is_validated_pinned_and_given_back() {
    let w = World::one();
    w.build_tree();
    w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()).unwrap();
    assert_eq!(w.use_of(w.mfn(0)), (L4, 1, true));
    assert_eq!(w.use_of(w.mfn(3)), (L1, 1, false));
    assert_eq!(w.use_of(w.mfn(8)), (PageType::Writable, 1, false));
    w.assert_sound();
    w.ext(MmuextCmd::UnpinTable, w.mfn(0).raw()).unwrap();
    for n in 0..16 {
        assert_eq!(w.use_of(w.mfn(n)).1, 0, "frame {n}");
    }
    w.assert_sound();
}

#[test]
fn writable_pagetable_is_refused() {
    let w = World::one();
    w.build_tree();
    w.poke(w.mfn(3), 9, pte(w.mfn(3), RW));
    assert_eq!(w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()), Err(Errno::Inval));
    w.assert_sound();
    w.poke(w.mfn(3), 9, pte(w.mfn(2), RO));
    w.boot();
    for n in 0..4 {
        assert_eq!(w.set(w.mfn(3), 20, pte(w.mfn(n), RW)), Err(Errno::Inval), "level {n}");
        assert_eq!(w.set(w.mfn(3), 20, pte(w.mfn(n), RO)), Ok(0));
    }
    w.assert_sound();
}

#[test]
fn a_writable_frame_is_refused_as_a_table() {
    let w = World::one();
    w.boot();
    for cmd in [MmuextCmd::PinL1Table, MmuextCmd::PinL2Table, MmuextCmd::PinL3Table, MmuextCmd::PinL4Table] {
        assert_eq!(w.ext(cmd, w.mfn(8).raw()), Err(Errno::Inval));
    }
    w.set(w.mfn(3), 0, 0).unwrap();
    assert_eq!(w.ext(MmuextCmd::PinL1Table, w.mfn(8).raw()), Ok(0));
    w.assert_sound();
}

#[test]
fn read_only_stays_readable_after_a_frame_becomes_a_table() {
    let w = World::one();
    w.boot();
    w.set(w.mfn(3), 0, pte(w.mfn(8), RO)).unwrap();
    w.ext(MmuextCmd::PinL1Table, w.mfn(8).raw()).unwrap();
    assert_eq!(w.set(w.mfn(3), 0, pte(w.mfn(8), RW)), Err(Errno::Inval));
    w.assert_sound();
}

#[test]
fn xsa_182_each_bit_by_the_fast_path() {
    for bit in 0..64_u64 {
        for level in 0..4_usize {
            let w = World::one();
            w.boot();
            let table = w.mfn(3 - level);
            let old = w.peek(table, 0);
            let result = w.set(table, 0, old ^ 1 << bit);
            let harmless = matches!(bit, 1 | 2 | 5 | 6 | 9..=11 | 52..=63);
            let l1_global = bit == 8 && level == 0;
            // Another address is another frame, perhaps one that may be named: the audit is the judge.
            if !(12..52).contains(&bit) {
                assert_eq!(result.is_ok(), harmless || l1_global, "bit {bit} level {}", level + 1);
            }
            w.assert_sound();
        }
    }
}

#[test]
fn xsa_148_large_pages_are_refused_everywhere() {
    let w = World::one();
    w.boot();
    for table in 0..3 {
        let old = w.peek(w.mfn(table), 0);
        assert_eq!(w.set(w.mfn(table), 0, old | 0x80), Err(Errno::Inval));
        assert_eq!(w.set(w.mfn(table), 5, pte(w.mfn(9), RW | 0x80)), Err(Errno::Inval));
    }
    w.assert_sound();
}

#[test]
fn xsa_240_linear_tables_are_refused() {
    let w = World::one();
    w.boot();
    for n in 0..3 {
        assert_eq!(w.set(w.mfn(n), 7, pte(w.mfn(n), RO)), Err(Errno::Inval), "itself at level {}", 4 - n);
        assert_eq!(w.set(w.mfn(n), 7, pte(w.mfn(0), RO)), Err(Errno::Inval), "the root");
    }
    w.assert_sound();
}

#[test]
fn xsa_32_frames_that_do_not_exist_are_refused() {
    let w = World::one();
    w.boot();
    for mfn in [0, 1 << 20, (1 << 40) - 1, u64::MAX >> 12, u64::MAX] {
        assert!(w.ext(MmuextCmd::PinL1Table, mfn).is_err());
        assert!(w.ext(MmuextCmd::NewBaseptr, mfn).is_err());
        assert!(w.mmu_update_as(0, &[(mfn << 12, 0)], SELF).is_err());
        assert!(w.mmu_update_as(0, &[(mfn << 12 | 1, 0)], SELF).is_err());
    }
    let beyond = pte(Mfn::new(1 << 20), RW);
    assert_eq!(w.set(w.mfn(3), 9, beyond), Err(Errno::Perm), "a device, for an ordinary domain");
    w.assert_sound();
}

#[test]
fn the_hypervisors_slots_are_filled_and_kept() {
    let w = World::one();
    w.build_tree();
    w.poke(w.mfn(0), 256, pte(w.mfn(1), RW));
    w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()).unwrap();
    let own = w.m().hypervisor_l4_entries();
    for (i, entry) in own.iter().enumerate() {
        assert_eq!(w.peek(w.mfn(0), 256 + i), *entry);
        let index = u64::try_from(256 + i).unwrap();
        for value in [0, pte(w.mfn(1), RW)] {
            assert_eq!(w.set(w.mfn(0), index, value), Err(Errno::Inval));
        }
    }
    assert_eq!(w.set(w.mfn(0), 255, pte(w.mfn(1), RW)), Ok(0));
    assert_eq!(w.set(w.mfn(0), 272, pte(w.mfn(1), RW)), Ok(0));
    w.assert_sound();
}

#[test]
fn xsa_58_a_failed_pin_leaves_no_reference() {
    let w = World::one();
    w.build_tree();
    w.poke(w.mfn(3), 511, pte(Mfn::new(0), RW));
    for _ in 0..3 {
        assert!(w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()).is_err());
        w.assert_sound();
        assert!((0..16).all(|n| w.use_of(w.mfn(n)).1 == 0));
    }
}

#[test]
fn a_table_is_pinned_once() {
    let w = World::one();
    w.build_tree();
    w.ext(MmuextCmd::PinL1Table, w.mfn(3).raw()).unwrap();
    assert_eq!(w.ext(MmuextCmd::PinL1Table, w.mfn(3).raw()), Err(Errno::Inval));
    w.ext(MmuextCmd::UnpinTable, w.mfn(3).raw()).unwrap();
    assert_eq!(w.ext(MmuextCmd::UnpinTable, w.mfn(3).raw()), Err(Errno::Inval));
    w.assert_sound();
}

#[test]
fn another_domains_frames_are_refused() {
    let w = World::new(&[Privilege::Unprivileged, Privilege::Unprivileged], 32);
    w.boot();
    let theirs = w.guests[1].mfns[0];
    assert_eq!(w.set(w.mfn(3), 9, pte(theirs, RO)), Err(Errno::Inval));
    assert!(w.ext(MmuextCmd::PinL1Table, theirs.raw()).is_err());
    assert!(w.mmu_update_as(0, &[(theirs.raw() << 12, 0)], SELF).is_err());
    let update = [((w.mfn(3).raw() << 12) + 72, pte(theirs, RO))];
    assert_eq!(w.mmu_update_as(0, &update, 2), Err(Errno::Perm), "foreign frames need privilege");
    assert_eq!(
        w.mmu_update_as(0, &update, 3 << 16 | SELF),
        Err(Errno::Perm),
        "foreign tables need privilege"
    );
    assert_eq!(w.mmu_update_as(0, &update, 99), Err(Errno::Srch));
    w.assert_sound();
}

#[test]
fn a_control_domain_maps_anothers_frames_but_makes_no_tables_of_them() {
    let w = World::new(&[Privilege::Control, Privilege::Unprivileged], 32);
    w.boot();
    let theirs = w.guests[1].mfns[0];
    let at = |table: Mfn, i: u64| (table.raw() << 12) + i * 8;
    assert_eq!(w.mmu_update_as(0, &[(at(w.mfn(3), 9), pte(theirs, RW))], 2), Ok(0));
    assert_eq!(w.use_of(theirs), (PageType::Writable, 1, false));
    assert_eq!(w.mmu_update_as(0, &[(at(w.mfn(2), 9), pte(theirs, RW))], 2), Err(Errno::Inval));
    w.assert_sound();
    assert_eq!(
        w.mmuext_as(0, &[op(MmuextCmd::PinL1Table, theirs.raw(), 0)], 2),
        Err(Errno::Inval),
        "writable"
    );
    w.set(w.mfn(3), 9, 0).unwrap();
    assert_eq!(w.mmuext_as(0, &[op(MmuextCmd::PinL1Table, theirs.raw(), 0)], 2), Ok(0));
    w.assert_sound();
}

#[test]
fn devices_are_for_control_domains_and_own_nothing() {
    let w = World::new(&[Privilege::Control, Privilege::Unprivileged], 32);
    w.boot();
    let device = Mfn::new(0xf_e000);
    assert_eq!(w.set(w.mfn(3), 9, pte(device, RW | 0x10)), Ok(0));
    assert_eq!(w.set(w.mfn(3), 9, pte(device, RO | 0x10)), Ok(0), "a device loses its writability");
    w.assert_sound();
    let io = [((w.mfn(3).raw() << 12) + 80, pte(device, RW))];
    assert_eq!(w.mmu_update_as(0, &io, 0x7ff1), Ok(0));
    assert_eq!(w.set(w.mfn(3), 10, 0), Ok(0));
    w.w.hv.frames.deny_device_range(device, Mfn::new(0xf_e001));
    assert_eq!(w.set(w.mfn(3), 11, pte(device, RW)), Err(Errno::Inval), "the hypervisor's own");
    w.assert_sound();
}

#[test]
fn a_table_of_messages_is_mapped_read_only_whatever_is_asked_for() {
    let w = World::new(&[Privilege::Control], 32);
    w.boot();
    let (device, beside) = (Mfn::new(0xf_e000), Mfn::new(0xf_e001));
    let frames = &w.w.hv.frames;
    frames.read_only_devices().add((device, device)).unwrap();
    assert_eq!(w.set(w.mfn(3), 9, pte(device, RW | 0x10)), Ok(0));
    assert_eq!(w.peek(w.mfn(3), 9), pte(device, RO | 0x10));
    assert_eq!(w.set(w.mfn(3), 9, pte(device, RW | 0x10)), Ok(0), "once more");
    assert_eq!(w.set(w.mfn(3), 10, pte(beside, RW)), Ok(0));
    assert_eq!((w.peek(w.mfn(3), 9), w.peek(w.mfn(3), 10)), (pte(device, RO | 0x10), pte(beside, RW)));
    // A whole table that becomes one.
    w.poke(w.mfn(8), 5, pte(device, RW));
    w.set(w.mfn(3), 0, 0).unwrap();
    assert_eq!(w.ext(MmuextCmd::PinL1Table, w.mfn(8).raw()), Ok(0));
    assert_eq!(w.peek(w.mfn(8), 5), pte(device, RO));
    w.assert_sound();
    frames.read_only_devices().remove((device, device));
    assert_eq!(w.set(w.mfn(3), 9, pte(device, RW | 0x10)), Ok(0));
    assert_eq!(w.peek(w.mfn(3), 9), pte(device, RW | 0x10));
}

#[test]
fn a_store_to_a_table_of_messages_comes_to_nothing() {
    use super::fault::FaultOutcome;
    let w = World::new(&[Privilege::Control], 32);
    w.boot();
    let device = Mfn::new(0xf_e000);
    w.w.hv.frames.read_only_devices().add((device, device)).unwrap();
    w.set(w.mfn(3), 9, pte(device, RW | 0x10)).unwrap();
    let mut regs = crate::UserRegs { rax: 1, ..Default::default() };
    // mov %eax,(%rdi), as Linux masks an entry.
    assert_eq!(table_store(&w, &[0x89, 0x07], &mut regs, 0x900c), FaultOutcome::Resume);
    assert_eq!(regs.rip, 0x40_0002);
    assert_eq!(table_store(&w, &[0x0f, 0x0b], &mut regs, 0x900c), FaultOutcome::Inject, "no store");
    w.w.hv.frames.read_only_devices().remove((device, device));
    assert_eq!(table_store(&w, &[0x89, 0x07], &mut regs, 0x900c), FaultOutcome::Inject, "no table any more");
    w.assert_sound();
}

#[test]
fn a_store_to_configuration_space_in_memory_is_looked_after() {
    use super::fault::FaultOutcome;
    use crate::fake::devices::at;
    use crate::pci::Address;
    use crate::port::{DeviceRegisters, PortWidth};
    let w = World::new(&[Privilege::Control], 32);
    w.boot();
    w.m().devices.plug(8);
    w.w.hv.pci.add(w.m(), &w.guests[0].dom, Address { segment: 0, bus: 0, devfn: 8 }).unwrap();
    let space = Mfn::new((at::AREA >> 12) + 8);
    w.w.hv.frames.read_only_devices().add((space, space)).unwrap();
    w.set(w.mfn(3), 9, pte(space, RW | 0x10)).unwrap();
    let mut regs = crate::UserRegs { rax: 0x1122_3344, ..Default::default() };
    let mut store = |code: &[u8], register: u64| table_store(&w, code, &mut regs, 0x9000 + register);
    let (long, word, byte, wide): (&[u8], &[u8], &[u8], &[u8]) =
        (&[0x89, 0x07], &[0x66, 0x89, 0x07], &[0x88, 0x07], &[0x48, 0x89, 0x07]);
    assert_eq!(store(long, 0x3c), FaultOutcome::Resume);
    assert_eq!(store(word, 0x42), FaultOutcome::Resume);
    assert_eq!(store(byte, 0x107), FaultOutcome::Resume);
    let table = u64::from(at::MSIX) + 4;
    assert_eq!(store(long, table), FaultOutcome::Resume, "the table's place");
    assert_eq!(store(wide, 0x48), FaultOutcome::Resume, "too wide");
    let read = |register| w.m().register_read((space.raw() << 12) + register, PortWidth::Dword);
    assert_eq!([0x3c, 0x40, 0x104, table, 0x48].map(read), [0x1122_3344, 0x3344_0000, 0x4400_0000, 0, 0]);
    w.assert_sound();
}

#[test]
fn xsa_154_ram_is_cached_one_way() {
    let w = World::new(&[Privilege::Control], 32);
    w.boot();
    for cache in [8, 0x10, 0x18, 0x80, 0x98] {
        assert_eq!(w.set(w.mfn(3), 9, pte(w.mfn(20), RW | cache)), Err(Errno::Inval), "{cache:#x}");
        assert_eq!(w.set(w.mfn(3), 0, pte(w.mfn(8), RW | cache)), Err(Errno::Inval), "{cache:#x} over WB");
    }
    w.assert_sound();
}

#[test]
fn xsa_248_the_shared_page_is_mapped_but_no_table() {
    let w = World::one();
    w.boot();
    let shared = w.guests[0].dom.shared_info;
    assert_eq!(w.set(w.mfn(3), 9, pte(shared, RW)), Ok(0));
    for cmd in [MmuextCmd::PinL1Table, MmuextCmd::PinL4Table] {
        assert_eq!(w.ext(cmd, shared.raw()), Err(Errno::Inval));
    }
    assert_eq!(w.set(w.mfn(2), 9, pte(shared, RW)), Err(Errno::Inval));
    w.assert_sound();
}

#[test]
fn l1tf_absent_entries_that_name_ram_are_refused() {
    let w = World::one();
    w.boot();
    let before = w.peek(w.mfn(3), 0);
    assert_eq!(w.set(w.mfn(3), 0, pte(w.mfn(9), 0x66)), Err(Errno::Inval));
    assert_eq!(w.peek(w.mfn(3), 0), before);
    assert_eq!(w.set(w.mfn(3), 0, !pte(w.mfn(9), 0) & 0x000f_ffff_ffff_f000 | 0x66), Ok(0));
    w.assert_sound();
}

#[test]
fn a_write_to_a_frame_without_type_is_a_plain_write() {
    let w = World::one();
    w.boot();
    assert_eq!(w.set(w.mfn(20), 3, 0xdead_beef), Ok(0));
    assert_eq!(w.peek(w.mfn(20), 3), 0xdead_beef);
    assert!(w.mmu_update_as(0, &[((w.mfn(20).raw() << 12) + 4, 1)], SELF).is_err(), "not a whole word");
    w.assert_sound();
}

#[test]
fn accessed_and_dirty_stay_where_asked() {
    let w = World::one();
    w.boot();
    w.m().words(w.mfn(3))[0].fetch_or(0x60, Relaxed);
    let at = (w.mfn(3).raw() << 12) | 2;
    w.mmu_update_as(0, &[(at, pte(w.mfn(8), 0x5))], SELF).unwrap();
    assert_eq!(w.peek(w.mfn(3), 0) & 0xfff, 0x65);
    w.set(w.mfn(3), 0, pte(w.mfn(8), 0x5)).unwrap();
    assert_eq!(w.peek(w.mfn(3), 0) & 0xfff, 0x5);
    w.assert_sound();
}

#[test]
fn xsa_113_failed_machphys_updates_leave_no_reference() {
    let w = World::new(&[Privilege::Unprivileged, Privilege::Unprivileged], 32);
    let theirs = w.guests[1].mfns[0];
    for _ in 0..100 {
        assert!(w.mmu_update_as(0, &[(theirs.raw() << 12 | 1, 5)], SELF).is_err());
        assert!(w.mmu_update_as(0, &[(w.mfn(0).raw() << 12 | 1, 5)], SELF).is_ok());
    }
    assert_eq!(w.m().m2p(w.mfn(0)), 5);
    w.assert_sound();
}

#[test]
fn base_pointers_hold_their_tables() {
    let w = World::one();
    w.boot();
    w.ext(MmuextCmd::UnpinTable, w.mfn(0).raw()).unwrap();
    assert_eq!(w.use_of(w.mfn(0)), (L4, 1, false));
    w.ext(MmuextCmd::NewUserBaseptr, w.mfn(0).raw()).unwrap();
    assert_eq!(w.use_of(w.mfn(0)), (L4, 2, false));
    w.ext(MmuextCmd::NewUserBaseptr, 0).unwrap();
    w.assert_sound();
    w.ext(MmuextCmd::PinL4Table, w.mfn(16).raw()).unwrap();
    w.ext(MmuextCmd::NewBaseptr, w.mfn(16).raw()).unwrap();
    assert_eq!(w.use_of(w.mfn(0)).1, 0, "the old root's tree is given back");
    assert_eq!(w.m().effects.lock().roots.last(), Some(&w.mfn(16)));
    w.assert_sound();
}

#[test]
fn removing_an_upper_entry_gives_its_tree_back() {
    let w = World::one();
    w.boot();
    w.set(w.mfn(1), 0, 0).unwrap();
    assert_eq!(w.use_of(w.mfn(2)), (L2, 0, false));
    assert_eq!(w.use_of(w.mfn(8)).1, 0);
    w.set(w.mfn(3), 30, 77).unwrap();
    w.assert_sound();
}

/// Nothing waits on this pcpu; another one that wants the same table must not wait for the whole tree all the same.
#[test]
fn a_large_tree_is_neither_taken_nor_given_back_under_the_lock_of_a_table() {
    let w = World::one();
    w.boot();
    let l2 = w.mfn(4);
    (0..512).for_each(|n| w.poke(l2, n, pte(w.mfn(3), RW)));
    let at = w.mfn(1).raw() << 12 | 8;
    let once = |value: u64| {
        w.put_args(zerocopy::IntoBytes::as_bytes(&pv_abi::mmu::MmuUpdate { ptr: at, val: value }));
        let args = crate::error::Args([super::testing::ARGS, 1, 0, SELF, 0, 0]);
        w.with(0, |cx| crate::hypercall::mmu::mmu_update(cx, &args))
    };
    assert!(matches!(once(pte(l2, RW)), Err(crate::error::Exit::Restart(_))));
    assert_eq!((w.peek(w.mfn(1), 1), w.use_of(w.mfn(1)).1), (0, 1), "not changed yet, not locked any more");
    w.assert_sound();
    assert_eq!(once(pte(l2, RW)), Ok(0));
    assert_eq!(w.use_of(l2), (L2, 1, false));
    assert_eq!(once(0), Ok(0));
    assert_eq!(w.use_of(l2), (L2, 0, false));
    w.assert_sound();
}

/// Preempts after every number of steps, and checks the books at each stop (XSA-299, XSA-310).
#[test]
fn xsa_299_the_books_are_right_at_every_stop() {
    let mut stops = 0;
    for after in 0..12 {
        let w = World::one();
        w.build_tree();
        w.poke(w.mfn(2), 1, pte(w.mfn(4), RW));
        w.poke(w.mfn(4), 3, pte(w.mfn(9), RW));
        for (cmd, n) in [(MmuextCmd::PinL4Table, 0), (MmuextCmd::UnpinTable, 0)] {
            w.put_args(zerocopy::IntoBytes::as_bytes(&op(cmd, w.mfn(n).raw(), 0)));
            let mut args = crate::error::Args([super::testing::ARGS, 1, 0, SELF, 0, 0]);
            loop {
                w.m().preempt_after.store(after, Relaxed);
                let result = w.with(0, |cx| crate::hypercall::mmuext::mmuext_op(cx, &args));
                w.assert_sound();
                match result {
                    Err(crate::error::Exit::Restart(next)) => (args, stops) = (next, stops + 1),
                    other => break assert_eq!(other, Ok(0)),
                }
            }
        }
        assert!((0..16).all(|n| w.use_of(w.mfn(n)).1 == 0));
    }
    assert!(stops > 20, "{stops}");
}

#[test]
fn a_full_l1_is_checked_and_given_back_in_parts() {
    let w = World::one();
    let l1 = w.mfn(4);
    (0..512).for_each(|n| w.poke(l1, n, pte(w.mfn(9), RW)));
    let run = |cmd: MmuextCmd| {
        w.put_args(zerocopy::IntoBytes::as_bytes(&op(cmd, l1.raw(), 0)));
        let mut args = crate::error::Args([super::testing::ARGS, 1, 0, SELF, 0, 0]);
        let mut stops = 0;
        loop {
            w.m().preempt_after.store(0, Relaxed);
            let result = w.with(0, |cx| crate::hypercall::mmuext::mmuext_op(cx, &args));
            w.assert_sound();
            match result {
                Err(crate::error::Exit::Restart(next)) => (args, stops) = (next, stops + 1),
                other => return (other, stops),
            }
        }
    };
    let (pinned, stops) = run(MmuextCmd::PinL1Table);
    assert!(pinned == Ok(0) && stops >= 3, "{pinned:?} after {stops} stops");
    let (unpinned, stops) = run(MmuextCmd::UnpinTable);
    assert!(unpinned == Ok(0) && stops >= 1, "{unpinned:?} after {stops} stops");
    // One wrong entry far behind: what the parts before it took is given back, in parts again.
    w.poke(l1, 500, pte(l1, RW));
    let (refused, stops) = run(MmuextCmd::PinL1Table);
    assert!(refused.is_err() && stops >= 4, "{refused:?} after {stops} stops");
    assert_eq!(w.use_of(w.mfn(9)).1, 0);
}

#[test]
fn a_validation_that_fails_after_a_stop_says_so_and_ends() {
    for after in 0..6 {
        let w = World::one();
        w.build_tree();
        w.poke(w.mfn(0), 300, pte(w.mfn(8), RW));
        w.m().preempt_after.store(after, Relaxed);
        assert_eq!(w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()), Err(Errno::Inval), "after {after}");
        w.assert_sound();
        assert!((0..16).all(|n| w.use_of(w.mfn(n)).1 == 0));
    }
}

#[test]
fn xsa_264_unfinished_work_comes_first() {
    let w = World::one();
    w.build_tree();
    w.m().preempt_after.store(0, Relaxed);
    let start = |w: &World| {
        w.put_args(zerocopy::IntoBytes::as_bytes(&op(MmuextCmd::PinL4Table, w.mfn(0).raw(), 0)));
        w.with(0, |cx| {
            crate::hypercall::mmuext::mmuext_op(
                cx,
                &crate::error::Args([super::testing::ARGS, 1, 0, SELF, 0, 0]),
            )
        })
    };
    assert!(matches!(start(&w), Err(crate::error::Exit::Restart(_))));
    assert!(!w.guests[0].vcpu.mm.pending.is_empty());
    // The guest does something else instead of the call that it should make again.
    w.m().preempt_after.store(u64::MAX, Relaxed);
    assert_eq!(w.set(w.mfn(20), 0, 1), Ok(0));
    assert!(w.guests[0].vcpu.mm.pending.is_empty());
    assert!((0..16).all(|n| w.use_of(w.mfn(n)).1 == 0), "nothing was pinned, so nothing is kept");
    w.assert_sound();
}

#[test]
fn xsa_310_a_domain_killed_at_any_stage_gives_all_back() {
    for after in 0..10 {
        for during_unpin in [false, true] {
            let w = World::one();
            w.build_tree();
            let free = w.w.hv.frames.free_frames();
            if during_unpin {
                w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()).unwrap();
            }
            let cmd = if during_unpin { MmuextCmd::UnpinTable } else { MmuextCmd::PinL4Table };
            w.put_args(zerocopy::IntoBytes::as_bytes(&op(cmd, w.mfn(0).raw(), 0)));
            w.m().preempt_after.store(after, Relaxed);
            let args = crate::error::Args([super::testing::ARGS, 1, 0, SELF, 0, 0]);
            let _ = w.with(0, |cx| crate::hypercall::mmuext::mmuext_op(cx, &args));
            let dom = &w.guests[0].dom;
            let mut calls = 0;
            let end = loop {
                w.m().preempt_after.store(after, Relaxed);
                calls += 1;
                match relinquish(&w.w.hv, w.m(), dom) {
                    Ok(end) => break end,
                    Err(_) => assert!(calls < 1000),
                }
                w.assert_sound();
            };
            assert_eq!(end, Relinquished::All);
            assert_eq!(w.w.hv.frames.free_frames(), free + 32);
            w.assert_sound();
        }
    }
}

#[test]
fn frames_that_others_map_outlive_their_domain() {
    let w = World::new(&[Privilege::Control, Privilege::Unprivileged], 32);
    w.boot();
    let theirs = w.guests[1].mfns[0];
    w.mmu_update_as(0, &[((w.mfn(3).raw() << 12) + 72, pte(theirs, RW))], 2).unwrap();
    let them = &w.guests[1].dom;
    assert_eq!(relinquish(&w.w.hv, w.m(), them), Ok(Relinquished::AllButHeld));
    assert_eq!(them.mem.tot_pages(), 1);
    w.assert_sound();
    w.set(w.mfn(3), 9, 0).unwrap();
    assert_eq!(relinquish(&w.w.hv, w.m(), them), Ok(Relinquished::All));
    w.assert_sound();
}

#[test]
fn a_base_pointer_of_a_dead_domain_is_given_back() {
    let w = World::one();
    w.boot();
    w.ext(MmuextCmd::NewUserBaseptr, w.mfn(0).raw()).unwrap();
    assert_eq!(relinquish(&w.w.hv, w.m(), &w.guests[0].dom), Ok(Relinquished::All));
    w.assert_sound();
}

#[test]
fn superpages_and_unknown_operations_answer_their_errno() {
    let w = World::one();
    assert_eq!(w.ext(MmuextCmd::MarkSuper, 0), Err(Errno::OpNotSupp));
    assert_eq!(w.ext(MmuextCmd::UnmarkSuper, u64::MAX), Err(Errno::OpNotSupp));
    let mut unknown = op(MmuextCmd::MarkSuper, 0, 0);
    unknown.cmd = 77;
    assert_eq!(w.mmuext_as(0, &[unknown], SELF), Err(Errno::NoSys));
    assert_eq!(w.ext(MmuextCmd::FlushCache, 0), Err(Errno::Acces));
}

#[test]
fn clear_and_copy_need_a_frame_that_may_be_written() {
    let w = World::one();
    w.boot();
    w.poke(w.mfn(20), 5, 42);
    let copy = op(MmuextCmd::CopyPage, w.mfn(21).raw(), w.mfn(20).raw());
    assert_eq!(w.mmuext_as(0, &[copy], SELF), Ok(0));
    assert_eq!(w.peek(w.mfn(21), 5), 42);
    assert_eq!(w.ext(MmuextCmd::ClearPage, w.mfn(21).raw()), Ok(0));
    assert_eq!(w.peek(w.mfn(21), 5), 0);
    for n in 0..4 {
        assert_eq!(w.ext(MmuextCmd::ClearPage, w.mfn(n).raw()), Err(Errno::Inval), "a table");
    }
    w.assert_sound();
}

#[test]
fn update_va_mapping_finds_the_entry() {
    let w = World::one();
    w.boot();
    let value = pte(w.mfn(20), RW);
    assert_eq!(w.call(0, [0x5000, value, 0, 0, 0, 0], mmu::update_va_mapping), Ok(0));
    assert_eq!(w.peek(w.mfn(3), 5), value);
    for va in [0x20_0000, 1 << 39, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000, 1 << 47] {
        assert_eq!(w.call(0, [va, 0, 0, 0, 0, 0], mmu::update_va_mapping), Err(Errno::Inval), "{va:#x}");
    }
    w.assert_sound();
}

#[test]
fn xsa_279_a_failed_update_flushes_nothing() {
    let w = World::one();
    w.boot();
    w.m().effects.lock().flushes.clear();
    assert!(w.call(0, [1 << 47, 0, 2, 0, 0, 0], mmu::update_va_mapping).is_err());
    assert!(w.m().effects.lock().flushes.is_empty());
    assert_eq!(w.call(0, [0x5000, 0, 2, 0, 0, 0], mmu::update_va_mapping), Ok(0));
    assert_eq!(w.m().effects.lock().flushes.len(), 1);
}

#[test]
fn long_lists_count_what_is_done() {
    let w = World::one();
    w.boot();
    let done_at = super::testing::ARGS + 4096;
    let list: Vec<_> = (0..40)
        .map(|i| pv_abi::mmu::MmuUpdate { ptr: (w.mfn(20).raw() << 12) + i * 8, val: i + 1 })
        .collect();
    w.put_args(zerocopy::IntoBytes::as_bytes(list.as_slice()));
    w.m().preempt_after.store(1, Relaxed);
    let args = [super::testing::ARGS, 40, done_at, SELF, 0, 0];
    let first = w.with(0, |cx| mmu::mmu_update(cx, &crate::error::Args(args)));
    let Err(crate::error::Exit::Restart(rest)) = first else { panic!("{first:?}") };
    assert_eq!(rest.0[1] >> 31, 1);
    w.m().preempt_after.store(u64::MAX, Relaxed);
    assert_eq!(w.call(0, rest.0, mmu::mmu_update), Ok(0));
    let done = crate::hypercall::GuestPtr::<u32>::new(done_at).unwrap().read(w.m()).unwrap();
    assert_eq!(done, 40);
    assert!((0..40).all(|i| w.peek(w.mfn(20), i) == u64::try_from(i).unwrap() + 1));
}

#[test]
fn an_error_in_a_list_ends_it_there() {
    let w = World::one();
    w.boot();
    let at = |i: u64| (w.mfn(20).raw() << 12) + i * 8;
    assert_eq!(w.mmu_update_as(0, &[(at(0), 1), (at(1) + 4, 1), (at(2), 1)], SELF), Err(Errno::Inval));
    assert_eq!((w.peek(w.mfn(20), 0), w.peek(w.mfn(20), 2)), (1, 0));
}

/// A store of the guest's kernel at 0x4000 to its L1, which frame 3 of the tree maps read-only there.
fn table_store(w: &World, code: &[u8], regs: &mut crate::UserRegs, va: u64) -> super::fault::FaultOutcome {
    use crate::port::GuestMem;
    const CODE: u64 = 0x40_0000;
    w.m().map_guest_page(CODE);
    w.m().copy_to_guest(pv_abi::ids::GuestVa::new(CODE), code).unwrap();
    regs.rip = CODE;
    regs.cs = crate::regs::GUEST_CS64;
    w.with_regs(0, regs, |cx| super::fault::guest_page_fault(cx, pv_abi::ids::GuestVa::new(va), 7))
}

fn world_with_mapped_table() -> World {
    let w = World::one();
    w.build_tree();
    w.poke(w.mfn(3), 4, pte(w.mfn(3), RO));
    w.poke(w.mfn(3), 5, pte(w.mfn(2), RO));
    w.poke(w.mfn(3), 6, pte(w.mfn(20), RO));
    w.ext(MmuextCmd::PinL4Table, w.mfn(0).raw()).unwrap();
    w.ext(MmuextCmd::NewBaseptr, w.mfn(0).raw()).unwrap();
    w.guests[0].dom.set_assist(pv_abi::vm_assist::VmAssist::WritablePagetables, true);
    w
}

/// The hypervisor writes through the guest's translations, and a right that was just given may not be in them yet.
#[test]
fn an_own_access_is_tried_again_where_the_tables_allow_it() {
    use pv_abi::ids::GuestVa;
    let w = world_with_mapped_table();
    w.poke(w.mfn(3), 7, pte(w.mfn(20), RW));
    let stale = |va: u64, error: u32| {
        let who = (&*w.guests[0].dom, &*w.guests[0].vcpu);
        super::fault::own_access_was_stale(&w.w.hv, w.m(), who, GuestVa::new(va), error)
    };
    const READ: u32 = 1;
    const WRITE: u32 = 3;
    assert!(stale(0x7000, WRITE) && stale(0x7008, READ), "a writable page");
    assert!(stale(0x6000, READ) && !stale(0x6000, WRITE), "a read-only page");
    assert!(!stale(0x4000, WRITE), "a table: the store is for the guest's own instructions");
    assert!(!stale(0x9000, READ) && !stale(0x8000_0000_0000, READ), "nothing there");
    assert!(!stale(0x7000, WRITE - READ), "an absent page is never in the way for long");
    assert!(!stale(0x7000, WRITE | 1 << 3) && !stale(0x7000, WRITE | 1 << 5), "reserved bits, keys");
}

const MOV: [u8; 3] = [0x48, 0x89, 0x07];

#[test]
fn a_store_to_an_l1_is_checked_and_carried_out() {
    use super::fault::FaultOutcome;
    let w = world_with_mapped_table();
    let mut regs = crate::UserRegs { rax: pte(w.mfn(21), RW), ..Default::default() };
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x4000 + 9 * 8), FaultOutcome::Resume);
    assert_eq!(w.peek(w.mfn(3), 9), pte(w.mfn(21), RW));
    assert_eq!(regs.rip, 0x40_0003);
    w.assert_sound();
    regs.rax = pte(w.mfn(3), RW);
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x4000 + 10 * 8), FaultOutcome::Inject, "a writable table");
    assert_eq!(w.peek(w.mfn(3), 10), 0);
    // lock andb $0xfd,(%rdi): the mapping loses its writability.
    assert_eq!(table_store(&w, &[0xf0, 0x80, 0x27, 0xfd], &mut regs, 0x4000 + 9 * 8), FaultOutcome::Resume);
    assert_eq!(w.peek(w.mfn(3), 9), pte(w.mfn(21), RO));
    assert_eq!(w.use_of(w.mfn(21)).1, 0);
    w.assert_sound();
}

#[test]
fn stores_elsewhere_are_the_guests_faults() {
    use super::fault::FaultOutcome;
    let w = world_with_mapped_table();
    let mut regs = crate::UserRegs { rax: 0, ..Default::default() };
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x5000), FaultOutcome::Inject, "an L2");
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x6000), FaultOutcome::Inject, "no table");
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x4004), FaultOutcome::Inject, "not aligned");
    assert_eq!(table_store(&w, &[0x0f, 0x0b], &mut regs, 0x4048), FaultOutcome::Inject, "no store");
    w.guests[0].dom.set_assist(pv_abi::vm_assist::VmAssist::WritablePagetables, false);
    assert_eq!(table_store(&w, &MOV, &mut regs, 0x4048), FaultOutcome::Inject, "not switched on");
    assert_eq!(regs.rip, 0x40_0000);
    w.assert_sound();
}

#[test]
fn xsa_234_a_grant_entry_that_was_replaced_is_not_removed() {
    use super::grant_map::{ForOne, HostAddress, MapFor, install_host_mapping, remove_host_mapping};
    use pv_abi::ids::{GuestVa, MachAddr};
    use pv_abi::pte::PteFlags;
    let w = World::new(&[Privilege::Unprivileged, Privilege::Unprivileged], 32);
    w.boot();
    let (theirs, granter) = (w.guests[1].mfns[0], w.guests[1].dom.id);
    let at = HostAddress::Va(GuestVa::new(0x9000));
    let install = |at, writable| {
        w.with(0, |cx| {
            let frame = cx.hv.frames.get_leaf(cx.m, theirs, granter, writable).unwrap();
            install_host_mapping(cx, &mut ForOne, at, frame, MapFor::Kernel, PteFlags::empty())
        })
    };
    let remove = |at, mfn, writable| w.with(0, |cx| remove_host_mapping(cx, &mut ForOne, at, mfn, writable));
    assert_eq!(install(at, false), Ok(()));
    assert_eq!(w.set(w.mfn(3), 9, pte(theirs, RW)), Err(Errno::Inval), "no more rights than granted");
    assert_eq!(remove(at, theirs, true), Err(Errno::Inval));
    assert_eq!(remove(at, w.mfn(8), false), Err(Errno::Inval));
    w.set(w.mfn(3), 9, pte(w.mfn(9), RO)).unwrap();
    assert_eq!(remove(at, theirs, false), Err(Errno::Inval));
    w.assert_sound();
    let entry = |offset| HostAddress::Pte(MachAddr::new((w.mfn(3).raw() << 12) + offset));
    assert_eq!(install(entry(84), true), Err(Errno::Inval), "XSA-227: not a whole entry");
    assert_eq!(install(entry(80), true), Ok(()));
    assert_eq!(w.use_of(theirs), (PageType::Writable, 1, false));
    assert_eq!(remove(entry(80), theirs, true), Ok(()));
    w.assert_sound();
}

#[test]
fn a_dying_domain_gets_no_base_pointer() {
    let w2 = World::one();
    w2.boot();
    w2.guests[0].dom.mem.set_dying();
    assert_eq!(w2.ext(MmuextCmd::NewBaseptr, w2.mfn(0).raw()), Err(Errno::Inval));
    assert_eq!(w2.ext(MmuextCmd::NewUserBaseptr, w2.mfn(0).raw()), Err(Errno::Inval));
    assert_eq!(
        w2.ext(MmuextCmd::PinL1Table, w2.mfn(21).raw()),
        Err(Errno::Inval),
        "a pin would stay for ever"
    );
    w2.assert_sound();
}

#[test]
fn a_call_given_up_for_another_leaves_no_references() {
    let w = World::one();
    w.build_tree();
    w.poke(w.mfn(5), 0, pte(w.mfn(6), RW));
    w.m().preempt_after.store(0, Relaxed);
    w.put_args(op(MmuextCmd::PinL4Table, w.mfn(0).raw(), 0).as_bytes());
    let args = Args([ARGS, 1, 0, SELF, 0, 0]);
    assert!(matches!(w.with(0, |cx| mmuext::mmuext_op(cx, &args)), Err(Exit::Restart(_))));
    // The guest makes another call instead, which finishes that work and then stops in its own.
    assert_eq!(w.ext(MmuextCmd::PinL2Table, w.mfn(5).raw()), Ok(0));
    w.m().preempt_after.store(u64::MAX, Relaxed);
    w.assert_sound();
    assert_eq!(w.use_of(w.mfn(0)).1, 0, "nobody uses the root that was not pinned");
}
