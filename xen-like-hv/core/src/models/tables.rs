//! Page tables: two vcpus, each on its pcpu, do everything to a few frames.
//!
//! A step is a call up to its next preemption point, or to its end; a vcpu that was stopped goes on, or gives the call up
//! for another. Guests also write through whatever their pcpu can still reach, frames change hands, and a domain can be
//! destroyed at any point.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::mmu::{MmuUpdate, MmuextCmd};
use zerocopy::IntoBytes;

use super::rules::{self, View};
use super::{Broken, Pages, Scene, assert_caught, assert_holds, snapshot_frames};
use crate::UserRegs;
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::fake::{FakeMachine, FakeWorld};
use crate::hypercall::{memory, mmu, mmuext};
use crate::mm::teardown::relinquish;
use crate::mm::testing::{RO, RW, SELF, op};
use crate::port::{Frames, GuestMem};
use crate::seeded::Fault;
use crate::vcpu::Vcpu;

/// What a vcpu puts into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Value {
    Nothing,
    Read(usize),
    Write(usize),
}

/// A call, or what a guest does without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    /// Pins a frame as a table of a level.
    Pin(u8, usize),
    Unpin(usize),
    /// Sets an entry of a table: entry 0 or 1.
    Set(usize, usize, Value),
    /// Loads a root for the kernel.
    Base(usize),
    /// Writes through a stale or live translation.
    Poke(usize, Value),
    /// Gives a frame back to the hypervisor.
    Decrease(usize),
    /// Tries to exchange a frame for another.
    Exchange(usize),
    /// Does something that needs no page table, so that unfinished work is finished.
    Flush,
    /// Goes on with the call that was stopped.
    GoOn,
    /// The hypervisor's: a free frame goes to the other domain.
    GiveOther,
    /// The hypervisor's: a pcpu has nothing to do and zeroes free frames.
    ZeroAhead,
    /// The toolstack's: the domain is destroyed, up to the next preemption point.
    Destroy,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    vcpu: usize,
    op: Op,
    /// Whether something waits for the pcpu, so that the call stops at its first preemption point.
    hurry: bool,
}

/// A scene: frames, what they hold at the start, and the steps.
struct Spec {
    frames: usize,
    /// Frames that are free at the start; they have the numbers after the domain's.
    spare: usize,
    /// `(table, index, value)` before the first step.
    start: Vec<(usize, usize, Value)>,
    /// Loaded on both pcpus before the first step.
    root: Option<usize>,
    /// Whether the second vcpu is one of a control domain that acts on the first's frames.
    foreign: bool,
    steps: Vec<Step>,
}

/// Every op as a step of either vcpu, in a hurry and not.
fn all_ways(ops: &[Op]) -> Vec<Step> {
    let mut steps = Vec::new();
    for vcpu in [0, 1] {
        for hurry in [false, true] {
            steps.extend(ops.iter().map(|&op| Step { vcpu, op, hurry }));
            steps.push(Step { vcpu, op: Op::GoOn, hurry });
        }
    }
    steps
}

const GAME: DomId = DomId::new(1);

struct Tables {
    w: FakeWorld,
    pages: Pages,
    steps: Vec<Step>,
    mfns: Vec<Mfn>,
    dom: Arc<Domain>,
    other: Arc<Domain>,
    vcpus: [(Arc<Domain>, Arc<Vcpu>); 2],
    stopped: [Option<(Op, Args)>; 2],
    foreign: bool,
    dying: bool,
    dead: bool,
}

const ARGS: [u64; 2] = [0x10_0000, 0x20_0000];
/// More calls than any needs.
const PATIENCE: usize = 100;

impl Tables {
    fn entry(&self, value: Value) -> u64 {
        let at = |n: usize, flags| self.mfns[n].raw() << 12 | flags;
        match value {
            Value::Nothing => 0,
            Value::Read(n) => at(n, RO),
            Value::Write(n) => at(n, RW),
        }
    }

    fn poke(&self, frame: usize, index: usize, value: Value) {
        self.w.m.words(self.mfns[frame])[index].store(self.entry(value), Relaxed);
    }

    /// Puts a call's arguments where it finds them.
    fn arguments(&self, vcpu: usize, call: Op) -> Args {
        let at = ARGS[vcpu];
        let put = |bytes: &[u8]| self.w.m.copy_to_guest(GuestVa::new(at), bytes).unwrap();
        let whom = if self.foreign && vcpu == 1 { u64::from(GAME.raw()) } else { SELF };
        let ext = |cmd, n: usize| put(op(cmd, self.mfns[n].raw(), 0).as_bytes());
        match call {
            Op::Pin(1, n) => ext(MmuextCmd::PinL1Table, n),
            Op::Pin(2, n) => ext(MmuextCmd::PinL2Table, n),
            Op::Pin(3, n) => ext(MmuextCmd::PinL3Table, n),
            Op::Pin(_, n) => ext(MmuextCmd::PinL4Table, n),
            Op::Unpin(n) => ext(MmuextCmd::UnpinTable, n),
            Op::Base(n) => ext(MmuextCmd::NewBaseptr, n),
            Op::Set(table, index, value) => {
                let ptr = (self.mfns[table].raw() << 12) + u64::try_from(index).unwrap() * 8;
                put(MmuUpdate { ptr, val: self.entry(value) }.as_bytes());
            }
            Op::Decrease(n) => {
                put(&reservation(at + 64, self.mfns[n]));
                return Args([1, at, 0, 0, 0, 0]);
            }
            Op::Exchange(n) => {
                put(&exchange(at + 128, self.mfns[n]));
                return Args([11, at, 0, 0, 0, 0]);
            }
            _ => put(op(MmuextCmd::TlbFlushLocal, 0, 0).as_bytes()),
        }
        Args([at, 1, 0, whom, 0, 0])
    }

    /// Makes a call, or goes on with one, up to its next preemption point.
    fn call(&mut self, vcpu: usize, call: Op, args: Args, hurry: bool) {
        let (dom, v) = &self.vcpus[vcpu];
        let mut regs = UserRegs::default();
        let m = &self.w.m;
        m.current_pcpu.store(u64::try_from(vcpu).unwrap(), Relaxed);
        m.preempt_after.store(if hurry { 0 } else { u64::MAX }, Relaxed);
        let mut cx = Cx::new(&self.w.hv, m, dom, v, &mut regs);
        let handler: fn(&mut Cx<'_, FakeMachine>, &Args) -> HypercallResult = match call {
            Op::Set(..) => mmu::mmu_update,
            Op::Decrease(_) | Op::Exchange(_) => memory::memory_op,
            _ => mmuext::mmuext_op,
        };
        let result = handler(&mut cx, &args);
        m.preempt_after.store(u64::MAX, Relaxed);
        self.stopped[vcpu] = match result {
            Err(Exit::Restart(next)) => Some((call, next)),
            Err(Exit::Crash(why)) => panic!("{why}"),
            _ => None,
        };
    }

    fn destroy(&mut self, hurry: bool) {
        self.dying = true;
        for cpu in [0, 1] {
            if !self.foreign || cpu == 0 {
                self.stopped[cpu] = None;
            }
            self.w.m.unload_root(cpu);
        }
        self.w.m.preempt_after.store(if hurry { 0 } else { u64::MAX }, Relaxed);
        self.dead = relinquish(&self.w.hv, &self.w.m, &self.dom).is_ok();
        self.w.m.preempt_after.store(u64::MAX, Relaxed);
    }

    /// Lets every call end and every frame come back; what did not.
    fn wind_up(&mut self) -> Result<(), &'static str> {
        for turn in 0.. {
            let mut idle = true;
            for vcpu in [0, 1] {
                if self.dying && self.vcpus[vcpu].0.id == GAME {
                    continue;
                }
                if let Some((call, args)) = self.stopped[vcpu] {
                    let _ = self.arguments(vcpu, call);
                    self.call(vcpu, call, args, true);
                    idle = false;
                } else if !self.vcpus[vcpu].1.mm.pending.is_empty() {
                    let args = self.arguments(vcpu, Op::Flush);
                    self.call(vcpu, Op::Flush, args, true);
                    idle = false;
                }
            }
            if self.dying && !self.dead {
                self.destroy(true);
                idle = idle && self.dead;
            }
            if idle {
                break;
            }
            if turn > PATIENCE {
                return Err("calls that never end");
            }
        }
        for _ in 0..PATIENCE {
            self.destroy(false);
            let other = relinquish(&self.w.hv, &self.w.m, &self.other).is_ok();
            if self.dead && other {
                break;
            }
        }
        let left = self.dom.mem.tot_pages() + self.other.mem.tot_pages();
        if left == 0 { Ok(()) } else { Err("frames that never come back") }
    }
}

/// A `struct xen_memory_reservation` of one frame, with its list `gap` bytes behind it.
fn reservation(list: u64, mfn: Mfn) -> Vec<u8> {
    let mut bytes = alloc::vec![0_u8; 72];
    bytes[..8].copy_from_slice(&list.to_le_bytes());
    bytes[8] = 1;
    bytes[24..26].copy_from_slice(&0x7ff0_u16.to_le_bytes());
    bytes[64..72].copy_from_slice(&mfn.raw().to_le_bytes());
    bytes
}

/// A `struct xen_memory_exchange` of one frame for one.
fn exchange(list: u64, mfn: Mfn) -> Vec<u8> {
    let mut bytes = alloc::vec![0_u8; 144];
    for (base, at) in [(0, list), (32, list + 8)] {
        bytes[base..base + 8].copy_from_slice(&at.to_le_bytes());
        bytes[base + 8] = 1;
        bytes[base + 24..base + 26].copy_from_slice(&0x7ff0_u16.to_le_bytes());
    }
    bytes[128..136].copy_from_slice(&mfn.raw().to_le_bytes());
    bytes[136..144].copy_from_slice(&7_u64.to_le_bytes());
    bytes
}

impl Scene for Tables {
    type Spec = Spec;
    const RULES: &'static [&'static str] = &["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I12"];

    fn new(spec: &Spec) -> Self {
        // Beside the game: frame 0 and two shared-info pages.
        let pages = Pages::new(spec.frames + spec.spare + 3);
        let w = FakeWorld::over(pages.table());
        w.m.tlb.watch();
        ARGS.iter().for_each(|&at| w.m.map_guest_page(at));
        let all = u64::try_from(spec.frames).unwrap();
        let (dom, vcpu) = w.add_domain(GAME, Privilege::Unprivileged, all);
        let control = if spec.foreign { Privilege::Control } else { Privilege::Unprivileged };
        let (other, theirs) = w.add_domain(DomId::new(2), control, all);
        let second = if spec.foreign { (other.clone(), theirs) } else { (dom.clone(), dom.add_vcpu()) };
        let mut mfns: Vec<_> =
            (0..spec.frames).map(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap()).collect();
        let free = |mfn: &Mfn| w.hv.frames.owner(*mfn).is_none();
        mfns.extend((1..w.hv.frames.end().raw()).map(Mfn::new).filter(free));
        let vcpus = [(dom.clone(), vcpu), second];
        let (steps, stopped, foreign) = (spec.steps.clone(), [None, None], spec.foreign);
        let mut t =
            Self { w, pages, steps, mfns, dom, other, vcpus, stopped, foreign, dying: false, dead: false };
        for &(table, index, value) in &spec.start {
            t.poke(table, index, value);
        }
        for vcpu in [0, 1] {
            if let Some(root) = spec.root.filter(|_| vcpu == 0 || !spec.foreign) {
                let args = t.arguments(vcpu, Op::Base(root));
                t.call(vcpu, Op::Base(root), args, false);
            }
        }
        t.w.m.fill_tlbs();
        t
    }

    fn steps(spec: &Spec) -> u16 {
        u16::try_from(spec.steps.len()).unwrap()
    }

    fn enabled(&self, step: u16) -> bool {
        let Step { vcpu, op, hurry } = self.steps[usize::from(step)];
        let runs = !self.dying || self.vcpus[vcpu].0.id != GAME;
        match op {
            Op::GoOn => runs && self.stopped[vcpu].is_some(),
            Op::Poke(n, _) => runs && !hurry && vcpu == 0 && self.w.m.tlb.can_write(self.mfns[n]),
            Op::GiveOther => vcpu == 0 && !hurry && self.w.hv.frames.free_frames() > 0,
            Op::ZeroAhead => vcpu == 0 && !hurry,
            Op::Destroy => vcpu == 0 && !self.dead,
            _ => runs,
        }
    }

    fn make(&mut self, step: u16) {
        let Step { vcpu, op, hurry } = self.steps[usize::from(step)];
        match op {
            Op::GoOn => {
                if let Some((call, args)) = self.stopped[vcpu] {
                    let _ = self.arguments(vcpu, call);
                    self.call(vcpu, call, args, hurry);
                }
            }
            Op::Poke(n, value) => self.poke(n, 0, value),
            Op::GiveOther => drop(self.w.hv.frames.alloc_for(&self.w.m, &self.other.mem, 0, 0)),
            Op::ZeroAhead => while self.w.hv.frames.scrub_ahead(&self.w.m) {},
            Op::Destroy => self.destroy(hurry),
            call => {
                let args = self.arguments(vcpu, call);
                self.call(vcpu, call, args, hurry);
            }
        }
        self.w.m.fill_tlbs();
    }

    fn snapshot(&self, into: &mut impl Hasher) {
        snapshot_frames(&self.w, &self.pages, into);
        for dom in [&self.dom, &self.other] {
            dom.mem.lists().hash(into);
            dom.mm.teardown.describe().hash(into);
        }
        for (_, v) in &self.vcpus {
            (v.mm.kernel_root(), v.mm.pending.describe()).hash(into);
        }
        for stopped in &self.stopped {
            stopped.map(|(call, args)| (call, args.0)).hash(into);
        }
        (self.dying, self.dead).hash(into);
    }

    fn broken(&mut self) -> Vec<Broken> {
        let doms = [self.dom.clone(), self.other.clone()];
        let mut broken = rules::frames(&View { w: &self.w, doms: &doms, runs: GAME });
        if !broken.is_empty() {
            return broken;
        }
        if let Err(what) = self.wind_up() {
            broken.push(("I9", what.into()));
        }
        let after = rules::frames(&View { w: &self.w, doms: &doms, runs: GAME });
        broken.extend(after.into_iter().map(|(rule, what)| (rule, format!("at the end: {what}"))));
        broken
    }

    fn describe(spec: &Spec, step: u16) -> String {
        let Step { vcpu, op, hurry } = spec.steps[usize::from(step)];
        format!("vcpu {vcpu}: {op:?}{}", if hurry { ", in a hurry" } else { "" })
    }
}

/// Three frames that two vcpus want as L1, L2 and data at once, with entries that name one another.
fn three_frames() -> Spec {
    let mut ops = Vec::new();
    for n in 0..3 {
        ops.extend([Op::Pin(1, n), Op::Pin(2, n), Op::Unpin(n)]);
        for to in [Value::Nothing, Value::Read((n + 1) % 3), Value::Write((n + 1) % 3)] {
            ops.push(Op::Set(n, 0, to));
        }
    }
    let start = alloc::vec![(0, 0, Value::Write(1)), (1, 0, Value::Write(2))];
    Spec { frames: 3, spare: 0, start, root: None, foreign: false, steps: all_ways(&ops) }
}

/// A loaded tree of four tables with one page; the leaf table and the page change places, frames change hands.
fn loaded_tree(foreign: bool) -> Spec {
    let start = (0..4).map(|n| (n, 0, Value::Write(n + 1))).collect();
    let ops = [
        Op::Set(3, 0, Value::Nothing),
        Op::Set(3, 0, Value::Read(4)),
        Op::Set(3, 0, Value::Write(4)),
        Op::Set(2, 0, Value::Nothing),
        Op::Set(2, 0, Value::Write(3)),
        Op::Set(2, 0, Value::Write(4)),
        Op::Pin(1, 4),
        Op::Unpin(4),
        Op::Pin(4, 0),
        Op::Poke(4, Value::Write(0)),
        Op::Poke(4, Value::Write(3)),
        Op::Decrease(4),
        Op::GiveOther,
        Op::ZeroAhead,
    ];
    Spec { frames: 5, spare: 0, start, root: Some(0), foreign, steps: all_ways(&ops) }
}

/// Two roots over one tree, loaded, pinned and dropped while the domain may be destroyed at any point.
fn dying_domain(foreign: bool) -> Spec {
    let mut start: Vec<_> = (0..4).map(|n| (n, 0, Value::Write(n + 1))).collect();
    start.push((5, 0, Value::Write(1)));
    let ops = [
        Op::Pin(4, 0),
        Op::Pin(4, 5),
        Op::Pin(2, 2),
        Op::Unpin(0),
        Op::Unpin(5),
        Op::Unpin(2),
        Op::Base(0),
        Op::Base(5),
        Op::Set(1, 0, Value::Nothing),
        Op::Decrease(0),
        Op::ZeroAhead,
        Op::Destroy,
    ];
    let ops: Vec<_> = ops.into_iter().filter(|op| !foreign || !matches!(op, Op::Base(_))).collect();
    Spec { frames: 6, spare: 0, start, root: (!foreign).then_some(0), foreign, steps: all_ways(&ops) }
}

/// One tree of two tables in three frames and few steps: small enough to be explored to its end.
fn two_tables() -> Spec {
    let ops = [
        Op::Pin(2, 0),
        Op::Unpin(0),
        Op::Pin(1, 1),
        Op::Set(0, 0, Value::Nothing),
        Op::Set(0, 0, Value::Write(1)),
        Op::Set(1, 0, Value::Nothing),
        Op::Set(1, 0, Value::Write(2)),
    ];
    let start = alloc::vec![(0, 0, Value::Write(1)), (1, 0, Value::Write(2)), (1, 1, Value::Write(0))];
    Spec { frames: 3, spare: 0, start, root: None, foreign: false, steps: all_ways(&ops) }
}

/// Frames are stolen and exchanged while they are mapped and unmapped.
fn stealing() -> Spec {
    let mut ops = Vec::new();
    for n in 0..2 {
        ops.extend([Op::Pin(1, n), Op::Unpin(n), Op::Exchange(n), Op::Set(n, 0, Value::Nothing)]);
        ops.extend([Op::Set(n, 0, Value::Write(1 - n)), Op::Set(n, 0, Value::Write(2))]);
    }
    ops.extend([Op::Exchange(2), Op::Exchange(3), Op::Set(0, 0, Value::Write(3))]);
    Spec { frames: 3, spare: 1, start: Vec::new(), root: None, foreign: false, steps: all_ways(&ops) }
}

#[test]
fn two_tables_to_the_end() {
    assert_holds::<Tables>("tables: two tables", two_tables(), 60_000);
}

#[test]
fn xsa_401_three_frames_fought_over_by_two_vcpus() {
    assert_holds::<Tables>("tables: three frames", three_frames(), 15_000);
}

#[test]
fn xsa_241_and_408_a_loaded_tree_whose_leaves_change() {
    assert_holds::<Tables>("tables: loaded tree", loaded_tree(false), 15_000);
}

#[test]
fn a_loaded_tree_that_a_control_domain_changes() {
    assert_holds::<Tables>("tables: foreign hands", loaded_tree(true), 10_000);
}

#[test]
fn xsa_299_and_310_a_domain_destroyed_at_any_point() {
    assert_holds::<Tables>("tables: domain death", dying_domain(false), 15_000);
}

#[test]
fn a_domain_destroyed_while_a_control_domain_works_on_it() {
    assert_holds::<Tables>("tables: death under foreign work", dying_domain(true), 10_000);
}

#[test]
fn xsa_287_frames_exchanged_while_they_are_used() {
    assert_holds::<Tables>("tables: stealing", stealing(), 10_000);
}

#[test]
fn the_model_notices_faults_of_types() {
    assert_caught::<Tables>(three_frames(), Fault::BusyIsHeld, &["I2", "I3", "I4", "I5", "panic"]);
    assert_caught::<Tables>(three_frames(), Fault::NoDevalidation, &["I3", "I4", "I6", "panic"]);
    assert_caught::<Tables>(three_frames(), Fault::PinsTwice, &["I3", "I6"]);
    assert_caught::<Tables>(three_frames(), Fault::TableIsWritable, &["I1", "I2", "I3"]);
    assert_caught::<Tables>(two_tables(), Fault::FailureKeepsEntries, &["I3", "I5", "panic"]);
}

#[test]
fn the_model_notices_faults_of_flushes() {
    assert_caught::<Tables>(loaded_tree(false), Fault::NoFlushBeforeReuse, &["I1", "I12"]);
    assert_caught::<Tables>(loaded_tree(false), Fault::NoStamp, &["I1", "I12"]);
    assert_caught::<Tables>(loaded_tree(false), Fault::ZeroesUnflushed, &["I12"]);
}

#[test]
fn the_model_notices_faults_of_references() {
    assert_caught::<Tables>(dying_domain(false), Fault::ChildKeepsReference, &["I3", "I9"]);
    assert_caught::<Tables>(dying_domain(false), Fault::ForgetsHeld, &["I3", "I9"]);
    assert_caught::<Tables>(stealing(), Fault::StealsUsedFrames, &["I2", "I3", "I7", "panic"]);
}

#[test]
fn the_model_notices_a_call_that_never_ends() {
    assert_caught::<Tables>(three_frames(), Fault::ForgetsFailure, &["I9"]);
}
