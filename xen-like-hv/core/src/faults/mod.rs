//! Every call of the table, with every thing that can fail made to fail once.
//!
//! A [`Scenario`] is a call that is in order, in a world that is made anew each time. It is made once without a fault, to
//! learn its result. Then, for n = 0, 1, 2 …, until the n-th is not reached any more:
//!
//! * the n-th copy from or to the guest and all after it fault: the caller sees `EFAULT`;
//! * the n-th allocation finds no memory: the caller sees `ENOMEM`, or what the scenario names;
//! * the n-th look at whether something waits says yes: the call restarts, and its result is the same in the end.
//!
//! After each the audit holds, no frame is lost, and the same call can be made again. Calls and sub-operations come from
//! the ABI's own tables: one without a scenario must be refused as not implemented, else the test fails.

mod control;
mod guest;
mod table;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::sync::atomic::Ordering::Relaxed;
use std::println;

use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::mmu::{MmuextCmd, MmuextOp};
use pv_abi::sched::ShutdownReason;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::UserRegs;
use crate::access::Privilege;
use crate::audit::audit;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::fake::FakeWorld;
use crate::frame::FrameState;
use crate::grant::grow;
use crate::hypercall::{GuestPtr, dispatch};
use crate::port::Frames;
use crate::sched::state::flags;
use crate::seeded;
use crate::vcpu::Vcpu;

/// Where arguments lie, and where what they point to lies.
const ARG: u64 = 0x10_0000;
const MORE: u64 = 0x10_2000;
const SELF: u16 = DomId::SELF.raw();
/// RIP after the SYSCALL.
const RIP: u64 = 0x40_0002;
/// The guest beside dom0.
const GUEST: DomId = DomId::new(9);

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Dom0,
    Guest,
}

/// A call.
struct Scenario {
    call: Hypercall,
    /// The sub-operation, where the call has some.
    sub: Option<u64>,
    name: &'static str,
    who: Who,
    /// Puts the arguments where they belong, after whatever must have happened before; gives the registers.
    prepare: fn(&World) -> [u64; 5],
    /// What a caller may see besides `EFAULT` and `ENOMEM`.
    also: &'static [Errno],
}

/// One domain of the world.
struct Actor {
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    mfns: Vec<Mfn>,
}

/// dom0 and a guest, each with page tables (frames 0 to 3), a second root (4) and a grant table.
struct World {
    w: FakeWorld,
    dom0: Actor,
    guest: Actor,
}

impl World {
    fn new() -> Self {
        let w = FakeWorld::new(128);
        (0..8).for_each(|n| w.m.map_guest_page(ARG + n * 4096));
        let actors =
            [(DomId::DOM0, Privilege::Control), (GUEST, Privilege::Unprivileged)].map(|(id, privilege)| {
                let (dom, vcpu) = w.add_domain(id, privilege, 32);
                let mfns = (0..16).map(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap()).collect();
                w.hv.sched.reserve(1).unwrap();
                w.hv.sched.start(&w.m, &vcpu, flags::DOWN);
                Actor { dom, vcpu, mfns }
            });
        let [dom0, guest] = actors;
        let world = Self { w, dom0, guest };
        let _running = world.w.hv.sched.pick_next(&world.w.m, pv_abi::ids::PcpuId::new(0));
        [Who::Dom0, Who::Guest].into_iter().for_each(|who| world.load_tables(who));
        world
    }

    fn load_tables(&self, who: Who) {
        let a = self.actor(who);
        grow(&self.w.hv.frames, &self.w.m, &a.dom, 1).unwrap();
        for level in 0..3 {
            self.entry(a.mfns[level], 0).store(a.mfns[level + 1].raw() << 12 | 0x67, Relaxed);
        }
        // A second tree shares all below its root.
        self.entry(a.mfns[4], 0).store(a.mfns[1].raw() << 12 | 0x67, Relaxed);
        self.put(ARG, &ext(MmuextCmd::NewBaseptr, a.mfns[0].raw(), 0));
        assert_eq!(self.run(who, Hypercall::MmuextOp, [ARG, 1, 0, u64::from(SELF), 0]), 0);
    }

    fn actor(&self, who: Who) -> &Actor {
        match who {
            Who::Dom0 => &self.dom0,
            Who::Guest => &self.guest,
        }
    }

    fn entry(&self, table: Mfn, index: usize) -> &core::sync::atomic::AtomicU64 {
        &self.w.m.words(table)[index]
    }

    fn put<T: FromBytes + IntoBytes + Immutable>(&self, at: u64, value: &T) {
        GuestPtr::<T>::new(at).unwrap().write(&self.w.m, value).unwrap();
    }

    fn get<T: FromBytes + IntoBytes + Immutable>(&self, at: u64) -> T {
        GuestPtr::<T>::new(at).unwrap().read(&self.w.m).unwrap()
    }

    /// Dispatches once; whether the call ended.
    fn once(&self, who: Who, regs: &mut UserRegs) -> bool {
        let a = self.actor(who);
        regs.rip = RIP;
        dispatch(&mut Cx::new(&self.w.hv, &self.w.m, &a.dom, &a.vcpu, regs));
        regs.rip != RIP - 2
    }

    /// Makes a call and makes it again until it ends; what RAX says.
    fn run(&self, who: Who, call: Hypercall, args: [u64; 5]) -> i64 {
        let mut regs = registers(call, args);
        self.finish(who, &mut regs)
    }

    fn finish(&self, who: Who, regs: &mut UserRegs) -> i64 {
        for _ in 0..10_000 {
            if self.once(who, regs) {
                return regs.rax.cast_signed();
            }
        }
        panic!("a call that never ends");
    }

    fn frames_in(&self, state: FrameState) -> usize {
        let all = (0..self.w.hv.frames.end().raw()).filter_map(|n| self.w.hv.frames.info(Mfn::new(n)));
        all.filter(|page| page.count_info().state() == state).count()
    }

    fn sound(&self) -> Result<(), String> {
        let domains: Vec<_> = self.w.hv.domains.all().collect();
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        if wrong.is_empty() { Ok(()) } else { Err(format!("audit: {wrong:#?}")) }
    }
}

fn registers(call: Hypercall, args: [u64; 5]) -> UserRegs {
    let [rdi, rsi, rdx, r10, r8] = args;
    UserRegs { rax: call.raw(), rdi, rsi, rdx, r10, r8, rip: RIP, rsp: ARG, ..UserRegs::default() }
}

fn ext(cmd: MmuextCmd, arg1: u64, arg2: u64) -> MmuextOp {
    MmuextOp { cmd: cmd.raw(), _pad: 0, arg1, arg2 }
}

/// What is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Access,
    Allocation,
    Preemption,
}

impl Kind {
    fn arm(self, w: &World, n: u64) {
        w.w.m.faults_fired.store(0, Relaxed);
        match self {
            Self::Access => w.w.m.guest_fault_after.store(n, Relaxed),
            Self::Allocation => seeded::fail_allocation(Some(n)),
            Self::Preemption => w.w.m.preempt_after.store(n, Relaxed),
        }
    }

    /// Takes the fault back; whether it had come.
    fn disarm(self, w: &World) -> bool {
        let came = match self {
            Self::Allocation => !seeded::allocation_is_due(),
            Self::Access | Self::Preemption => w.w.m.faults_fired.load(Relaxed) != 0,
        };
        w.w.m.guest_fault_after.store(u64::MAX, Relaxed);
        w.w.m.preempt_after.store(u64::MAX, Relaxed);
        seeded::fail_allocation(None);
        came
    }

    fn allows(self, s: &Scenario, result: i64, without: i64) -> bool {
        let told = |e: Errno| result == e.to_ret();
        let also = s.also.iter().any(|e| told(*e));
        // These tell how many extents are done; what failed, their caller does not learn (so the ABI).
        let counts = s.call == Hypercall::MemoryOp && matches!(s.sub, Some(0 | 1 | 6));
        match self {
            Self::Access | Self::Allocation if counts => (0..=without).contains(&result),
            Self::Preemption => result == without,
            Self::Access => told(Errno::Fault) || also || result == without,
            Self::Allocation => told(Errno::NoMem) || also || result == without,
        }
    }
}

/// Makes the call with the `n`-th thing failing; whether there was an `n`-th.
fn attempt(s: &Scenario, kind: Kind, n: u64, without: i64) -> Result<bool, String> {
    let w = World::new();
    let mut regs = registers(s.call, (s.prepare)(&w));
    let again = regs;
    let hypervisors = w.frames_in(FrameState::Hypervisor);
    kind.arm(&w, n);
    let ended = w.once(s.who, &mut regs);
    if !kind.disarm(&w) {
        return Ok(false);
    }
    w.sound()?;
    let result = if ended { regs.rax.cast_signed() } else { w.finish(s.who, &mut regs) };
    // An iret whose frame cannot be read has nothing to go back to: the domain is told by its end.
    let crashed = w.actor(s.who).dom.slow.lock().shutdown == Some(ShutdownReason::Crash.raw());
    let result = if crashed { Errno::Fault.to_ret() } else { result };
    if !kind.allows(s, result, without) {
        return Err(format!("the caller sees {result}, without it {without}"));
    }
    if kind == Kind::Access && n == 0 && result == without && !tolerated(s) {
        return Err("the caller is not told".into());
    }
    w.sound()?;
    if result < 0 && w.frames_in(FrameState::Hypervisor) != hypervisors {
        return Err("frames are lost".into());
    }
    let mut regs = again;
    let _whatever = w.finish(s.who, &mut regs);
    w.sound().map(|()| true)
}

/// All points of one kind in one scenario: how many there are; what is wrong goes into `wrong`.
fn every_point(s: &Scenario, kind: Kind, without: i64, wrong: &mut Vec<String>) -> usize {
    let mut points = 0;
    for n in 0.. {
        let one = std::panic::catch_unwind(|| attempt(s, kind, n, without));
        seeded::fail_allocation(None);
        match one.unwrap_or_else(|_| Err("it panics".into())) {
            Ok(false) => break,
            Ok(true) => {}
            Err(what) => wrong.push(format!("{:?} {} with {kind:?} {n}: {what}", s.call, s.name)),
        }
        points += 1;
    }
    points
}

/// Calls of which the first access may fail unnoticed: its value is the caller's loss by the ABI.
fn tolerated(s: &Scenario) -> bool {
    matches!(s.call, Hypercall::VcpuOp)
}

fn without_faults(s: &Scenario) -> Result<i64, String> {
    let w = World::new();
    let args = (s.prepare)(&w);
    w.sound()?;
    let result = w.run(s.who, s.call, args);
    w.sound()?;
    let good = result >= 0 || Errno::from_ret(result).is_some_and(|e| s.also.contains(&e));
    if good { Ok(result) } else { Err(format!("ends with {result}")) }
}

#[test]
fn whatever_fails_the_caller_is_told_and_the_books_hold() {
    let all = table::scenarios();
    let mut wrong = vec![];
    let mut points = [0, 0, 0];
    for s in &all {
        match std::panic::catch_unwind(|| without_faults(s)) {
            Ok(Ok(without)) => {
                for (sum, kind) in points.iter_mut().zip([Kind::Access, Kind::Allocation, Kind::Preemption]) {
                    *sum += every_point(s, kind, without, &mut wrong);
                }
            }
            Ok(Err(what)) => wrong.push(format!("{:?} {}: {what}", s.call, s.name)),
            Err(_) => wrong.push(format!("{:?} {} panics", s.call, s.name)),
        }
    }
    let [access, memory, preempt] = points;
    println!(
        "faults: {} scenarios, {access} accesses, {memory} allocations, {preempt} preemptions",
        all.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(access > 150 && memory > 12 && preempt > 20, "{access} {memory} {preempt}");
}

#[test]
fn every_call_and_every_sub_operation_has_a_scenario() {
    let all = table::scenarios();
    for call in Hypercall::ALL {
        assert!(all.iter().any(|s| s.call == *call), "{call:?} has no scenario");
    }
    let mut unexplained: Vec<String> = vec![];
    for (call, sub, name) in table::sub_operations() {
        let known = all.iter().any(|s| s.call == call && s.sub == Some(sub));
        let refused =
            [Errno::NoSys, Errno::OpNotSupp].map(|e| e.to_ret()).contains(&table::plainly(call, sub));
        if !known && !refused {
            unexplained.push(format!("{call:?} {name} is offered and has no scenario"));
        }
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}
