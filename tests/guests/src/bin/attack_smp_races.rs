//! Two to four vcpus that fight over the same frames, translations, ports and grants (classes D1, D2, D6, D7). What one of them
//! gets is chance; that nothing breaks is the claim, and the audit at the machine's end counts it all again.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![expect(unsafe_code, reason = "storms look at the shared page as the hypervisor does")]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::grant::{GntmapFlags, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::VcpuId;
use pv_abi::memory::MemoryOp;
use pv_abi::mmu::{MmuextCmd, UvmFlags};
use pv_abi::pte::Pte;
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Prot, table};
use pv_guest_kernel::{Context, event, sched, smp, time};
use test_guests::attempt::{self, Code, Regs};
use test_guests::frames::{Frame, RO, RW, ext, memory_op, pin_of, reservation, set_entry};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claims! {
    attack_smp_races:
    vcpus_that_pin_and_map_the_same_frames [37, 242, 264, 345, 401],
    a_table_is_written_by_no_stale_translation [241, 408],
    an_upper_entry_that_went_leads_nowhere [286, 292],
    a_frame_given_back_is_seen_by_nobody [511],
    a_frame_given_back_below_an_upper_entry [286, 511],
    handles_mapped_and_unmapped_by_all [218, 228, 236, 380],
    ports_bound_closed_and_sent_to_by_all [340, 343],
    pending_and_mask_bytes_rewritten_by_another [331, 332, 391],
    code_rewritten_while_it_is_emulated [202, 204],
    arguments_rewritten_during_a_call [155, 448, 500],
}

const ROUNDS: u64 = 400;
const PATIENCE_NS: u64 = 40_000_000_000;

/// What the other vcpus do: 0 nothing. Each does it again and again, and counts.
static JOB: AtomicU64 = AtomicU64::new(0);
static TURNS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// What the job is about.
static WHAT: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

const JOB_PINS: u64 = 1;
const JOB_STORE: u64 = 2;
const JOB_LOAD: u64 = 3;
const JOB_GRANTS: u64 = 4;
const JOB_PORTS: u64 = 5;
const JOB_UPCALLS: u64 = 6;
const JOB_BYTES: u64 = 7;

fn what(n: usize) -> u64 {
    WHAT[n % WHAT.len()].load(Ordering::Acquire)
}

/// The helpers' loop.
fn helper(number: u64) {
    attempt::catch_exceptions();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1);
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        match JOB.load(Ordering::Acquire) {
            JOB_PINS => one_pin_or_map(random),
            JOB_STORE => store(what(0), number + 1),
            JOB_LOAD => load(what(0)),
            JOB_GRANTS => map_and_unmap(random, number),
            JOB_PORTS => one_port(random),
            JOB_UPCALLS => rewrite_vcpu_info(random),
            JOB_BYTES => rewrite_bytes(random),
            _ => sched::yield_now(),
        }
        TURNS[usize::try_from(number).unwrap_or(0) % 4].fetch_add(1, Ordering::Release);
    }
}

/// Gives the helpers a job while `work` runs; all of them have left it afterwards.
fn during(job: u64, work: impl FnOnce() -> Claim) -> Claim {
    start_helpers()?;
    JOB.store(job, Ordering::Release);
    let outcome = turns_of_all(3).and_then(|()| work());
    JOB.store(0, Ordering::Release);
    turns_of_all(2)?;
    outcome
}

fn start_helpers() -> Claim {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    if smp::vcpu_count() < 2 {
        return Err(Trouble::Skip("there is one vcpu only".into()));
    }
    if STARTED.swap(1, Ordering::AcqRel) == 0 {
        attempt::catch_exceptions();
        for number in 1..smp::vcpu_count().min(4) {
            smp::start(VcpuId::new(number), move || helper(u64::from(number)))?;
        }
    }
    Ok(())
}

/// Waits until each helper has been through its loop a few times.
fn turns_of_all(turns: u64) -> Claim {
    let end = time::now_ns() + PATIENCE_NS;
    let helpers = usize::try_from(smp::vcpu_count().min(4)).unwrap_or(1) - 1;
    for counter in TURNS.iter().skip(1).take(helpers) {
        let start = counter.load(Ordering::Acquire);
        while counter.load(Ordering::Acquire) < start + turns {
            ensure!(time::now_ns() < end, "a vcpu has stopped");
            sched::yield_now();
        }
    }
    Ok(())
}

/// `mov [rdi], rsi; ret` and `mov rsi, [rdi]; ret`, at the addresses that the claims leave here.
fn store(at: u64, value: u64) {
    let _faults = attempt::attempt(what(6), &mut Regs { rdi: at, rsi: value, ..Regs::default() });
}

fn load(at: u64) {
    let mut registers = Regs { rdi: at, ..Regs::default() };
    if attempt::attempt(what(7), &mut registers).is_ok() && registers.rsi == what(1) {
        WHAT[2].fetch_add(1, Ordering::AcqRel);
    }
}

struct Accesses {
    store: Code,
    load: Code,
}

fn accesses() -> Claim<Accesses> {
    let codes = Accesses { store: Code::new()?, load: Code::new()? };
    codes.store.put(0, &[0x48, 0x89, 0x37, 0xc3]);
    codes.load.put(0, &[0x48, 0x8b, 0x37, 0xc3]);
    WHAT[6].store(codes.store.start(), Ordering::Release);
    WHAT[7].store(codes.load.start(), Ordering::Release);
    Ok(codes)
}

/// Frames 0 to 3 of the fight: their numbers are in the first words, their addresses in the next.
fn one_pin_or_map(random: u64) {
    let n = usize::try_from(random % 4).unwrap_or(0);
    let (mfn, other) = (what(n), what((n + 1) % 4));
    let _any = match random >> 8 & 15 {
        0 | 1 => ext(pin_of(1).raw(), mfn, 0),
        2 => ext(pin_of(2).raw(), mfn, 0),
        3 => ext(pin_of(3).raw(), mfn, 0),
        4..=7 => ext(MmuextCmd::UnpinTable.raw(), mfn, 0),
        8 | 9 => set_entry(pv_abi::ids::Mfn::new(mfn), random >> 16 & 3, other << 12 | RO),
        10 => set_entry(pv_abi::ids::Mfn::new(mfn), random >> 16 & 3, other << 12 | RW),
        11 => set_entry(pv_abi::ids::Mfn::new(mfn), random >> 16 & 3, 0),
        12 | 13 => call::update_va_mapping(what(n + 4), Pte::from_raw(mfn << 12 | RO), 0),
        _ => call::update_va_mapping(
            what(n + 4),
            Pte::from_raw(mfn << 12 | RW),
            UvmFlags::INVLPG | UvmFlags::ALL,
        ),
    };
}

fn vcpus_that_pin_and_map_the_same_frames(_: &'static Context) -> Claim {
    let frames = [Frame::new()?, Frame::new()?, Frame::new()?, Frame::new()?];
    for (n, frame) in frames.iter().enumerate() {
        WHAT[n].store(frame.mfn().raw(), Ordering::Release);
        WHAT[n + 4].store(frame.va(), Ordering::Release);
    }
    during(JOB_PINS, || {
        let mut random = 0x1234_5678_9abc_def1_u64;
        for _ in 0..ROUNDS * 8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            one_pin_or_map(random);
        }
        Ok(())
    })?;
    // Everything can be undone: pins first, then entries by making each page writable.
    for _ in 0..4 {
        for frame in &frames {
            let _any = frame.map(Prot::Read);
            if frame.ext(pin_of(1)) == 0 {
                (0..4).for_each(|n| assert_eq!(frame.set(n, 0), 0));
            }
            let _any = frame.ext(MmuextCmd::UnpinTable);
            let _any = frame.ext(MmuextCmd::UnpinTable);
        }
    }
    for frame in &frames {
        ensure_eq!(frame.map(Prot::ReadWrite), 0, "a frame is writable at the end");
    }
    Ok(())
}

fn a_table_is_written_by_no_stale_translation(_: &'static Context) -> Claim {
    let frame = Frame::new()?;
    let place = Range::reserve(1)?;
    place.entry(0)?;
    let _codes = accesses()?;
    WHAT[0].store(place.start(), Ordering::Release);
    during(JOB_STORE, || {
        for round in 0..ROUNDS / 3 {
            let set = |raw: u64| call::update_va_mapping(place.start(), Pte::from_raw(raw), 0);
            ensure_eq!(set(frame.entry(RW)), 0, "a writable mapping");
            while frame.word(0) == 0 {
                core::hint::spin_loop();
            }
            // No flush is asked for: the change of type must not need one.
            ensure_eq!(set(0), 0, "taking it away");
            frame.set_word(0, 0);
            ensure_eq!(frame.map(Prot::Read), 0, "read-only here");
            if frame.ext(pin_of(1)) != 0 {
                // A stale store left an entry that is none: legal as long as it is no table.
                ensure_eq!(frame.map(Prot::ReadWrite), 0, "writable again");
                frame.set_word(0, 0);
                continue;
            }
            let before = frame.word(0);
            for _ in 0..200 {
                ensure_eq!(
                    frame.word(0),
                    before,
                    "a page table changed under a stale translation in round {round}"
                );
            }
            ensure_eq!(frame.ext(MmuextCmd::UnpinTable), 0, "unpinning");
            ensure_eq!(frame.map(Prot::ReadWrite), 0, "writable again");
            frame.set_word(0, 0);
        }
        Ok(())
    })
}

fn an_upper_entry_that_went_leads_nowhere(_: &'static Context) -> Claim {
    const MARK: u64 = 0x5eed_5eed_5eed_5eed;
    const PLACE: u64 = 0x6000_0000_0000;
    let _codes = accesses()?;
    let data = Frame::new()?;
    data.set_word(0, MARK);
    table::l1_entry(table::root(), PLACE)?;
    let map = |raw: u64| call::update_va_mapping(PLACE, Pte::from_raw(raw), UvmFlags::INVLPG | UvmFlags::ALL);
    ensure_eq!(map(data.entry(RO)), 0, "mapping the data");
    for (n, value) in [PLACE, MARK, 0].into_iter().enumerate() {
        WHAT[n].store(value, Ordering::Release);
    }
    let outcome = during(JOB_LOAD, || {
        for level in [pv_abi::pte::Level::L2, pv_abi::pte::Level::L3, pv_abi::pte::Level::L4] {
            let (table_mfn, slot) =
                table::walk_to(table::root(), PLACE, level).ok_or(Trouble::error("no table on the way"))?;
            let slot = slot as u64;
            for round in 0..ROUNDS / 15 {
                let entry = call::load(entry_address(table_mfn, slot)?);
                turns_of_all(1)?;
                ensure_eq!(set_entry(table_mfn, slot, 0), 0, "clearing an entry of {level:?}");
                ensure_eq!(ext(MmuextCmd::TlbFlushAll.raw(), 0, 0), 0, "a flush everywhere");
                // From here on nobody may read through it: those under way end with their turn.
                turns_of_all(1)?;
                WHAT[2].store(0, Ordering::Release);
                turns_of_all(2)?;
                ensure_eq!(what(2), 0, "reads through a cleared entry of {level:?}, round {round}");
                ensure_eq!(set_entry(table_mfn, slot, entry), 0, "putting it back");
            }
        }
        Ok(())
    });
    outcome?;
    ensure_eq!(map(0), 0, "unmapping");
    Ok(())
}

/// The address at which this kernel can read an entry of one of its tables.
fn entry_address(table_mfn: pv_abi::ids::Mfn, slot: u64) -> Claim<u64> {
    let pfn = pv_guest_kernel::memory::pfn_of(table_mfn).ok_or(Trouble::error("a table without number"))?;
    Ok(pv_guest_kernel::memory::direct(pfn) + slot * 8)
}

/// A frame that goes back to the hypervisor and comes again, and the place where it is looked at then.
struct Wanderer {
    frame: [u64; 1],
    second: Range,
}

impl Wanderer {
    fn new() -> Claim<Self> {
        let second = Range::reserve(1)?;
        second.entry(0)?;
        let mut wanderer = Self { frame: [0], second };
        wanderer.take()?;
        Ok(wanderer)
    }

    /// An entry that maps the frame.
    fn entry(&self) -> u64 {
        self.frame[0] << 12 | RW
    }

    fn take(&mut self) -> Claim {
        let taken = memory_op(MemoryOp::IncreaseReservation, &mut reservation(&mut self.frame));
        ensure_eq!(taken, 1, "taking a frame");
        Ok(())
    }

    fn give_back(&mut self) -> Claim {
        let given = memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut self.frame));
        ensure_eq!(given, 1, "giving the frame back");
        Ok(())
    }

    /// Given back, taken again and mapped elsewhere, it must come empty and stay so.
    fn comes_back_empty(&mut self, round: u64) -> Claim {
        self.give_back()?;
        self.take()?;
        let place = self.second.start();
        ensure_eq!(call::update_va_mapping(place, Pte::from_raw(self.entry()), 0), 0, "mapping it elsewhere");
        for _ in 0..100 {
            ensure_eq!(call::load(place), 0, "a word of a fresh frame, round {round}");
        }
        let everywhere = UvmFlags::INVLPG | UvmFlags::ALL;
        ensure_eq!(call::update_va_mapping(place, Pte::EMPTY, everywhere), 0, "unmapping");
        Ok(())
    }
}

fn a_frame_given_back_is_seen_by_nobody(_: &'static Context) -> Claim {
    let _codes = accesses()?;
    let place = Range::reserve(1)?;
    place.entry(0)?;
    WHAT[0].store(place.start(), Ordering::Release);
    let mut wanderer = Wanderer::new()?;
    during(JOB_STORE, || {
        for round in 0..ROUNDS / 3 {
            let entry = Pte::from_raw(wanderer.entry());
            ensure_eq!(call::update_va_mapping(place.start(), entry, 0), 0, "mapping the frame");
            turns_of_all(1)?;
            // Nothing is flushed.
            ensure_eq!(call::update_va_mapping(place.start(), Pte::EMPTY, 0), 0, "unmapping");
            wanderer.comes_back_empty(round)?;
        }
        Ok(())
    })?;
    wanderer.give_back()
}

fn a_frame_given_back_below_an_upper_entry(_: &'static Context) -> Claim {
    const PLACE: u64 = 0x6100_0000_0000;
    let _codes = accesses()?;
    table::l1_entry(table::root(), PLACE)?;
    let (l2, slot) =
        table::walk_to(table::root(), PLACE, pv_abi::pte::Level::L2).ok_or(Trouble::error("no L2"))?;
    let slot = slot as u64;
    let leaf = Frame::new()?;
    let mut wanderer = Wanderer::new()?;
    WHAT[0].store(PLACE, Ordering::Release);
    during(JOB_STORE, || {
        for round in 0..ROUNDS / 3 {
            leaf.set_word(0, wanderer.entry());
            ensure_eq!(leaf.map(Prot::Read), 0, "a leaf table");
            ensure_eq!(set_entry(l2, slot, leaf.entry(RW)), 0, "linking it");
            turns_of_all(1)?;
            // Nothing is flushed, and the leaf is not touched: the entry above goes, and with it the last use of all below.
            ensure_eq!(set_entry(l2, slot, 0), 0, "unlinking it");
            wanderer.comes_back_empty(round)?;
            ensure_eq!(leaf.map(Prot::ReadWrite), 0, "the leaf is an ordinary page again");
        }
        Ok(())
    })?;
    wanderer.give_back()
}

fn grant_op<T>(op: GnttabOp, list: &mut [T]) {
    let args = [u64::from(op.raw()), call::address_mut(list), list.len() as u64];
    let _status_tells = call::call(H::GrantTableOp, args);
}

/// Maps one of the grants somewhere, and unmaps a handle that may be anybody's.
fn map_and_unmap(random: u64, number: u64) {
    let host_addr = what(2) + (number * 4 + (random >> 4 & 3)) * 4096;
    if random & 1 == 0 {
        let flags = GntmapFlags::HOST_MAP.bits()
            | if random & 2 == 0 { GntmapFlags::READONLY.bits() } else { 0 }
            | if random & 12 == 0 { GntmapFlags::DEVICE_MAP.bits() } else { 0 };
        let mut list = [GnttabMapGrantRef {
            host_addr,
            flags,
            gref: u32::try_from(what(1)).unwrap_or(0),
            dom: u16::try_from(what(0)).unwrap_or(0),
            ..GnttabMapGrantRef::default()
        }];
        grant_op(GnttabOp::MapGrantRef, &mut list);
    } else {
        let handle = u32::try_from(random >> 8 & 31).unwrap_or(0);
        let mut list = [GnttabUnmapGrantRef {
            host_addr,
            dev_bus_addr: 0,
            handle,
            status: 0,
            ..GnttabUnmapGrantRef::default()
        }];
        grant_op(GnttabOp::UnmapGrantRef, &mut list);
    }
}

fn handles_mapped_and_unmapped_by_all(_: &'static Context) -> Claim {
    let me = test_guests::own_domain()?;
    let mut granted = GrantedPages::new(me, 1, Access::ReadWrite)?;
    let range = Range::reserve(16)?;
    for page in 0..16 {
        range.entry(page)?;
    }
    let gref = granted.references()[0].raw();
    for (n, value) in [u64::from(me.raw()), u64::from(gref), range.start()].into_iter().enumerate() {
        WHAT[n].store(value, Ordering::Release);
    }
    during(JOB_GRANTS, || {
        let mut random = 0x0fed_cba9_8765_4321_u64;
        for _ in 0..ROUNDS * 4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            map_and_unmap(random, 0);
        }
        Ok(())
    })?;
    // Every handle is given back: wherever it is, and for a device where it is that too. What was overwritten meanwhile
    // keeps its handle, as the mapper's own fault, until its entry says again what it said.
    for handle in 0..4096 {
        for page in 0..16 {
            for dev_bus_addr in [0, granted_frame(&granted)? << 12] {
                let host_addr = range.start() + page * 4096;
                let mut list = [GnttabUnmapGrantRef {
                    host_addr,
                    dev_bus_addr,
                    handle,
                    status: 0,
                    ..GnttabUnmapGrantRef::default()
                }];
                grant_op(GnttabOp::UnmapGrantRef, &mut list);
                if list[0].status == -4 {
                    break;
                }
            }
        }
        if handle > 256 {
            break;
        }
    }
    for page in 0..16 {
        let _any = call::update_va_mapping(range.page(page), Pte::EMPTY, UvmFlags::INVLPG | UvmFlags::ALL);
    }
    // Whether the grant could be ended depends on handles that were lost; that nothing else was is for the audit to say.
    let _ended = granted.try_end();
    Ok(())
}

fn granted_frame(granted: &GrantedPages) -> Claim<u64> {
    let at = granted.area().address(0, 8).ok_or(Trouble::error("an empty grant"))?;
    pv_guest_kernel::memory::va_to_mfn(at).map(pv_abi::ids::Mfn::raw).ok_or(Trouble::error("no frame"))
}

/// Binds, closes, sends to, masks or moves a port out of a small range that all fight over.
fn one_port(random: u64) {
    let port = u32::try_from(64 + (random >> 8) % 32).unwrap_or(64);
    let vcpu = u32::try_from(random >> 16 & 3).unwrap_or(0);
    let me = u32::from(pv_abi::ids::DomId::SELF.raw());
    // Ports below the range are the kernel's own; those that allocation gives are closed by whoever hits them.
    let (op, words): (u64, [u32; 6]) = match random & 7 {
        0 | 1 => (6, [me | me << 16, 0, 0, 0, 0, 0]),
        2 => (7, [vcpu, 0, 0, 0, 0, 0]),
        3 => (3, [port, 0, 0, 0, 0, 0]),
        4 => (4, [port, 0, 0, 0, 0, 0]),
        5 => (9, [port, 0, 0, 0, 0, 0]),
        6 => (8, [port, vcpu, 0, 0, 0, 0]),
        _ => (0, [me, port, 0, 0, 0, 0]),
    };
    let mut argument = words;
    let _any = call::call(H::EventChannelOp, [op, call::address_mut(&mut argument[..])]);
}

fn ports_bound_closed_and_sent_to_by_all(_: &'static Context) -> Claim {
    // Fill what is below the range, so that the fight begins where it looks.
    let mut held: Vec<u32> = Vec::new();
    loop {
        let me = u32::from(pv_abi::ids::DomId::SELF.raw());
        let mut argument = [me | me << 16, 0];
        if call::call(H::EventChannelOp, [6, call::address_mut(&mut argument[..])]) != 0 || argument[1] >= 64
        {
            break;
        }
        held.push(argument[1]);
    }
    during(JOB_PORTS, || {
        let mut random = 0x7777_1234_abcd_0001_u64;
        for _ in 0..ROUNDS * 8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            one_port(random);
        }
        Ok(())
    })?;
    for port in (64..4096).chain(held) {
        let mut argument = [port];
        let _any = call::call(H::EventChannelOp, [3, call::address_mut(&mut argument[..])]);
    }
    Ok(())
}

/// Word 0 of vcpu 0's information, as others of the domain can write it too.
fn rewrite_vcpu_info(random: u64) {
    let at = core::ptr::with_exposed_provenance::<AtomicU64>(usize::try_from(what(0)).unwrap_or(0));
    // SAFETY: the claim left the address of a word of the shared page, which is mapped for ever and only accessed by atomics.
    let word = unsafe { &*at };
    // Pending and mask in every combination, with values that no sound kernel writes.
    let values = [0, 1, 0x100, 0x101, 0xffff, 0xff00, 0x00ff, random & 0xffff];
    word.store(values[usize::try_from(random >> 16 & 7).unwrap_or(0)], Ordering::Release);
}

fn pending_and_mask_bytes_rewritten_by_another(_: &'static Context) -> Claim {
    let info = call::address(pv_guest_kernel::shared::vcpu_info());
    WHAT[0].store(info, Ordering::Release);
    let ipi = event::bind_ipi(VcpuId::new(0))?;
    let outcome = during(JOB_UPCALLS, || {
        for _ in 0..ROUNDS * 4 {
            ipi.notify()?;
            ensure_eq!(call::call(H::XenVersion, [0, 0]) >> 16, 4, "a call during the storm");
        }
        Ok(())
    });
    event::unmask();
    outcome?;
    let end = time::now_ns() + PATIENCE_NS;
    ipi.notify()?;
    while !ipi.try_take() {
        ensure!(time::now_ns() < end, "events no longer arrive after the storm");
        sched::yield_now();
    }
    Ok(())
}

/// The eight bytes at `what(0)` change between those of `what(1)` and `what(2)`.
fn rewrite_bytes(random: u64) {
    call::store(what(0), what(1 + usize::try_from(random & 1).unwrap_or(0)));
}

fn code_rewritten_while_it_is_emulated(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let word = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
    // Emulated instructions, and what they become: cli, popfq, sysenter, int3.
    let pairs = [
        ([0x0f, 0x20, 0xc0, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], [0xfa, 0xfa, 0xfa, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]),
        ([0xec, 0x90, 0x90, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], [0x0f, 0x34, 0x90, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]),
        ([0x0f, 0x32, 0x90, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], [0xcc, 0x90, 0x90, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]),
    ];
    for (first, second) in pairs {
        for (n, value) in [code.writable(), word(first), word(second)].into_iter().enumerate() {
            WHAT[n].store(value, Ordering::Release);
        }
        during(JOB_BYTES, || {
            for _ in 0..ROUNDS / 2 {
                let mut registers = Regs { rcx: 0x10, rdx: 0x80, ..Regs::default() };
                let _any = attempt::attempt(code.start(), &mut registers);
            }
            // pushfq; pop rax
            let flags = Code::new()?;
            let mut registers = Regs::default();
            ensure_eq!(flags.run(&[0x9c, 0x58], &mut registers), Ok(()), "reading the flags");
            ensure!(registers.rax & 0x200 != 0, "interrupts are off: {:#x}", registers.rax);
            Ok(())
        })?;
    }
    Ok(())
}

fn arguments_rewritten_during_a_call(_: &'static Context) -> Claim {
    let target = Frame::read_only()?;
    ensure_eq!(target.ext(pin_of(1)), 0, "pinning the target");
    let table = Frame::read_only()?;
    ensure_eq!(table.ext(pin_of(1)), 0, "pinning the table");
    let page = Frame::new()?;
    // The value of an update flips between a good one and one that maps a page table writable.
    for (n, value) in [page.va() + 8, target.entry(RO), target.entry(RW)].into_iter().enumerate() {
        WHAT[n].store(value, Ordering::Release);
    }
    page.set_word(0, table.mfn().raw() << 12);
    during(JOB_BYTES, || {
        for _ in 0..ROUNDS * 4 {
            let _any = call::call(H::MmuUpdate, [page.va(), 1, 0, 0x7ff0]);
            let now = table.word(0);
            ensure!(now & 2 == 0, "a page table is mapped writable: {now:#x}");
        }
        Ok(())
    })?;
    ensure_eq!(table.set(0, 0), 0, "clearing the entry");
    for frame in [&table, &target] {
        ensure_eq!(frame.ext(MmuextCmd::UnpinTable), 0, "unpinning");
    }
    Ok(())
}
