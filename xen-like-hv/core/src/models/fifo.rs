//! FIFO event channels: a guest that keeps the protocol, one that writes what it likes, and the moves between the ABIs.
//!
//! A guest takes one port off its queues in a step, as a kernel does, so whatever a sender or a hypercall does falls
//! between any two of them. Each state is wound up by a guest that unmasks and takes all: what was sent has to come.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu, EvtchnClose, EvtchnExpandArray,
    EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSend, EvtchnSetPriority, EvtchnStat, EvtchnStatus,
    EvtchnUnmask,
};
use pv_abi::ids::{DomId, Mfn};
use pv_abi::shared_info::{SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING, VCPU_INFO_PENDING_SEL};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Broken, Pages, Scene, assert_caught, assert_holds, snapshot_frames};
use crate::UserRegs;
use crate::access::Privilege;
use crate::audit::audit;
use crate::cx::Cx;
use crate::domain::{Domain, teardown};
use crate::error::{Args, Exit};
use crate::evtchn::fifo::word::{BUSY, Half, LINK, LINKED, MASKED, PENDING, WordIo};
use crate::evtchn::{event_channel_op, hash_queues};
use crate::fake::FakeWorld;
use crate::hypercall::GuestPtr;
use crate::port::Frames;
use crate::seeded::Fault;
use crate::vcpu::Vcpu;

/// Ports 1 to this.
const PORTS: u32 = 3;
const ARG: u64 = 0x1000;
/// 32-bit words between the control blocks of two vcpus, which share a frame.
const BLOCK: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Unbound,
    Connect(u32),
    Ipi,
    Send(u32),
    Close(u32),
    Mask(u32),
    Unmask(u32),
    Priority(u32, u32),
    Move(u32, usize),
    /// Takes one port off the queues of a vcpu.
    Take(usize),
    Init(usize),
    Expand,
    Reset,
    Destroy,
    /// Any value for the event word of a port.
    Word(u32, u32),
    /// Any value for all words of the control blocks.
    Control(u32),
}

type Step = (usize, Op);

struct Spec {
    before: Vec<Step>,
    steps: Vec<Step>,
    /// Whether a guest keeps the protocol.
    keeps: [bool; 2],
}

struct Guest {
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    control: Mfn,
    array: Mfn,
    keeps: bool,
    dead: bool,
    /// Which vcpus have a control block; none in the two-level ABI.
    blocks: [bool; 2],
    expanded: bool,
    /// Ports by bit that have an event to come.
    owed: u32,
    /// What the kernel remembers of its queues.
    ready: [u32; 2],
    heads: [[u32; 16]; 2],
}

impl Guest {
    fn is_fifo(&self) -> bool {
        self.blocks[0]
    }

    /// Reset, as the guest sees it: its frames are its own again, and it cleans them.
    fn forget(&mut self, w: &FakeWorld) {
        (self.blocks, self.expanded, self.owed) = ([false; 2], false, 0);
        (self.ready, self.heads) = ([0; 2], [[0; 16]; 2]);
        w.m.zero(self.control);
        w.m.zero(self.array);
    }
}

struct Fifo {
    w: FakeWorld,
    pages: Pages,
    steps: Vec<Step>,
    guests: [Guest; 2],
    wrong: Vec<Broken>,
}

impl Fifo {
    fn call<T: FromBytes + IntoBytes + Immutable>(&self, who: usize, op: EvtchnOp, arg: &T) -> Option<T> {
        let ptr = GuestPtr::<T>::new(ARG).unwrap();
        ptr.write(&self.w.m, arg).unwrap();
        let guest = &self.guests[who];
        let mut regs = UserRegs::default();
        let mut cx = Cx::new(&self.w.hv, &self.w.m, &guest.dom, &guest.vcpu, &mut regs);
        match event_channel_op(&mut cx, &Args([u64::from(op.raw()), ARG, 0, 0, 0, 0])) {
            Ok(_) => ptr.read(&self.w.m).ok(),
            Err(Exit::Err(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn status(&self, who: usize, port: u32) -> Option<EvtchnStatus> {
        let dom = DomId::SELF.raw();
        self.call(who, EvtchnOp::Status, &EvtchnStatus { dom, port, ..Default::default() })
    }

    fn half(&self, mfn: Mfn, index: usize) -> Half<'_> {
        Half::new(&self.w.m.words(mfn)[index / 2], index)
    }

    fn word(&self, who: usize, port: u32) -> Half<'_> {
        self.half(self.guests[who].array, usize::try_from(port).unwrap())
    }

    fn control(&self, who: usize, vcpu: usize, index: usize) -> Half<'_> {
        self.half(self.guests[who].control, vcpu * BLOCK + index)
    }

    fn shared(&self, who: usize, byte: usize) -> &core::sync::atomic::AtomicU64 {
        &self.w.m.words(self.guests[who].dom.shared_info)[byte / 8]
    }

    fn send(&mut self, who: usize, port: u32) {
        let before = self.status(who, port);
        if self.call(who, EvtchnOp::Send, &EvtchnSend { port }).is_none() {
            return;
        }
        let Some(s) = before else { return };
        match EvtchnStat::from_raw(s.status) {
            Some(EvtchnStat::Interdomain) => {
                self.guests[usize::try_from(s.u0).unwrap() - 1].owed |= 1 << s.u1
            }
            Some(EvtchnStat::Ipi) => self.guests[who].owed |= 1 << port,
            _ => {}
        }
    }

    fn takes(&mut self, who: usize, port: u32) {
        let guest = &mut self.guests[who];
        if guest.keeps && guest.owed >> port & 1 == 0 {
            self.wrong.push(("F2", format!("d{} port {port}: an event that nobody sent", who + 1)));
        }
        guest.owed &= !(1 << port);
    }

    /// What a kernel does in its upcall with two levels.
    fn take_two_level(&mut self, who: usize) {
        self.shared(who, 0).fetch_and(!0xff, SeqCst);
        self.shared(who, VCPU_INFO_PENDING_SEL).swap(0, SeqCst);
        let mask = self.shared(who, SHARED_INFO_EVTCHN_MASK).load(SeqCst);
        let was = self.shared(who, SHARED_INFO_EVTCHN_PENDING).fetch_and(mask, SeqCst);
        (1..=PORTS).filter(|&p| was & !mask & 1 << p != 0).for_each(|p| self.takes(who, p));
    }

    /// One turn of the loop in a kernel's upcall; `false` if there was nothing to do.
    fn take(&mut self, who: usize, vcpu: usize) -> bool {
        if !self.guests[who].is_fifo() {
            self.take_two_level(who);
            return false;
        }
        let told = self.shared(who, vcpu * 64).fetch_and(!0xff, SeqCst) & 0xff != 0;
        let mut ready = self.guests[who].ready[vcpu];
        if told || ready != 0 {
            ready |= self.control(who, vcpu, 0).clear(u32::MAX);
        }
        if ready == 0 {
            return false;
        }
        let queue = usize::try_from(ready.trailing_zeros()).unwrap();
        let mut head = self.guests[who].heads[vcpu][queue];
        if head == 0 {
            head = self.control(who, vcpu, 2 + queue).load();
        }
        let was = self.word(who, head % 1024).clear(LINKED | LINK);
        if was & LINK == 0 {
            ready &= !(1 << queue);
        }
        self.guests[who].ready[vcpu] = ready;
        self.guests[who].heads[vcpu][queue] = was & LINK;
        if was & (PENDING | MASKED) == PENDING {
            self.word(who, head % 1024).clear(PENDING);
            self.takes(who, head);
        }
        true
    }

    /// Takes all that there is, on both vcpus; `false` where that has no end.
    fn drain(&mut self, who: usize) -> bool {
        for vcpu in [0, 1] {
            if (0..100).all(|_| self.take(who, vcpu)) {
                return false;
            }
        }
        true
    }

    /// A guest that keeps the protocol finds all that was sent to it.
    fn wind_up(&mut self, who: usize) {
        if self.guests[who].is_fifo() && !self.guests[who].expanded {
            self.step(who, Op::Expand);
        }
        let mut ended = self.drain(who);
        (1..=PORTS).for_each(|port| self.step(who, Op::Unmask(port)));
        ended &= self.drain(who);
        if !ended {
            self.wrong.push(("F3", format!("d{}: a queue without an end", who + 1)));
        }
        let owed = self.guests[who].owed;
        if owed != 0 {
            self.wrong.push(("F1", format!("d{}: events of ports {owed:#b} never arrive", who + 1)));
        }
    }

    /// What a guest may do: one that keeps the protocol moves no port to a vcpu without control block.
    fn allows(&self, who: usize, op: Op) -> bool {
        let guest = &self.guests[who];
        match op {
            Op::Init(1) | Op::Expand => guest.blocks[0] || !guest.keeps,
            Op::Move(_, vcpu) => guest.blocks[vcpu] || !guest.keeps,
            Op::Mask(_) => guest.expanded || !guest.is_fifo(),
            _ => true,
        }
    }

    fn init(&mut self, who: usize, vcpu: usize) {
        let offset = u32::try_from(vcpu * BLOCK * 4).unwrap();
        let control_gfn = self.guests[who].control.raw();
        let vcpu_id = u32::try_from(vcpu).unwrap();
        let arg = EvtchnInitControl { control_gfn, offset, vcpu: vcpu_id, ..Default::default() };
        if self.call(who, EvtchnOp::InitControl, &arg).is_some() {
            self.guests[who].blocks[vcpu] = true;
        }
    }

    fn mask(&self, who: usize, port: u32) {
        if self.guests[who].is_fifo() {
            self.word(who, port).set(MASKED);
        } else {
            self.shared(who, SHARED_INFO_EVTCHN_MASK).fetch_or(1 << port, SeqCst);
        }
    }

    fn destroy(&mut self, who: usize) {
        let dom = self.guests[who].dom.clone();
        self.guests[who].dead = teardown::destroy(&self.w.hv, &self.w.m, &dom).is_ok();
    }

    fn step(&mut self, who: usize, op: Op) {
        let dom = DomId::SELF.raw();
        let remote_dom = if who == 0 { 2 } else { 1 };
        match op {
            Op::Unbound => {
                let arg = EvtchnAllocUnbound { dom, remote_dom, port: 0 };
                let _ = self.call(who, EvtchnOp::AllocUnbound, &arg);
            }
            Op::Connect(remote_port) => {
                let arg = EvtchnBindInterdomain { remote_dom, remote_port, ..Default::default() };
                if let Some(done) = self.call(who, EvtchnOp::BindInterdomain, &arg) {
                    // A fresh connection is signalled.
                    self.guests[who].owed |= 1 << done.local_port;
                }
            }
            Op::Ipi => drop(self.call(who, EvtchnOp::BindIpi, &EvtchnBindIpi::default())),
            Op::Send(port) => self.send(who, port),
            Op::Close(port) => {
                if self.call(who, EvtchnOp::Close, &EvtchnClose { port }).is_some() {
                    self.guests[who].owed &= !(1 << port);
                }
            }
            Op::Mask(port) => self.mask(who, port),
            Op::Unmask(port) => drop(self.call(who, EvtchnOp::Unmask, &EvtchnUnmask { port })),
            Op::Priority(port, priority) => {
                let _ = self.call(who, EvtchnOp::SetPriority, &EvtchnSetPriority { port, priority });
            }
            Op::Move(port, vcpu) => {
                let vcpu = u32::try_from(vcpu).unwrap();
                let _ = self.call(who, EvtchnOp::BindVcpu, &EvtchnBindVcpu { port, vcpu });
            }
            Op::Take(vcpu) => drop(self.take(who, vcpu)),
            Op::Init(vcpu) => self.init(who, vcpu),
            Op::Expand => {
                let array_gfn = self.guests[who].array.raw();
                let done = self.call(who, EvtchnOp::ExpandArray, &EvtchnExpandArray { array_gfn });
                self.guests[who].expanded |= done.is_some();
            }
            Op::Reset => {
                if self.call(who, EvtchnOp::Reset, &EvtchnReset { dom }).is_some() {
                    let Self { w, guests, .. } = self;
                    guests[who].forget(w);
                }
            }
            Op::Destroy => self.destroy(who),
            Op::Word(port, value) => self.word(who, port).store(value),
            Op::Control(value) => (0..2 * BLOCK).for_each(|n| self.control(who, 0, n).store(value)),
        }
    }

    /// Whether frames are written that the guest has back.
    fn written_after(&self, who: usize) -> bool {
        let guest = &self.guests[who];
        let written = |mfn| self.w.m.words(mfn).iter().any(|w| w.load(SeqCst) != 0);
        guest.keeps && (!guest.is_fifo() && written(guest.control) || !guest.expanded && written(guest.array))
    }
}

impl Scene for Fifo {
    type Spec = Spec;
    const RULES: &'static [&'static str] = &["audit", "F1", "F2", "F3", "I7", "I9"];

    fn new(spec: &Spec) -> Self {
        let pages = Pages::new(1 + 2 + 4);
        let w = FakeWorld::over(pages.table());
        w.m.map_guest_page(ARG);
        let guests = [1, 2].map(|id| {
            let (dom, vcpu) = w.add_domain(DomId::new(id), Privilege::Unprivileged, 2);
            dom.add_vcpu().events.set_info(dom.shared_info, 64);
            dom.events.set_limit(PORTS);
            let [control, array] = [(); 2].map(|()| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap());
            let keeps = spec.keeps[usize::from(id) - 1];
            let (ready, heads) = ([0; 2], [[0; 16]; 2]);
            let (dead, blocks, expanded, owed) = (false, [false; 2], false, 0);
            Guest { dom, vcpu, control, array, keeps, dead, blocks, expanded, owed, ready, heads }
        });
        let mut scene = Self { w, pages, steps: spec.steps.clone(), guests, wrong: Vec::new() };
        spec.before.iter().for_each(|&(who, op)| scene.step(who, op));
        scene
    }

    fn steps(spec: &Spec) -> u16 {
        u16::try_from(spec.steps.len()).unwrap()
    }

    fn enabled(&self, step: u16) -> bool {
        let (who, op) = self.steps[usize::from(step)];
        !self.guests[who].dead && self.allows(who, op)
    }

    fn make(&mut self, step: u16) {
        let (who, op) = self.steps[usize::from(step)];
        self.step(who, op);
    }

    fn snapshot(&self, into: &mut impl Hasher) {
        snapshot_frames(&self.w, &self.pages, into);
        for (who, guest) in self.guests.iter().enumerate() {
            for port in 1..=PORTS {
                self.status(who, port).map(|s| (s.status, s.vcpu, s.u0, s.u1)).hash(into);
            }
            hash_queues(&guest.dom, PORTS, into);
            (guest.dead, guest.blocks, guest.expanded, guest.owed, guest.ready, guest.heads).hash(into);
        }
        self.wrong.len().hash(into);
    }

    fn broken(&mut self) -> Vec<Broken> {
        let domains: Vec<_> = self.guests.iter().map(|guest| guest.dom.clone()).collect();
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        self.wrong.extend(wrong.into_iter().map(|what| ("audit", what)));
        for who in [0, 1] {
            if self.guests[who].dead {
                continue;
            }
            if self.written_after(who) {
                self.wrong.push(("I7", format!("d{}: frames are written that were given back", who + 1)));
            }
            if self.guests[who].keeps {
                self.wind_up(who);
            }
        }
        for who in [0, 1] {
            self.destroy(who);
        }
        if self.w.hv.domains.count() != 0 {
            self.wrong.push(("I9", String::from("a domain that is never gone")));
        }
        core::mem::take(&mut self.wrong)
    }

    fn describe(spec: &Spec, step: u16) -> String {
        let (who, op) = spec.steps[usize::from(step)];
        format!("d{}: {op:?}", who + 1)
    }
}

fn of(who: usize, ops: &[Op]) -> Vec<Step> {
    ops.iter().map(|&op| (who, op)).collect()
}

/// The first guest uses the FIFO ABI: two ports that the other sends to, and an urgent one of its own.
fn deliveries() -> Spec {
    let mut before = of(1, &[Op::Unbound, Op::Unbound]);
    let started = [Op::Init(0), Op::Init(1), Op::Expand, Op::Connect(1), Op::Connect(2), Op::Ipi];
    before.extend(of(0, &started));
    before.extend(of(0, &[Op::Priority(3, 0), Op::Take(0), Op::Take(0)]));
    let mut steps = of(
        0,
        &[
            Op::Take(0),
            Op::Take(1),
            Op::Mask(1),
            Op::Unmask(1),
            Op::Priority(1, 0),
            Op::Move(1, 1),
            Op::Close(2),
            Op::Send(3),
        ],
    );
    steps.extend(of(1, &[Op::Send(1), Op::Send(2), Op::Destroy]));
    Spec { before, steps, keeps: [true, true] }
}

/// The first guest changes between the ABIs while events come in.
fn changes() -> Spec {
    let mut before = of(1, &[Op::Unbound]);
    before.extend(of(0, &[Op::Connect(1)]));
    let mut steps = of(
        0,
        &[
            Op::Init(0),
            Op::Init(1),
            Op::Expand,
            Op::Take(0),
            Op::Mask(1),
            Op::Unmask(1),
            Op::Connect(1),
            Op::Close(1),
            Op::Reset,
            Op::Destroy,
        ],
    );
    steps.extend(of(1, &[Op::Send(1), Op::Reset, Op::Unbound, Op::Destroy]));
    Spec { before, steps, keeps: [true, true] }
}

/// The first guest writes anything into its pages; the second one keeps the protocol.
fn garbage() -> Spec {
    let start = [Op::Init(0), Op::Init(1), Op::Expand];
    let mut before = of(0, &start);
    before.extend(of(1, &start));
    before.extend(of(0, &[Op::Unbound, Op::Unbound]));
    before.extend(of(1, &[Op::Connect(1), Op::Connect(2)]));
    let mut steps = of(
        0,
        &[
            Op::Word(1, LINKED | 2),
            Op::Word(1, LINKED | PENDING | LINK),
            Op::Word(2, BUSY | MASKED),
            Op::Word(2, 0),
            Op::Control(u32::MAX),
            Op::Control(0),
            Op::Send(1),
            Op::Send(2),
            Op::Unmask(1),
            Op::Priority(2, 15),
            Op::Close(1),
            Op::Reset,
            Op::Destroy,
        ],
    );
    steps.extend(of(1, &[Op::Send(1), Op::Send(2), Op::Take(0), Op::Mask(1), Op::Unmask(1)]));
    Spec { before, steps, keeps: [false, true] }
}

#[test]
fn a_guest_that_keeps_the_protocol_loses_no_event() {
    assert_holds::<Fifo>("FIFO: deliveries", deliveries(), 40_000);
}

#[test]
fn no_event_is_lost_between_the_abis() {
    assert_holds::<Fifo>("FIFO: changes", changes(), 30_000);
}

#[test]
fn what_a_guest_writes_into_its_queues_harms_nobody_else() {
    assert_holds::<Fifo>("FIFO: garbage", garbage(), 40_000);
}

#[test]
fn the_model_notices_faults_of_queues() {
    assert_caught::<Fifo>(deliveries(), Fault::TailOutlivesQueue, &["F1"]);
    assert_caught::<Fifo>(deliveries(), Fault::UnmaskForgets, &["F1"]);
    assert_caught::<Fifo>(changes(), Fault::WaitingIsLost, &["F1"]);
    assert_caught::<Fifo>(changes(), Fault::QueuesKeepFrames, &["audit", "I9"]);
}
