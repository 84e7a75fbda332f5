//! A guest whose vcpus all issue random calls: well-shaped, on frames, ports and grants of its own, with a wrong argument now
//! and then. `seed=N` and `calls=N` (for each vcpu) on the command line. That it gets through is its own claim; that nobody
//! else notices is for whoever started it to see.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::{DomId, VcpuId};
use pv_abi::memory::MemoryOp;
use pv_abi::mmu::{MmuUpdate, MmuextOp, MulticallEntry, UvmFlags};
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::{Context, println, sched, smp, time};
use test_guests::frames::{Frame, RO, RW, exchange, ext, memory_op, reservation};
use test_guests::random::Random;
use test_guests::{Claim, Trouble, call, ensure};

test_guests::claim!(random_calls_are_survived);

const FRAMES: usize = 24;
const PLACES: usize = 16;
const PORTS: usize = 32;
const GRANTS: usize = 4;
/// How long nothing may happen at all.
const PATIENCE_NS: u64 = 60_000_000_000;

/// What the calls are about, shared by all vcpus. Wrong guesses are part of the trial.
struct Pool {
    frames: [AtomicU64; FRAMES],
    /// Addresses of those frames in the direct map.
    homes: [AtomicU64; FRAMES],
    /// Frames that are mapped nowhere, for giving back and taking.
    loose: [AtomicU64; FRAMES],
    places: AtomicU64,
    ports: [AtomicU64; PORTS],
    grefs: [AtomicU64; GRANTS],
    me: AtomicU64,
    done: AtomicU64,
    granted: AtomicU64,
    finished: AtomicU64,
}

static POOL: Pool = Pool {
    frames: [const { AtomicU64::new(0) }; FRAMES],
    homes: [const { AtomicU64::new(0) }; FRAMES],
    loose: [const { AtomicU64::new(0) }; FRAMES],
    places: AtomicU64::new(0),
    ports: [const { AtomicU64::new(0) }; PORTS],
    grefs: [const { AtomicU64::new(0) }; GRANTS],
    me: AtomicU64::new(0),
    done: AtomicU64::new(0),
    granted: AtomicU64::new(0),
    finished: AtomicU64::new(0),
};

fn pick<'a, const N: usize>(r: &mut Random, list: &'a [AtomicU64; N]) -> &'a AtomicU64 {
    &list[usize::try_from(r.below(N as u64)).unwrap_or(0)]
}

/// A frame's number: mostly one of the pool, sometimes anything.
fn frame(r: &mut Random) -> u64 {
    // Not a low number: it might be one of this kernel's own.
    if r.once_in(40) {
        return r.one_of(&[0, 1, u64::MAX, 1 << 40, 0x5555_5555_5555_5555, 0x4_0000]);
    }
    pick(r, &POOL.frames).load(Ordering::Relaxed)
}

fn pte(r: &mut Random) -> u64 {
    let flags = r.one_of(&[RO, RO, RW, RW, 0, RO | 0x10, RW | 0x80, RO | 0xe00, RW | 1 << 63, RO & !4]);
    if r.once_in(4) { 0 } else { frame(r) << 12 | flags }
}

/// The machine address of some word of a frame.
fn word_of(mfn: u64, r: &mut Random) -> u64 {
    (mfn << 12) | (r.below(512) * 8)
}

fn place(r: &mut Random) -> u64 {
    if r.once_in(30) {
        return r.one_of(&[0, 0x8000_0000_0000, 0xffff_8300_0000_0000, 0x1000, u64::MAX, !0xfff]);
    }
    POOL.places.load(Ordering::Relaxed) + r.below(PLACES as u64) * 4096
}

fn random_calls_are_survived(context: &'static Context) -> Claim {
    let number =
        |name: &str, default: u64| context.option(name).and_then(|t| t.parse().ok()).unwrap_or(default);
    let (seed, calls) = (number("seed", 1), number("calls", 20_000));
    let vcpus = smp::vcpu_count();
    println!("RANDOM seed {seed}, {calls} calls for each of {vcpus} vcpus");
    let kept = fill_pool()?;
    for vcpu in 1..vcpus {
        smp::start(VcpuId::new(vcpu), move || work(seed + u64::from(vcpu), calls))?;
    }
    work(seed, calls);
    let mut last = (0, time::now_ns());
    while POOL.finished.load(Ordering::Acquire) < u64::from(vcpus) {
        let done = POOL.done.load(Ordering::Relaxed);
        if done != last.0 {
            last = (done, time::now_ns());
        }
        ensure!(time::now_ns() < last.1 + PATIENCE_NS, "nothing happens any more after {done} calls");
        sched::yield_now();
    }
    let (done, granted) = (POOL.done.load(Ordering::Relaxed), POOL.granted.load(Ordering::Relaxed));
    println!("RANDOM done {done} calls, {granted} of them granted");
    ensure!(granted > done / 10, "hardly any call was granted");
    // Nothing is put in order: pins, mappings and handles are left for the domain's end.
    core::mem::forget(kept);
    Ok(())
}

type Kept = (Vec<Frame>, Range, GrantedPages);

fn fill_pool() -> Claim<Kept> {
    let frames: Vec<Frame> = (0..FRAMES).map(|_| Frame::new()).collect::<Claim<_>>()?;
    for ((frame, mfn), home) in frames.iter().zip(&POOL.frames).zip(&POOL.homes) {
        mfn.store(frame.mfn().raw(), Ordering::Relaxed);
        home.store(frame.va(), Ordering::Relaxed);
    }
    let range = Range::reserve(PLACES)?;
    for page in 0..PLACES {
        range.entry(page)?;
    }
    POOL.places.store(range.start(), Ordering::Relaxed);
    let me = test_guests::own_domain()?;
    POOL.me.store(u64::from(me.raw()), Ordering::Relaxed);
    let granted = GrantedPages::new(me, GRANTS, Access::ReadWrite)?;
    for (gref, slot) in granted.references().iter().zip(&POOL.grefs) {
        slot.store(u64::from(gref.raw()), Ordering::Relaxed);
    }
    if smp::vcpu_count() < 2 {
        return Err(Trouble::error("there is one vcpu only"));
    }
    Ok((frames, range, granted))
}

fn work(seed: u64, calls: u64) {
    let mut r = Random::new(seed);
    for _ in 0..calls {
        if step(&mut r) >= 0 {
            POOL.granted.fetch_add(1, Ordering::Relaxed);
        }
        POOL.done.fetch_add(1, Ordering::Relaxed);
    }
    POOL.finished.fetch_add(1, Ordering::Release);
}

fn step(r: &mut Random) -> i64 {
    match r.below(40) {
        0..=7 => update(r),
        8..=14 => extended(r),
        15..=18 => mapping(r),
        19..=23 => event(r),
        24..=28 => grant(r),
        29..=32 => memory(r),
        33..=34 => vcpu(r),
        35 => batch(r),
        _ => other(r),
    }
}

fn update(r: &mut Random) -> i64 {
    let one = |r: &mut Random| {
        let at = word_of(frame(r), r) | r.one_of(&[0, 0, 0, 2, 1, 3]);
        let val = if at & 3 == 1 { r.below(1 << 20) } else { pte(r) };
        // Ordinary memory that is written through the call is one's own pages: a plain store.
        MmuUpdate { ptr: at, val }
    };
    let count = usize::try_from(1 + r.below(6)).unwrap_or(1);
    let list: Vec<MmuUpdate> = (0..count).map(|_| one(r)).collect();
    call::mmu_update(&list).0
}

fn extended(r: &mut Random) -> i64 {
    let cmd = r.one_of(&[0, 0, 1, 2, 3, 4, 4, 4, 4, 6, 7, 10, 11, 13, 16, 17, 12, 19]);
    let (mut arg1, mut arg2) = (frame(r), frame(r));
    match cmd {
        7 | 11 => arg1 = place(r),
        13 => {
            (arg1, arg2) =
                (if r.once_in(2) { 0 } else { pick(r, &POOL.homes).load(Ordering::Relaxed) }, r.below(600))
        }
        _ => {}
    }
    ext(cmd, arg1, arg2)
}

fn mapping(r: &mut Random) -> i64 {
    let flags = r.one_of(&[
        0,
        UvmFlags::INVLPG,
        UvmFlags::TLB_FLUSH,
        UvmFlags::INVLPG | UvmFlags::ALL,
        UvmFlags::TLB_FLUSH | UvmFlags::ALL,
        3,
    ]);
    if r.once_in(2) {
        let index = usize::try_from(r.below(FRAMES as u64)).unwrap_or(0);
        let mfn = POOL.frames[index].load(Ordering::Relaxed);
        let value = mfn << 12 | r.one_of(&[RO, RW, RO]);
        return call::call(H::UpdateVaMapping, [POOL.homes[index].load(Ordering::Relaxed), value, flags]);
    }
    call::call(H::UpdateVaMapping, [place(r), pte(r), flags])
}

fn event(r: &mut Random) -> i64 {
    let me = u32::from(DomId::SELF.raw());
    let slot = pick(r, &POOL.ports);
    let port = u32::try_from(slot.load(Ordering::Relaxed)).unwrap_or(0);
    let vcpu = u32::try_from(r.below(5)).unwrap_or(0);
    let (op, mut words): (u64, [u32; 6]) = match r.below(10) {
        0 | 1 => (6, [me | r.one_of(&[me, 0, 0x7123]) << 16, 0, 0, 0, 0, 0]),
        2 => (7, [vcpu, 0, 0, 0, 0, 0]),
        3 => (0, [POOL.me.load(Ordering::Relaxed).try_into().unwrap_or(0), port, 0, 0, 0, 0]),
        4 | 5 => (4, [port, 0, 0, 0, 0, 0]),
        6 => (9, [port, 0, 0, 0, 0, 0]),
        7 => (8, [port, vcpu, 0, 0, 0, 0]),
        8 => (5, [me, port, 0, 0, 0, 0]),
        _ => {
            let port = u32::try_from(slot.swap(0, Ordering::Relaxed)).unwrap_or(0);
            (3, [port, 0, 0, 0, 0, 0])
        }
    };
    if op != 0 && op < 6 && words[0] == 0 {
        return 0;
    }
    let answer = call::call(H::EventChannelOp, [op, call::address_mut(&mut words[..])]);
    let fresh = match op {
        6 | 7 => words[1],
        0 => words[2],
        _ => 0,
    };
    if answer == 0 && fresh != 0 {
        let old = pick(r, &POOL.ports).swap(u64::from(fresh), Ordering::Relaxed);
        if old != 0 {
            let mut close = [u32::try_from(old).unwrap_or(0)];
            let _gone = call::call(H::EventChannelOp, [3, call::address_mut(&mut close[..])]);
        }
    }
    answer
}

fn grant_op<T>(op: GnttabOp, list: &mut [T]) -> i64 {
    call::call(H::GrantTableOp, [u64::from(op.raw()), call::address_mut(list), list.len() as u64])
}

fn grant(r: &mut Random) -> i64 {
    let me = u16::try_from(POOL.me.load(Ordering::Relaxed)).unwrap_or(0);
    let gref = if r.once_in(10) {
        u32::try_from(r.below(2000)).unwrap_or(0)
    } else {
        u32::try_from(pick(r, &POOL.grefs).load(Ordering::Relaxed)).unwrap_or(0)
    };
    let dom = r.one_of(&[me, me, me, DomId::SELF.raw(), 0, 0x7123]);
    match r.below(5) {
        0 | 1 => {
            let flags = GntmapFlags::HOST_MAP.bits()
                | r.one_of(&[0, GntmapFlags::READONLY.bits()])
                | r.one_of(&[0, 0, 0, GntmapFlags::DEVICE_MAP.bits(), GntmapFlags::CONTAINS_PTE.bits()]);
            let host_addr =
                if flags & GntmapFlags::CONTAINS_PTE.bits() == 0 { place(r) } else { word_of(frame(r), r) };
            let mut list =
                [GnttabMapGrantRef { host_addr, flags, gref, dom, ..GnttabMapGrantRef::default() }];
            let answer = grant_op(GnttabOp::MapGrantRef, &mut list);
            if answer == 0 { i64::from(list[0].status) } else { answer }
        }
        2 => {
            let handle = u32::try_from(r.below(64)).unwrap_or(0);
            let mut list =
                [GnttabUnmapGrantRef { host_addr: place(r), handle, ..GnttabUnmapGrantRef::default() }];
            let answer = grant_op(GnttabOp::UnmapGrantRef, &mut list);
            if answer == 0 { i64::from(list[0].status) } else { answer }
        }
        _ => {
            let end = |r: &mut Random, by_reference: bool| GnttabCopyPtr {
                u: if by_reference { u64::from(gref) } else { frame(r) },
                domid: if by_reference { dom } else { DomId::SELF.raw() },
                offset: r.one_of(&[0, 8, 4095, 4096, 100]),
                _pad: 0,
            };
            let flags =
                r.one_of(&[GntcopyFlags::SOURCE_GREF, GntcopyFlags::DEST_GREF, GntcopyFlags::SOURCE_GREF]);
            let mut list = [GnttabCopy {
                source: end(r, flags.contains(GntcopyFlags::SOURCE_GREF)),
                dest: end(r, flags.contains(GntcopyFlags::DEST_GREF)),
                len: r.one_of(&[0, 1, 8, 4096, 4097, u16::MAX]),
                flags: flags.bits(),
                ..GnttabCopy::default()
            }];
            let answer = grant_op(GnttabOp::Copy, &mut list);
            if answer == 0 { i64::from(list[0].status) } else { answer }
        }
    }
}

fn memory(r: &mut Random) -> i64 {
    let slot = pick(r, &POOL.loose);
    match r.below(4) {
        0 | 1 => {
            let mut list = [0_u64];
            let got = memory_op(MemoryOp::IncreaseReservation, &mut reservation(&mut list));
            if got == 1 {
                let old = slot.swap(list[0], Ordering::Relaxed);
                if old != 0 {
                    let _gone = memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut [old]));
                }
            }
            got
        }
        2 => {
            let old = slot.swap(0, Ordering::Relaxed);
            memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut [old]))
        }
        _ => {
            let old = slot.swap(0, Ordering::Relaxed);
            let (mut given, mut taken) = ([old], [0]);
            let (answer, count) = exchange(&mut given, &mut taken);
            slot.store(if count == 1 { taken[0] } else { old }, Ordering::Relaxed);
            answer
        }
    }
}

fn vcpu(r: &mut Random) -> i64 {
    let target = r.below(5);
    let words = [time::now_ns() + r.below(1 << 22), r.below(2), 0, 0, 0, 0, 0, 0];
    let op = r.one_of(&[3, 4, 6, 7, 8, 9, 12]);
    if op == 6 {
        let period = [1_000_000 + r.below(1 << 24)];
        return call::call(H::VcpuOp, [6, target, call::address(&period)]);
    }
    let mut out = words;
    call::call(H::VcpuOp, [op, target, call::address_mut(&mut out[..])])
}

fn batch(r: &mut Random) -> i64 {
    let updates: Vec<MmuUpdate> =
        (0..4).map(|_| MmuUpdate { ptr: word_of(frame(r), r), val: pte(r) }).collect();
    let operations: Vec<MmuextOp> =
        (0..3).map(|_| MmuextOp { cmd: r.one_of(&[0, 1, 4, 6]), _pad: 0, arg1: frame(r), arg2: 0 }).collect();
    let entries: Vec<MulticallEntry> = (0..8)
        .map(|_| match r.below(4) {
            0 => (H::MmuUpdate, [call::address(&updates[..]), 4, 0, 0x7ff0, 0, 0]),
            1 => (H::MmuextOp, [call::address(&operations[..]), 3, 0, 0x7ff0, 0, 0]),
            2 => (H::UpdateVaMapping, [place(r), pte(r), 0, 0, 0, 0]),
            _ => (H::XenVersion, [0; 6]),
        })
        .map(|(op, args)| MulticallEntry { op: op.raw(), result: 0, args })
        .collect();
    call::call(H::Multicall, [call::address(&entries[..]), entries.len() as u64])
}

fn other(r: &mut Random) -> i64 {
    match r.below(7) {
        0 => call::call(H::SchedOp, [0, 0]),
        1 => call::call(H::SetTimerOp, [time::now_ns() + r.below(1 << 24)]),
        2 => call::call(H::SetDebugreg, [r.below(4), POOL.places.load(Ordering::Relaxed)]),
        3 => call::call(H::SetSegmentBase, [r.one_of(&[0, 1]), r.next() >> r.one_of(&[0, 17, 20])]),
        4 => call::call(H::SetSegmentBase, [3, r.below(0x1_0000)]),
        5 => call::call(H::UpdateDescriptor, [word_of(frame(r), r), r.next()]),
        _ => {
            // Calls of other families with a structure of nothing in particular.
            let mut words = [r.next() & 0xffff; 16];
            let (number, operations) = r.one_of(&[
                (H::PhysdevOp, 34),
                (H::Sysctl, 1),
                (H::Domctl, 1),
                (H::PlatformOp, 1),
                (H::NmiOp, 2),
            ]);
            let op = r.below(operations);
            let address = call::address_mut(&mut words[..]);
            let args = if operations == 1 { [address, 0] } else { [op, address] };
            call::call(number, args)
        }
    }
}
