//! Page types, references and validation, attacked from one vcpu (class D1 of the catalogue).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use pv_abi::ids::{MachAddr, Mfn};
use pv_abi::memory::MemoryOp;
use pv_abi::mmu::{MmuUpdate, MmuextCmd, UvmFlags};
use pv_abi::pte::{Pte, PteFlags};
use pv_guest_kernel::Context;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Prot, pfn_of, va_to_mfn};
use test_guests::frames::{Frame, RO, RW, Tree, end_of_ram, exchange, ext, memory_op, pin_of, reservation};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claims! {
    attack_page_types:
    each_bit_of_an_l1_entry [148, 154, 182, 402],
    each_bit_of_an_upper_entry [148, 176, 182],
    large_pages_are_refused_at_every_level [148, 167, 176, 304],
    a_failed_pin_leaves_nothing [45, 58, 290, 299],
    failed_machphys_updates_leave_nothing [113],
    machphys_entries_of_others_stay [113, 22],
    frames_in_use_are_not_exchanged [214, 217, 287],
    a_pinned_table_outlives_its_return [252],
    linear_tables_are_refused [185, 240, 280, 309],
    shared_frames_are_no_tables [248],
    numbers_that_are_no_frames_are_refused [32, 251],
    other_domains_tables_are_not_written [109],
    entries_that_are_not_present_name_no_memory [273],
}

/// Bits of an entry that a guest may set or clear on a mapping of a page table without doing harm.
const HARMLESS: u64 = 0x7ff0_0000_0000_0f64 | 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;

/// What a flip of one bit must not do: map a page table writable or cached otherwise, or map a stranger's frame.
fn judge_flip(what: &str, bit: u32, answer: i64, old: u64, now: u64) -> Claim {
    if answer != 0 {
        ensure_eq!(now, old, "{what}, bit {bit}: the entry after a refusal");
        return Ok(());
    }
    let flipped = 1_u64 << bit;
    if flipped & (HARMLESS | PRESENT) != 0 {
        return Ok(());
    }
    let mfn = (now & ADDRESS) >> 12;
    let own = pfn_of(Mfn::new(mfn)).is_some() || mfn > end_of_ram();
    ensure!(flipped & ADDRESS != 0 && own, "{what}: bit {bit} was granted: {now:#x}");
    Ok(())
}

fn each_bit_of_an_l1_entry(_: &'static Context) -> Claim {
    // The frame behind the entry is a page table, so that every right to write it is a breach.
    let target = Frame::read_only()?;
    let table = Frame::new()?;
    let old = target.entry(RO);
    table.set_word(5, old);
    ensure_eq!(table.map(Prot::Read), 0, "making the table read-only");
    ensure_eq!(target.ext(MmuextCmd::PinL1Table), 0, "pinning the target");
    ensure_eq!(table.ext(MmuextCmd::PinL1Table), 0, "pinning the table");
    let at = (table.mfn().raw() << 12) + 40;
    let old = table.word(5);
    for bit in 0..64 {
        for command in [0, 2] {
            let update = MmuUpdate { ptr: at | command, val: old ^ 1 << bit };
            let (answer, _) = call::mmu_update(&[update]);
            judge_flip("mmu_update", bit, answer, old, table.word(5))?;
            ensure_eq!(table.set(5, old), 0, "setting the entry back");
        }
    }
    for frame in [&table, &target] {
        ensure_eq!(frame.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    }
    each_bit_by_address()
}

fn each_bit_by_address() -> Claim {
    let target = Frame::read_only()?;
    ensure_eq!(target.ext(MmuextCmd::PinL1Table), 0, "pinning the target");
    let place = Range::reserve(1)?;
    place.entry(0)?;
    let set = |raw: u64| call::update_va_mapping(place.start(), Pte::from_raw(raw), UvmFlags::INVLPG);
    let old = target.entry(RO);
    for bit in 0..64 {
        ensure_eq!(set(old), 0, "a good mapping");
        if set(old ^ 1 << bit) == 0 && (1_u64 << bit) & (HARMLESS | PRESENT | ADDRESS) == 0 {
            return Err(Trouble::Failure(test_guests::format!("update_va_mapping granted bit {bit}")));
        }
    }
    ensure_eq!(set(0), 0, "unmapping");
    ensure_eq!(target.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    Ok(())
}

fn each_bit_of_an_upper_entry(_: &'static Context) -> Claim {
    let tree = Tree::new()?;
    for level in [4, 3, 2] {
        let table = tree.level(level);
        let old = table.word(0);
        for bit in 0..64 {
            let answer = table.set(0, old ^ 1 << bit);
            let now = table.word(0);
            ensure!(answer == 0 || now == old, "level {level}, bit {bit}: a refusal that changed the entry");
            ensure!(answer != 0 || bit != 7, "level {level}: a large page was made");
            // Another frame of one's own, empty and mapped nowhere, may be a table; no other.
            let elsewhere =
                (1_u64 << bit) & ADDRESS != 0 && pfn_of(Mfn::new((now & ADDRESS) >> 12)).is_none();
            ensure!(answer != 0 || !elsewhere, "level {level}, bit {bit}: led to another frame: {now:#x}");
            ensure_eq!(table.set(0, old), 0, "level {level}, bit {bit}: setting the entry back");
        }
    }
    Ok(())
}

fn large_pages_are_refused_at_every_level(_: &'static Context) -> Claim {
    let tree = Tree::new()?;
    let data = Frame::new()?;
    for level in [4, 3, 2] {
        for base in [0, data.mfn().raw() & !0x1ff, data.mfn().raw() & !0x3_ffff] {
            for flags in [RO, RW] {
                let large = base << 12 | flags | PteFlags::PSE.bits();
                call::refused_somehow("a large page", tree.level(level).set(7, large))?;
                ensure_eq!(tree.level(level).word(7), 0, "the entry afterwards");
            }
        }
    }
    for command in [MmuextCmd::MarkSuper, MmuextCmd::UnmarkSuper] {
        for mfn in [0, data.mfn().raw(), data.mfn().raw() & !0x1ff, 1 << 40, u64::MAX] {
            call::refused_somehow("marking a large page", ext(command.raw(), mfn, 0))?;
        }
    }
    Ok(())
}

fn a_failed_pin_leaves_nothing(_: &'static Context) -> Claim {
    const TABLES: usize = 16;
    let leaves: Vec<Frame> = (0..TABLES).map(|_| Frame::new()).collect::<Claim<_>>()?;
    let data = Frame::new()?;
    let tops = [Frame::new()?, Frame::new()?, Frame::new()?];
    for (n, leaf) in (0..).zip(&leaves) {
        leaf.set_word(n, data.entry(RW));
        tops[0].set_word(n * 3, leaf.entry(RW));
    }
    // The last entry of all maps the first table writable, which a table may not be.
    leaves[TABLES - 1].set_word(511, leaves[0].entry(RW));
    tops[1].set_word(511, tops[0].entry(RW));
    tops[2].set_word(0, tops[1].entry(RW));
    for frame in leaves.iter().chain(&tops) {
        ensure_eq!(frame.map(Prot::Read), 0, "making a table read-only");
    }
    for round in 0..50 {
        for (level, top) in (2..).zip(&tops) {
            call::refused_somehow("pinning a tree with a fault", top.ext(pin_of(level)))?;
            call::refused_somehow("unpinning what is not pinned", top.ext(MmuextCmd::UnpinTable))?;
        }
        // Nothing of it is a table any more, so each page may be written.
        let frame = &leaves[round % TABLES];
        ensure_eq!(frame.map(Prot::ReadWrite), 0, "round {round}: a table that is none is writable");
        ensure_eq!(frame.map(Prot::Read), 0, "and read-only again");
    }
    Ok(())
}

fn failed_machphys_updates_leave_nothing(_: &'static Context) -> Claim {
    let frame = Frame::new()?;
    let pfn = pfn_of(frame.mfn()).ok_or(Trouble::error("no pfn"))?;
    let good = MmuUpdate { ptr: frame.mfn().raw() << 12 | 1, val: pfn.raw() };
    let bad = [
        MmuUpdate { ptr: 0x1001, val: pfn.raw() },
        MmuUpdate { ptr: 1 << 51 | 1, val: 0 },
        MmuUpdate { ptr: !7 | 1, val: 0 },
    ];
    for _ in 0..20_000 {
        for update in bad {
            let (answer, done) = call::mmu_update(&[good, update]);
            call::refused_somehow("a wrong update behind a good one", answer)?;
            ensure_eq!(done, 1, "updates done");
        }
    }
    // A reference that stayed would keep the frame from being exchanged.
    let mut taken = [pfn.raw()];
    ensure_eq!(frame.unmap(), 0, "unmapping the frame");
    let mut given = [frame.mfn().raw()];
    let (answer, count) = exchange(&mut given, &mut taken);
    ensure_eq!((answer, count), (0, 1), "exchanging a frame that nobody uses");
    let value = Pte::new(Mfn::new(taken[0]), Prot::ReadWrite.flags());
    ensure_eq!(call::update_va_mapping(frame.va(), value, 0), 0, "mapping the new frame");
    // The page is another's frame from now on: it is lost to the allocator.
    core::mem::forget(frame);
    Ok(())
}

fn machphys_entries_of_others_stay(_: &'static Context) -> Claim {
    let own = Frame::new()?;
    let mut tried = 0;
    for mfn in (1..0xf000).step_by(101) {
        if pfn_of(Mfn::new(mfn)).is_some() {
            continue;
        }
        let (answer, _) = call::mmu_update(&[MmuUpdate { ptr: mfn << 12 | 1, val: 5 }]);
        call::refused_somehow("renumbering a stranger's frame", answer)?;
        tried += 1;
    }
    ensure!(tried > 0, "there is no stranger's frame to try");
    let pfn = pfn_of(own.mfn()).ok_or(Trouble::error("no pfn"))?;
    for value in [u64::MAX, 0x5555_5555_5555_5555, 1 << 40] {
        let (answer, _) = call::mmu_update(&[MmuUpdate { ptr: own.mfn().raw() << 12 | 1, val: value }]);
        ensure_eq!(answer, 0, "renumbering an own frame");
        // Its number is the guest's own affair; the frame stays its own.
        ensure_eq!((own.map(Prot::Read), own.map(Prot::ReadWrite)), (0, 0), "mapping it afterwards");
    }
    let (answer, _) = call::mmu_update(&[MmuUpdate { ptr: own.mfn().raw() << 12 | 1, val: pfn.raw() }]);
    ensure_eq!(answer, 0, "the right number again");
    Ok(())
}

fn frames_in_use_are_not_exchanged(_: &'static Context) -> Claim {
    let table = Frame::read_only()?;
    ensure_eq!(table.ext(MmuextCmd::PinL1Table), 0, "pinning");
    let mapped = Frame::new()?;
    let descriptors = Frame::read_only()?;
    ensure_eq!(ext(MmuextCmd::SetLdt.raw(), descriptors.va(), 512), 0, "an LDT");
    let mut outcomes = Vec::new();
    for frame in [&table, &mapped, &descriptors] {
        let (mut given, mut taken) = ([frame.mfn().raw()], [0]);
        outcomes.push(exchange(&mut given, &mut taken));
        // Without its ordinary mapping a table is still one.
        if frame.mfn() == table.mfn() {
            ensure_eq!(frame.unmap(), 0, "unmapping");
            outcomes.push(exchange(&mut given, &mut taken));
            ensure_eq!(frame.map(Prot::Read), 0, "mapping again");
        }
    }
    for (answer, count) in outcomes {
        call::refused_somehow("exchanging a frame in use", answer)?;
        ensure_eq!(count, 0, "frames exchanged");
    }
    ensure_eq!(ext(MmuextCmd::SetLdt.raw(), 0, 0), 0, "no LDT");
    ensure_eq!(table.ext(MmuextCmd::UnpinTable), 0, "still pinned");
    Ok(())
}

fn a_pinned_table_outlives_its_return(_: &'static Context) -> Claim {
    let table = Frame::read_only()?;
    ensure_eq!(table.ext(MmuextCmd::PinL1Table), 0, "pinning");
    let mut list = [table.mfn().raw()];
    // Whether the call counts it or not: the frame must stay a table, and nobody else's, until it is unpinned.
    let _counted = memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut list));
    call::refused_somehow("writing a returned table", table.map(Prot::ReadWrite))?;
    ensure_eq!(table.set(3, 0), 0, "it still is a table");
    ensure_eq!(table.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    call::refused_somehow("unpinning twice", table.ext(MmuextCmd::UnpinTable))?;
    ensure_eq!(table.unmap(), 0, "unmapping the last use");
    let mut fresh = [0];
    let taken = memory_op(MemoryOp::IncreaseReservation, &mut reservation(&mut fresh));
    if taken == 1 {
        let value = Pte::new(Mfn::new(fresh[0]), Prot::ReadWrite.flags());
        ensure_eq!(call::update_va_mapping(table.va(), value, 0), 0, "another frame in its place");
        ensure_eq!(call::load(table.va()), 0, "a word of a fresh frame");
        core::mem::forget(table);
    }
    Ok(())
}

fn linear_tables_are_refused(_: &'static Context) -> Claim {
    let tree = Tree::new()?;
    for level in [4, 3, 2] {
        let table = tree.level(level);
        for flags in [RO, RW] {
            call::refused_somehow("a table that leads to itself", table.set(9, table.entry(flags)))?;
            let other = Tree::new()?;
            let across = other.level(level).entry(flags);
            call::refused_somehow("a table that leads to one of its level", table.set(9, across))?;
        }
        if level != 4 {
            let up = tree.level(level + 1).entry(RW);
            call::refused_somehow("a table that leads upwards", table.set(9, up))?;
        }
    }
    // Before validation as well: rings of tables that come back to a table as one of another level.
    for length in 1..4 {
        let ring: Vec<Frame> = (0..length).map(|_| Frame::new()).collect::<Claim<_>>()?;
        for (n, frame) in ring.iter().enumerate() {
            frame.set_word(1, ring[(n + 1) % length].entry(RO));
        }
        for frame in &ring {
            ensure_eq!(frame.map(Prot::Read), 0, "making a table read-only");
        }
        // A shorter tree ends at an L1 that maps the first table read-only, which is allowed.
        for level in length + 1..5 {
            call::refused_somehow("pinning a ring of tables", ring[0].ext(pin_of(level)))?;
        }
    }
    Ok(())
}

fn shared_frames_are_no_tables(context: &'static Context) -> Claim {
    let shared = MachAddr::new(context.start_info().shared_info).mfn();
    let table = Frame::read_only()?;
    ensure_eq!(table.ext(MmuextCmd::PinL1Table), 0, "pinning");
    for level in 1..5 {
        call::refused_somehow("pinning the shared page", ext(pin_of(level).raw(), shared.raw(), 0))?;
    }
    for cmd in [MmuextCmd::NewBaseptr, MmuextCmd::NewUserBaseptr, MmuextCmd::UnpinTable] {
        call::refused_somehow("the shared page as a root", ext(cmd.raw(), shared.raw(), 0))?;
    }
    // It may be mapped, and only as long as it is its owner's.
    ensure_eq!(table.set(0, shared.raw() << 12 | RW), 0, "mapping the shared page");
    let (mut given, mut taken) = ([shared.raw()], [0]);
    call::refused_somehow("exchanging the shared page", exchange(&mut given, &mut taken).0)?;
    ensure_eq!(
        memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut given)),
        0,
        "giving the shared page back"
    );
    let code = va_to_mfn(call::address(&HARMLESS)).ok_or(Trouble::error("no frame of one's own image"))?;
    ensure!(code != shared, "the shared page is the image's");
    ensure_eq!(table.set(0, 0), 0, "unmapping it");
    ensure_eq!(table.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    Ok(())
}

/// Numbers that are no frame of anybody: past the end, markers of tables that hold none, and what overflows when shifted.
const NO_FRAMES: [u64; 9] = [
    0x5555_5555_5555_5555,
    u64::MAX,
    u64::MAX >> 12,
    (1 << 40) - 1,
    1 << 40,
    1 << 52,
    1 << 63,
    0xffff_ffff,
    0x00ff_ffff_ffff,
];

fn numbers_that_are_no_frames_are_refused(_: &'static Context) -> Claim {
    let place = Range::reserve(1)?;
    place.entry(0)?;
    for mfn in NO_FRAMES {
        for cmd in 0..24 {
            // Flushes and the LDT take addresses, not frames.
            if !(6..=14).contains(&cmd) && cmd != 18 {
                call::refused_somehow("an operation on no frame", ext(cmd, mfn, mfn))?;
            }
        }
        for command in [0, 1, 2, 3] {
            let (answer, _) = call::mmu_update(&[MmuUpdate { ptr: mfn << 12 | command, val: 0 }]);
            call::refused_somehow("an update in no frame", answer)?;
        }
        let raw = mfn << 12 & ADDRESS;
        if pfn_of(Mfn::new(raw >> 12)).is_none() && raw >> 12 > 0xffff_ffff {
            let answer = call::update_va_mapping(place.start(), Pte::from_raw(raw | RW), 0);
            call::refused_somehow("mapping no frame", answer)?;
        }
        let mut list = [mfn];
        ensure_eq!(
            memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut list)),
            0,
            "returning no frame"
        );
    }
    Ok(())
}

fn other_domains_tables_are_not_written(_: &'static Context) -> Claim {
    let frame = Frame::read_only()?;
    ensure_eq!(frame.ext(MmuextCmd::PinL1Table), 0, "pinning");
    let update = [MmuUpdate { ptr: frame.mfn().raw() << 12, val: 0 }];
    // Nobody as the owner of frames; nobody, the devices', the hypervisor's and others as the owner of tables.
    for domain in
        [0x7123_u64, 0x7ff4, 0x7fff, 0x7124_7ff0, 0xffff_7ff0, 0x7ff2_7ff0, 0x7ff3_7ff0, 0x7ff5_7ff0]
    {
        let mut done = 7_u32;
        let args = [call::address(&update), 1, call::address_mut(&mut done), domain];
        let answer = call::call(pv_abi::hypercall::Hypercall::MmuUpdate, args);
        call::refused_somehow(&test_guests::format!("an update for domains {domain:#x}"), answer)?;
    }
    ensure_eq!(frame.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    Ok(())
}

fn entries_that_are_not_present_name_no_memory(_: &'static Context) -> Claim {
    let tree = Tree::new()?;
    let data = Frame::new()?;
    for level in [4, 3, 2, 1] {
        for raw in [data.entry(RW) & !PRESENT, data.entry(0), 0x10_0000, data.entry(PteFlags::PSE.bits())] {
            let answer = tree.level(level).set(17, raw);
            call::refused_somehow("an absent entry that names memory", answer)?;
        }
        // Inverted, as a careful kernel keeps a swap entry.
        if level == 1 {
            ensure_eq!(tree.level(level).set(17, !data.entry(0) & ADDRESS), 0, "an inverted address");
            ensure_eq!(tree.level(level).set(17, 0), 0, "clearing it");
        }
    }
    Ok(())
}
