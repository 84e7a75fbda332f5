//! Three domains make calls of all rooms in random order, die and are made anew; the whole machine is audited after each
//! step, and after each preemption within one.
//!
//! The walks beside the rooms each know one of them. Here a frame can be mapped by a grant, wanted as a page table, hold
//! event words and lose its owner, in any order. Frames, entries, references and ports are few, so that operations meet.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use pv_abi::domctl::{Domctl, DomctlCmd};
use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVirq, EvtchnClose, EvtchnExpandArray,
    EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSend, EvtchnUnmask,
};
use pv_abi::grant::{
    GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef, GrantEntryV1, GrantFlags,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn, VcpuId};
use pv_abi::memory::{MemoryOp, XenMemoryReservation};
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::access::Privilege;
use crate::audit::audit;
use crate::cx::Cx;
use crate::domain::create::{self, Config};
use crate::domain::{Domain, teardown};
use crate::fake::FakeWorld;
use crate::hypercall::{GuestPtr, dispatch};
use crate::port::Frames;
use crate::regs::UserRegs;
use crate::seeded::{self, Fault};
use crate::vcpu::Vcpu;

/// Domains: dom0 and two guests, by their numbers.
const DOMAINS: usize = 3;
/// Frames of each.
const FRAMES: usize = 12;
const ARG: u64 = 0x10_0000;
const LIST: u64 = 0x10_1000;
const SELF: u16 = DomId::SELF.raw();
/// RIP behind the SYSCALL.
const RIP: u64 = 0x40_0002;
const INDICES: [u64; 5] = [0, 1, 2, 256, 511];
const FLAGS: [u64; 8] = [0x67, 0x65, 0x67, 0x61, 0x66, 0xe7, 0x77, 0x8000_0000_0000_0067];
const COMMANDS: [MmuextCmd; 8] = [
    MmuextCmd::PinL1Table,
    MmuextCmd::PinL2Table,
    MmuextCmd::PinL3Table,
    MmuextCmd::PinL4Table,
    MmuextCmd::UnpinTable,
    MmuextCmd::NewBaseptr,
    MmuextCmd::NewUserBaseptr,
    MmuextCmd::ClearPage,
];
/// For a host, read-only, for a device, both, into an entry.
const MAP_FLAGS: [u32; 5] = [2, 6, 1, 3, 18];

/// A frame: whose, counted from the one who names it, and which.
type Frame = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    /// Writes an entry by `mmu_update`.
    Update {
        table: Frame,
        index: usize,
        target: Frame,
        flags: usize,
    },
    /// Pins, unpins, loads.
    Ext {
        cmd: usize,
        frame: Frame,
    },
    /// Writes an entry of the own L1.
    Leaf {
        slot: u64,
        target: Frame,
        flags: usize,
    },
    /// Writes a page that the guest may map writable, without a call.
    Store {
        frame: usize,
        index: usize,
        target: usize,
    },
    /// Gives a frame back.
    GiveBack {
        frame: usize,
    },
    /// Writes a grant entry.
    Offer {
        gref: usize,
        flags: u16,
        to: usize,
        frame: usize,
    },
    Map {
        granter: usize,
        gref: u32,
        flags: usize,
        slot: u64,
    },
    Unmap {
        handle: u32,
        slot: u64,
    },
    Copy {
        granter: usize,
        gref: u32,
        frame: usize,
        into: bool,
    },
    Unbound {
        of: usize,
        remote: usize,
    },
    Connect {
        remote: usize,
        port: u32,
    },
    Virq(u32),
    Ipi,
    Send(u32),
    Unmask(u32),
    Close(u32),
    Reset,
    /// Goes over to the FIFO ABI, with a control block in a frame.
    Control {
        frame: usize,
    },
    /// Adds a frame of event words.
    Expand {
        frame: usize,
    },
    /// dom0 destroys a guest.
    Destroy(usize),
    /// dom0 makes it anew.
    Create(usize),
}

#[derive(Clone, Debug)]
struct Move {
    who: usize,
    step: Step,
    /// Preemption checks that pass before one does not.
    patience: u64,
    /// Whether a preempted call is given up for another.
    gives_up: bool,
}

fn frame() -> impl Strategy<Value = Frame> {
    (prop_oneof![4 => Just(0_usize), 1 => 0..DOMAINS], 0..FRAMES)
}

fn memory_step() -> impl Strategy<Value = Step> {
    let (index, flags) = (0..INDICES.len(), 0..FLAGS.len());
    let (index2, flags2) = (index.clone(), flags.clone());
    prop_oneof![
        4 => (frame(), index, frame(), flags)
            .prop_map(|(table, index, target, flags)| Step::Update { table, index, target, flags }),
        4 => (0..COMMANDS.len(), frame()).prop_map(|(cmd, frame)| Step::Ext { cmd, frame }),
        3 => (0..6_u64, frame(), flags2).prop_map(|(slot, target, flags)| Step::Leaf { slot, target, flags }),
        1 => (0..FRAMES, index2, 0..FRAMES)
            .prop_map(|(frame, index, target)| Step::Store { frame, index, target }),
        1 => (0..FRAMES).prop_map(|frame| Step::GiveBack { frame }),
    ]
}

fn grant_step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![4 => Just(1_u16), 2 => Just(5_u16), 1 => 0..8_u16];
    prop_oneof![
        3 => (0..2_usize, flags, 0..DOMAINS, 4..8_usize)
            .prop_map(|(gref, flags, to, frame)| Step::Offer { gref, flags, to, frame }),
        4 => (0..DOMAINS, 0..2_u32, 0..MAP_FLAGS.len(), 0..6_u64)
            .prop_map(|(granter, gref, flags, slot)| Step::Map { granter, gref, flags, slot }),
        3 => (0..3_u32, 0..6_u64).prop_map(|(handle, slot)| Step::Unmap { handle, slot }),
        1 => (0..DOMAINS, 0..2_u32, 0..FRAMES, any::<bool>())
            .prop_map(|(granter, gref, frame, into)| Step::Copy { granter, gref, frame, into }),
    ]
}

fn event_step() -> impl Strategy<Value = Step> {
    let port = || 1..4_u32;
    prop_oneof![
        3 => (0..DOMAINS, 0..DOMAINS).prop_map(|(of, remote)| Step::Unbound { of, remote }),
        4 => (0..DOMAINS, port()).prop_map(|(remote, port)| Step::Connect { remote, port }),
        1 => (0..25_u32).prop_map(Step::Virq),
        1 => Just(Step::Ipi),
        3 => port().prop_map(Step::Send),
        1 => port().prop_map(Step::Unmask),
        2 => port().prop_map(Step::Close),
        1 => Just(Step::Reset),
        2 => (0..FRAMES).prop_map(|frame| Step::Control { frame }),
        2 => (0..FRAMES).prop_map(|frame| Step::Expand { frame }),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        6 => memory_step(),
        5 => grant_step(),
        5 => event_step(),
        1 => (1..DOMAINS).prop_map(Step::Destroy),
        2 => (1..DOMAINS).prop_map(Step::Create),
    ];
    let patience = prop_oneof![3 => Just(u64::MAX), 2 => 0..6_u64];
    let one = (0..DOMAINS, step, patience, any::<bool>()).prop_map(|(who, step, patience, gives_up)| Move {
        who,
        step,
        patience,
        gives_up,
    });
    proptest::collection::vec(one, 1..80)
}

/// A domain with the frames that it began with: the first four are its tables.
struct Actor {
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    mfns: Vec<Mfn>,
}

struct World {
    w: FakeWorld,
    actors: Vec<Actor>,
}

fn pte(mfn: Mfn, flags: u64) -> u64 {
    mfn.raw() << 12 | flags
}

fn is_alive(a: &Actor) -> bool {
    !a.dom.is_dying()
}

impl World {
    fn new() -> Self {
        let w = FakeWorld::new(128);
        w.m.map_guest_page(ARG);
        w.m.map_guest_page(LIST);
        let actors = (0..DOMAINS).map(|n| Self::make(&w, n).unwrap()).collect();
        let world = Self { w, actors };
        (0..DOMAINS).for_each(|n| world.load_tables(n));
        world
    }

    /// A domain of that number with frames; `None` where its number or the memory is still in use.
    fn make(w: &FakeWorld, number: usize) -> Option<Actor> {
        let id = DomId::new(u16::try_from(number).ok()?);
        let privilege = if number == 0 { Privilege::Control } else { Privilege::Unprivileged };
        let config = Config { privilege, max_pages: 16, ..Config::unprivileged() };
        let dom = create::create(&w.hv, &w.m, id, &config).ok()?;
        create::add_vcpus(&w.hv, &w.m, &dom).ok()?;
        let mfns: Vec<_> =
            (0..FRAMES).map_while(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).ok()).collect();
        assert_eq!(mfns.len(), FRAMES, "there is memory for all");
        let vcpu = dom.vcpu(VcpuId::new(0))?;
        Some(Actor { dom, vcpu, mfns })
    }

    /// As a domain's builder: a tree of one page per level, loaded.
    fn load_tables(&self, who: usize) {
        let mfns = &self.actors[who].mfns;
        for level in 0..3 {
            self.w.m.words(mfns[level])[0].store(pte(mfns[level + 1], 0x67), Relaxed);
        }
        let op = MmuextOp { cmd: MmuextCmd::NewBaseptr.raw(), _pad: 0, arg1: mfns[0].raw(), arg2: 0 };
        self.put(ARG, &op);
        let plain = Move { who, step: Step::Ipi, patience: u64::MAX, gives_up: false };
        assert_eq!(self.call(&plain, Hypercall::MmuextOp, [ARG, 1, 0, u64::from(SELF), 0]), Some(0));
    }

    fn put<T: FromBytes + IntoBytes + Immutable>(&self, at: u64, value: &T) {
        GuestPtr::<T>::new(at).unwrap().write(&self.w.m, value).unwrap();
    }

    fn id(&self, number: usize) -> u16 {
        self.actors[number].dom.id.raw()
    }

    fn named(&self, who: usize, (whose, n): Frame) -> Mfn {
        self.actors[(who + whose) % DOMAINS].mfns[n]
    }

    fn assert_sound(&self) {
        let domains: Vec<_> = self.w.hv.domains.all().collect();
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(self.w.hv.frames.leaks(), 0);
    }

    /// Makes a call, and makes it again unless it is given up; what it answers, where it ends.
    fn call(&self, mv: &Move, call: Hypercall, args: [u64; 5]) -> Option<i64> {
        let a = &self.actors[mv.who];
        let [rdi, rsi, rdx, r10, r8] = args;
        let mut regs = UserRegs { rax: call.raw(), rdi, rsi, rdx, r10, r8, ..UserRegs::default() };
        // Another's unfinished work may be in the way, and it is not its turn.
        for _ in 0..40 {
            regs.rip = RIP;
            self.w.m.preempt_after.store(mv.patience, Relaxed);
            dispatch(&mut Cx::new(&self.w.hv, &self.w.m, &a.dom, &a.vcpu, &mut regs));
            self.w.m.preempt_after.store(u64::MAX, Relaxed);
            self.assert_sound();
            if regs.rip == RIP {
                return Some(regs.rax.cast_signed());
            }
            if mv.gives_up {
                break;
            }
        }
        None
    }

    fn event<T: FromBytes + IntoBytes + Immutable>(&self, mv: &Move, op: EvtchnOp, arg: &T) {
        self.put(ARG, arg);
        self.call(mv, Hypercall::EventChannelOp, [u64::from(op.raw()), ARG, 0, 0, 0]);
    }

    fn grant<T: FromBytes + IntoBytes + Immutable>(&self, mv: &Move, op: GnttabOp, arg: &T) {
        self.put(ARG, arg);
        self.call(mv, Hypercall::GrantTableOp, [u64::from(op.raw()), ARG, 1, 0, 0]);
    }

    fn make_move(&mut self, mv: &Move) {
        match mv.step {
            Step::Destroy(victim) => self.destroy(mv, victim),
            Step::Create(number) => self.create(number),
            _ if !is_alive(&self.actors[mv.who]) => {}
            Step::Unbound { .. }
            | Step::Connect { .. }
            | Step::Virq(_)
            | Step::Ipi
            | Step::Send(_)
            | Step::Unmask(_)
            | Step::Close(_)
            | Step::Reset
            | Step::Control { .. }
            | Step::Expand { .. } => self.make_event(mv),
            Step::Offer { .. } | Step::Map { .. } | Step::Unmap { .. } | Step::Copy { .. } => {
                self.make_grant(mv);
            }
            _ => self.make_memory(mv),
        }
        self.assert_sound();
    }

    fn make_memory(&self, mv: &Move) {
        let (who, own) = (mv.who, u64::from(SELF));
        match mv.step {
            Step::Update { table, index, target, flags } => {
                let ptr = (self.named(who, table).raw() << 12) + INDICES[index] * 8;
                self.put(ARG, &MmuUpdate { ptr, val: pte(self.named(who, target), FLAGS[flags]) });
                // Who names another's frame names its owner too, as a control domain does.
                let of = if target.0 == 0 { own } else { u64::from(self.id((who + target.0) % DOMAINS)) };
                self.call(mv, Hypercall::MmuUpdate, [ARG, 1, 0, of, 0]);
            }
            Step::Ext { cmd, frame } => {
                let arg1 = self.named(who, frame).raw();
                self.put(ARG, &MmuextOp { cmd: COMMANDS[cmd].raw(), _pad: 0, arg1, arg2: 0 });
                self.call(mv, Hypercall::MmuextOp, [ARG, 1, 0, own, 0]);
            }
            Step::Leaf { slot, target, flags } => {
                let value = pte(self.named(who, target), FLAGS[flags]);
                self.call(mv, Hypercall::UpdateVaMapping, [slot << 12, value, 0, 0, 0]);
            }
            Step::Store { frame, index, target } => {
                let a = &self.actors[who];
                let frames = &self.w.hv.frames;
                if let Ok(page) = frames.get_page_writable(&self.w.m, a.mfns[frame], a.dom.id) {
                    let at = usize::try_from(INDICES[index]).unwrap();
                    self.w.m.words(page.mfn())[at].store(pte(a.mfns[target], 0x65), Relaxed);
                }
            }
            Step::GiveBack { frame } => {
                self.put(LIST, &self.actors[who].mfns[frame].raw());
                let arg = XenMemoryReservation {
                    extent_start: LIST,
                    nr_extents: 1,
                    domid: SELF,
                    ..Default::default()
                };
                self.put(ARG, &arg);
                let op = u64::from(MemoryOp::DecreaseReservation.raw());
                self.call(mv, Hypercall::MemoryOp, [op, ARG, 0, 0, 0]);
            }
            _ => {}
        }
    }

    fn make_grant(&self, mv: &Move) {
        let a = &self.actors[mv.who];
        let entry_of = |slot: u64| (a.mfns[3].raw() << 12) + slot * 8;
        match mv.step {
            Step::Offer { gref, flags, to, frame } => {
                let Some(table) = a.dom.grants.frame(0) else { return };
                let word = &self.w.m.words(table)[gref];
                // It leaves the marks of use alone: what happens otherwise is its own affair, and tried elsewhere.
                let marks = (GrantFlags::READING | GrantFlags::WRITING).bits();
                let used = GrantEntryV1::from_word(word.load(SeqCst)).flags & marks;
                let frame = u32::try_from(a.mfns[frame].raw()).unwrap();
                let entry = GrantEntryV1 { flags: flags | used, domid: self.id(to), frame };
                word.store(entry.to_word(), SeqCst);
            }
            Step::Map { granter, gref, flags, slot } => {
                let flags = MAP_FLAGS[flags];
                let host_addr = if flags & 16 == 0 { slot << 12 } else { entry_of(slot) };
                let dom = self.id(granter);
                let arg = GnttabMapGrantRef { host_addr, flags, gref, dom, ..Default::default() };
                self.grant(mv, GnttabOp::MapGrantRef, &arg);
            }
            Step::Unmap { handle, slot } => {
                let host_addr = if slot == 5 { entry_of(1) } else { slot << 12 };
                let arg = GnttabUnmapGrantRef { host_addr, handle, ..Default::default() };
                self.grant(mv, GnttabOp::UnmapGrantRef, &arg);
            }
            Step::Copy { granter, gref, frame, into } => {
                let far = GnttabCopyPtr { u: u64::from(gref), domid: self.id(granter), offset: 8, _pad: 0 };
                let near = GnttabCopyPtr { u: a.mfns[frame].raw(), domid: SELF, offset: 16, _pad: 0 };
                let (source, dest, flags) = if into { (near, far, 2) } else { (far, near, 1) };
                let arg = GnttabCopy { source, dest, len: 64, flags, ..Default::default() };
                self.grant(mv, GnttabOp::Copy, &arg);
            }
            _ => {}
        }
    }

    fn make_event(&self, mv: &Move) {
        let own = &self.actors[mv.who].mfns;
        match mv.step {
            Step::Unbound { of, remote } => {
                let dom = if of == mv.who { SELF } else { self.id(of) };
                let arg = EvtchnAllocUnbound { dom, remote_dom: self.id(remote), port: 0 };
                self.event(mv, EvtchnOp::AllocUnbound, &arg);
            }
            Step::Connect { remote, port } => {
                let arg = EvtchnBindInterdomain {
                    remote_dom: self.id(remote),
                    remote_port: port,
                    ..Default::default()
                };
                self.event(mv, EvtchnOp::BindInterdomain, &arg);
            }
            Step::Virq(virq) => {
                self.event(mv, EvtchnOp::BindVirq, &EvtchnBindVirq { virq, vcpu: 0, port: 0 });
            }
            Step::Ipi => self.event(mv, EvtchnOp::BindIpi, &EvtchnBindIpi { vcpu: 0, port: 0 }),
            Step::Send(port) => self.event(mv, EvtchnOp::Send, &EvtchnSend { port }),
            Step::Unmask(port) => self.event(mv, EvtchnOp::Unmask, &EvtchnUnmask { port }),
            Step::Close(port) => self.event(mv, EvtchnOp::Close, &EvtchnClose { port }),
            Step::Reset => self.event(mv, EvtchnOp::Reset, &EvtchnReset { dom: SELF }),
            Step::Control { frame } => {
                let arg = EvtchnInitControl { control_gfn: own[frame].raw(), ..Default::default() };
                self.event(mv, EvtchnOp::InitControl, &arg);
            }
            Step::Expand { frame } => {
                let arg = EvtchnExpandArray { array_gfn: own[frame].raw() };
                self.event(mv, EvtchnOp::ExpandArray, &arg);
            }
            _ => {}
        }
    }

    /// As dom0 does it: the command is made again until it is done, or given up half-way.
    fn destroy(&self, mv: &Move, victim: usize) {
        let as_dom0 = Move { who: 0, ..mv.clone() };
        self.put(ARG, &Domctl::new(DomctlCmd::DestroyDomain, self.actors[victim].dom.id, &[0_u8; 0]));
        self.call(&as_dom0, Hypercall::Domctl, [ARG, 0, 0, 0, 0]);
    }

    fn create(&mut self, number: usize) {
        teardown::reap(&self.w.hv);
        let gone = self.w.hv.domains.get(self.actors[number].dom.id).is_none();
        if gone && let Some(actor) = Self::make(&self.w, number) {
            self.actors[number] = actor;
            self.load_tables(number);
        }
    }

    /// Destroys all domains, dom0 last; whatever they have of one another, every frame comes back.
    fn end(&self) {
        for n in (0..DOMAINS).rev() {
            let dom = &self.actors[n].dom;
            for _ in 0..1000 {
                if teardown::destroy(&self.w.hv, &self.w.m, dom).is_ok() {
                    break;
                }
            }
            self.assert_sound();
        }
        teardown::reap(&self.w.hv);
        assert_eq!(self.w.hv.domains.count(), 0, "every domain goes");
        assert_eq!(self.w.hv.frames.free_frames(), 127, "every frame comes back");
    }
}

fn walk(moves: &[Move]) {
    let mut w = World::new();
    for mv in moves {
        w.make_move(mv);
    }
    w.end();
}

fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.saturating_mul(4), failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_three_domains_do_the_whole_machine_is_sound(moves in moves()) {
        walk(&moves);
    }
}

/// Whether a walk stumbles over a fault in the code.
fn notices(fault: Fault) -> bool {
    let few =
        ProptestConfig { cases: 500, max_shrink_iters: 0, failure_persistence: None, ..Default::default() };
    let mut runner = TestRunner::new_with_rng(few, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    seeded::sow(Some(fault));
    let result = runner.run(&moves(), |moves| {
        walk(&moves);
        Ok(())
    });
    seeded::sow(None);
    result.is_err()
}

#[test]
fn walks_stumble_over_faults() {
    // Those that a few hundred walks meet for certain; thousands meet those of grants and ports too.
    let faults = [
        Fault::NoDevalidation,
        Fault::ChildKeepsReference,
        Fault::TableIsWritable,
        Fault::FailureKeepsEntries,
        Fault::ReleaseKeepsPin,
        Fault::QueuesKeepFrames,
    ];
    let missed: Vec<_> = faults.into_iter().filter(|&fault| !notices(fault)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
