//! Claims about the FIFO ABI, with a guest that keeps the protocol and one that does not.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use pv_abi::errno::Errno;
use pv_abi::evtchn::{
    EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSetPriority, EvtchnUnmask,
};
use pv_abi::ids::{EvtchnPort, Mfn};

use super::word::{self, Appended, BUSY, Half, LINK, LINKED, MASKED, PENDING, WordIo};
use crate::evtchn::tests::{Answer, Test};
use crate::port::Frames;

/// The guest that the tests are about: dom0, which has two vcpus.
const DOM: usize = 0;
const SELF: u16 = pv_abi::ids::DomId::SELF.raw();

/// A domain with control blocks and one page of event words, as its kernel sees them.
struct Guest {
    t: Test,
    controls: [Mfn; 2],
    array: Mfn,
    /// Heads as the guest remembers them, by vcpu and priority.
    heads: [[u32; 16]; 2],
}

impl Test {
    fn frame(&self, dom: usize) -> Mfn {
        let hv = &self.world.hv;
        hv.frames.alloc_for(self.m(), &self.doms[dom].0.mem, 0, 0).unwrap()
    }

    fn init_control(&self, dom: usize, mfn: Mfn, offset: u32, vcpu: u32) -> Answer<u8> {
        let op = EvtchnInitControl { control_gfn: mfn.raw(), offset, vcpu, ..Default::default() };
        Ok(self.call(dom, EvtchnOp::InitControl, op)?.link_bits)
    }

    fn expand(&self, dom: usize, mfn: Mfn) -> Answer<()> {
        self.call(dom, EvtchnOp::ExpandArray, EvtchnExpandArray { array_gfn: mfn.raw() }).map(|_| ())
    }

    fn priority(&self, dom: usize, port: u32, priority: u32) -> Answer<()> {
        self.call(dom, EvtchnOp::SetPriority, EvtchnSetPriority { port, priority }).map(|_| ())
    }

    fn reset(&self, dom: usize) {
        self.call(dom, EvtchnOp::Reset, EvtchnReset { dom: SELF }).unwrap();
    }

    fn refcount(&self, mfn: Mfn) -> bool {
        self.world.hv.frames.is_held_writable(mfn, self.doms[DOM].0.id)
    }
}

impl Guest {
    fn new() -> Self {
        let t = Test::new();
        let controls = [t.frame(DOM), t.frame(DOM)];
        let array = t.frame(DOM);
        for (vcpu, mfn) in (0..).zip(controls) {
            assert_eq!(t.init_control(DOM, mfn, 64, vcpu), Ok(17));
        }
        t.expand(DOM, array).unwrap();
        Self { t, controls, array, heads: [[0; 16]; 2] }
    }

    fn half(&self, mfn: Mfn, index: usize) -> Half<'_> {
        Half::new(&self.t.m().words(mfn)[index / 2], index)
    }

    fn word(&self, port: u32) -> Half<'_> {
        self.half(self.array, usize::try_from(port).unwrap())
    }

    fn control(&self, vcpu: usize, index: usize) -> Half<'_> {
        self.half(self.controls[vcpu], 16 + index)
    }

    /// Whether the vcpu has an upcall pending; clears it.
    fn take_upcall(&self, vcpu: usize) -> bool {
        let words = self.t.m().words(self.t.doms[DOM].0.shared_info);
        words[vcpu * 8].fetch_and(!0xff, SeqCst) & 0xff != 0
    }

    /// What a kernel does in an upcall: takes everything off its queues, most urgent first.
    fn take_events(&mut self, vcpu: usize) -> Vec<u32> {
        let mut taken = vec![];
        if !self.take_upcall(vcpu) {
            return taken;
        }
        let mut ready = self.control(vcpu, 0).clear(u32::MAX);
        while ready != 0 {
            let priority = usize::try_from(ready.trailing_zeros()).unwrap();
            let mut head = self.heads[vcpu][priority];
            if head == 0 {
                head = self.control(vcpu, 2 + priority).load();
            }
            let was = self.word(head).clear(LINKED | LINK);
            if was & LINK == 0 {
                ready &= !(1 << priority);
            }
            self.heads[vcpu][priority] = was & LINK;
            if was & (PENDING | MASKED) == PENDING {
                self.word(head).clear(PENDING);
                taken.push(head);
            }
            ready |= self.control(vcpu, 0).clear(u32::MAX);
        }
        taken
    }

    fn unmask(&self, port: u32) {
        self.t.call(DOM, EvtchnOp::Unmask, EvtchnUnmask { port }).unwrap();
    }
}

#[test]
fn events_come_in_order_and_urgent_ones_first() {
    let mut g = Guest::new();
    let ports: Vec<u32> = (0..5).map(|_| g.t.ipi(DOM, 0).unwrap()).collect();
    g.t.priority(DOM, ports[3], 0).unwrap();
    g.t.priority(DOM, ports[0], 15).unwrap();
    for &port in &ports {
        g.t.send(DOM, port).unwrap();
        g.t.send(DOM, port).unwrap();
    }
    assert_eq!(g.take_events(0), [ports[3], ports[1], ports[2], ports[4], ports[0]]);
    assert_eq!(g.take_events(0), [0_u32; 0], "each event once");
    assert!(!g.t.pending(DOM, ports[0]), "the bitmap is not used");
    g.t.send(DOM, ports[1]).unwrap();
    assert_eq!(g.take_events(0), [ports[1]], "a queue that was emptied starts anew");
    g.t.audit();
}

#[test]
fn a_masked_port_waits_for_unmask() {
    let mut g = Guest::new();
    let port = g.t.ipi(DOM, 0).unwrap();
    g.word(port).set(MASKED);
    g.t.send(DOM, port).unwrap();
    assert_eq!(g.word(port).load(), PENDING | MASKED);
    assert_eq!(g.take_events(0), [0_u32; 0]);
    g.unmask(port);
    assert_eq!(g.take_events(0), [port]);
    g.unmask(port);
    assert_eq!(g.take_events(0), [0_u32; 0], "nothing was waiting");
}

#[test]
fn a_port_moves_with_its_vcpu() {
    let mut g = Guest::new();
    let far = g.t.unbound(1, SELF, 0).unwrap();
    let port = g.t.connect(DOM, 1, far).unwrap();
    assert_eq!(g.take_events(0), [port], "a fresh connection is signalled");
    g.t.send(1, far).unwrap();
    g.t.bind_vcpu(DOM, port, 1).unwrap();
    g.t.send(1, far).unwrap();
    assert_eq!(g.take_events(0), [port], "it stays in the queue that it was in");
    g.t.send(1, far).unwrap();
    assert_eq!((g.take_events(0), g.take_events(1)), (vec![], vec![port]));
    g.t.audit();
}

#[test]
fn what_was_pending_before_the_switch_arrives_after_it() {
    let t = Test::new();
    let ports = [t.ipi(DOM, 0).unwrap(), t.ipi(DOM, 0).unwrap()];
    t.send(DOM, ports[0]).unwrap();
    let (control, array) = (t.frame(DOM), t.frame(DOM));
    t.init_control(DOM, control, 64, 0).unwrap();
    t.send(DOM, ports[1]).unwrap();
    t.audit();
    assert_eq!(crate::evtchn::poll_port(t.m(), &t.doms[DOM].0, EvtchnPort::new(ports[1])), Ok(true));
    t.expand(DOM, array).unwrap();
    let mut g = Guest { t, controls: [control; 2], array, heads: [[0; 16]; 2] };
    assert_eq!(g.take_events(0), ports);
}

#[test]
fn xsa_188_wrong_calls_are_refused_and_keep_nothing() {
    let t = Test::new();
    let (frame, other) = (t.frame(DOM), t.frame(1));
    assert_eq!(t.expand(DOM, frame), Err(Errno::OpNotSupp));
    let port = t.ipi(DOM, 0).unwrap();
    assert_eq!(t.priority(DOM, port, 3), Err(Errno::NoSys));
    assert_eq!(t.priority(DOM, 64, 3), Err(Errno::Inval));
    assert_eq!(t.init_control(DOM, frame, 0, 2), Err(Errno::NoEnt));
    assert_eq!(t.init_control(DOM, frame, 4, 0), Err(Errno::Inval));
    assert_eq!(t.init_control(DOM, frame, 4096 - 64, 0), Err(Errno::Inval));
    assert_eq!(t.init_control(DOM, frame, u32::MAX - 7, 0), Err(Errno::Inval));
    assert_eq!(t.init_control(DOM, other, 0, 0), Err(Errno::Inval));
    assert_eq!(t.init_control(DOM, Mfn::new(u64::MAX), 0, 0), Err(Errno::Inval));
    assert!(!t.refcount(frame), "refused calls hold nothing");
    assert_eq!(t.init_control(DOM, frame, 4096 - 72, 0), Ok(17));
    assert_eq!(t.init_control(DOM, frame, 0, 0), Err(Errno::Inval), "one block for each vcpu");
    assert_eq!(t.priority(DOM, port, 16), Err(Errno::Inval));
    assert_eq!(t.priority(DOM, port, 15), Ok(()));
    assert_eq!(t.expand(DOM, other), Err(Errno::Inval));
    t.audit();
}

#[test]
fn the_array_ends_at_131072_ports() {
    let t = Test::new();
    let frame = t.frame(DOM);
    t.init_control(DOM, frame, 0, 0).unwrap();
    for _ in 0..128 {
        t.expand(DOM, frame).unwrap();
    }
    assert_eq!(t.expand(DOM, frame), Err(Errno::NoSpc));
    t.doms[DOM].0.events.set_limit(5000);
    let last = core::iter::from_fn(|| t.ipi(DOM, 0).ok()).last();
    assert_eq!(last, Some(5000), "past what two levels can have");
    assert_eq!(t.ipi(DOM, 0), Err(Errno::NoSpc));
    t.audit();
    t.reset(DOM);
    assert!(!t.refcount(frame));
    assert_eq!(crate::evtchn::poll_port(t.m(), &t.doms[DOM].0, EvtchnPort::new(5000)), Ok(false));
    assert_eq!(t.ipi(DOM, 0), Ok(1));
    t.audit();
}

#[test]
fn reset_goes_back_to_two_levels() {
    let g = Guest::new();
    let port = g.t.ipi(DOM, 0).unwrap();
    g.t.send(DOM, port).unwrap();
    g.t.reset(DOM);
    assert!(!g.t.refcount(g.array) && !g.t.refcount(g.controls[0]), "the guest has its frames back");
    assert_eq!(g.t.expand(DOM, g.array), Err(Errno::OpNotSupp));
    g.take_upcall(0);
    let port = g.t.ipi(DOM, 0).unwrap();
    g.t.send(DOM, port).unwrap();
    assert!(g.t.pending(DOM, port) && g.take_upcall(0));
    g.t.audit();
}

#[test]
fn an_event_of_before_the_switch_hides_none_after_a_reset() {
    let t = Test::new();
    let port = t.ipi(DOM, 0).unwrap();
    t.send(DOM, port).unwrap();
    t.init_control(DOM, t.frame(DOM), 64, 0).unwrap();
    t.reset(DOM);
    assert!(!t.pending(DOM, port), "a port that is closed is not pending");
    let info = t.world.m.words(t.doms[DOM].0.shared_info);
    info[0].fetch_and(!0xff, SeqCst);
    info[1].swap(0, SeqCst);
    let port = t.ipi(DOM, 0).unwrap();
    t.send(DOM, port).unwrap();
    assert!(info[0].load(SeqCst) & 0xff != 0, "the next user is told");
}

#[test]
fn a_closed_port_is_not_given_out_while_it_is_queued() {
    let mut g = Guest::new();
    let port = g.t.ipi(DOM, 0).unwrap();
    g.t.priority(DOM, port, 2).unwrap();
    g.t.send(DOM, port).unwrap();
    g.t.close(DOM, port).unwrap();
    let next = g.t.ipi(DOM, 0).unwrap();
    assert_ne!(next, port);
    assert_eq!(g.take_events(0), [0_u32; 0], "the event went with the port");
    assert_eq!(g.t.ipi(DOM, 0), Ok(port));
    g.t.send(DOM, port).unwrap();
    assert_eq!(g.control(0, 0).load(), 1 << 7, "the next user starts with the default priority");
}

#[test]
fn xsa_107_an_event_for_a_vcpu_without_control_block_is_not_queued() {
    let t = Test::new();
    let (control, array) = (t.frame(DOM), t.frame(DOM));
    t.init_control(DOM, control, 64, 0).unwrap();
    t.expand(DOM, array).unwrap();
    let port = t.ipi(DOM, 1).unwrap();
    t.send(DOM, port).unwrap();
    let g = Guest { t, controls: [control; 2], array, heads: [[0; 16]; 2] };
    assert_eq!(g.word(port).load(), PENDING);
    g.t.audit();
}

/// The switch, the growth and the end of the queues meet each other and events from other domains: nobody writes into a
/// frame that was given back, and nothing is held afterwards.
#[test]
fn xsa_505_and_358_and_359_expand_reset_and_events_at_once() {
    let t = Test::new();
    let frames = [t.frame(DOM), t.frame(DOM), t.frame(DOM)];
    let far = t.unbound(1, SELF, 0).unwrap();
    let (hv, m) = (&t.world.hv, t.m());
    let (dom, other) = (&t.doms[DOM].0, &t.doms[1].0);
    let init = |vcpu| {
        let mut op = EvtchnInitControl {
            control_gfn: frames[0].raw(),
            offset: vcpu * 128,
            vcpu,
            ..Default::default()
        };
        let _whatever = super::init_control(hv, m, dom, &mut op);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..1500_u32 {
                init(round % 2);
                let _whatever = super::expand_array(hv, m, dom, frames[1].raw());
            }
        });
        scope.spawn(|| {
            for round in 0..1500_u32 {
                let _whatever = super::expand_array(hv, m, dom, frames[2].raw());
                let _whatever = super::set_priority(dom, EvtchnPort::new(round % 8), round % 16);
                if round % 8 == 0 {
                    let _done = crate::evtchn::reset(hv, m, dom);
                }
            }
        });
        scope.spawn(|| {
            for round in 0..3000_u32 {
                let port = EvtchnPort::new(far);
                let _whatever = crate::evtchn::bind_interdomain(hv, m, dom, other, port);
                let _whatever = crate::evtchn::send(hv, m, other, port);
                let _whatever = crate::evtchn::bind_ipi(m, dom, pv_abi::ids::VcpuId::new(round % 2));
                let _whatever = crate::evtchn::unmask(hv, m, dom, EvtchnPort::new(round % 8));
            }
        });
    });
    t.audit();
    t.reset(DOM);
    t.audit();
    assert!(frames.iter().all(|&frame| !t.refcount(frame)));
    for frame in frames {
        m.zero(frame);
    }
    let _whatever = crate::evtchn::send(hv, m, other, EvtchnPort::new(far));
    assert!(
        frames.iter().all(|&frame| m.words(frame).iter().all(|w| w.load(SeqCst) == 0)),
        "written after reset"
    );
}

/// Changes itself whenever it is looked at.
struct Restless(AtomicU32, AtomicU32);

impl WordIo for Restless {
    fn load(&self) -> u32 {
        self.1.fetch_add(1, SeqCst);
        self.0.fetch_xor(1, SeqCst)
    }
    fn store(&self, value: u32) {
        self.0.store(value, SeqCst);
    }
    fn set(&self, bits: u32) -> u32 {
        self.0.fetch_or(bits, SeqCst)
    }
    fn clear(&self, bits: u32) -> u32 {
        self.0.fetch_and(!bits, SeqCst)
    }
    fn exchange(&self, _old: u32, _new: u32) -> Result<(), u32> {
        Err(self.load())
    }
}

#[test]
fn a_tail_that_never_stands_still_is_given_up_on() {
    let word = Restless(AtomicU32::new(LINKED), AtomicU32::new(0));
    assert_eq!(word::append(&word, 5), Appended::QueueIsEmpty);
    assert!(word.1.load(SeqCst) < 16);
    assert_eq!(word.0.load(SeqCst) & BUSY, 0);
}

/// What a test does next.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Mask(usize),
    Unmask(usize),
    Priority(usize, u32),
    Move(usize, u32),
    Take(usize),
    /// A guest that keeps no protocol: any word of its pages, any value.
    Garbage(usize, usize, u32),
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let port = || 0_usize..8;
    prop_oneof![
        6 => port().prop_map(Step::Send),
        1 => port().prop_map(Step::Mask),
        2 => port().prop_map(Step::Unmask),
        1 => (port(), 0_u32..16).prop_map(|(p, n)| Step::Priority(p, n)),
        1 => (port(), 0_u32..2).prop_map(|(p, v)| Step::Move(p, v)),
        2 => (0_usize..2).prop_map(Step::Take),
    ]
}

fn hostile_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => step(),
        1 => (0_usize..3, 0_usize..1024, any::<u32>()).prop_map(|(f, w, v)| Step::Garbage(f, w, v)),
        1 => (0_usize..3, 0_usize..20, (0_u32..16, 0_u32..12)).prop_map(|(f, w, (bits, link))| {
            Step::Garbage(f, w, bits << 28 | link)
        }),
        1 => (0_usize..8).prop_map(Step::Reopen),
    ]
}

/// Eight ports of the guest, that domain 1 sends to.
fn eight_ports(g: &mut Guest) -> Vec<(u32, u32)> {
    let ports = (0..8).map(|_| {
        let far = g.t.unbound(1, SELF, 0).unwrap();
        (g.t.connect(DOM, 1, far).unwrap(), far)
    });
    let ports = ports.collect();
    g.take_events(0);
    ports
}

fn run(g: &mut Guest, ports: &mut [(u32, u32)], step: &Step) -> Vec<u32> {
    match *step {
        Step::Send(n) => g.t.send(1, ports[n].1).unwrap(),
        Step::Mask(n) => {
            g.word(ports[n].0).set(MASKED);
        }
        Step::Unmask(n) => g.unmask(ports[n].0),
        Step::Priority(n, priority) => g.t.priority(DOM, ports[n].0, priority).unwrap(),
        Step::Move(n, vcpu) => g.t.bind_vcpu(DOM, ports[n].0, vcpu).unwrap(),
        Step::Take(vcpu) => return g.take_events(vcpu),
        Step::Garbage(frame, index, value) => {
            let mfn = [g.array, g.controls[0], g.controls[1]][frame];
            g.half(mfn, index).store(value);
        }
        Step::Reopen(n) => {
            g.t.close(DOM, ports[n].0).unwrap();
            // With its free ports marked as queued the guest may get none any more: its own affair.
            if let Ok(port) = g.t.connect(DOM, 1, ports[n].1) {
                ports[n].0 = port;
            } else {
                ports[n] = eight_ports_again(g);
            }
        }
    }
    vec![]
}

fn eight_ports_again(g: &Guest) -> (u32, u32) {
    for index in 0..1024 {
        g.half(g.array, index).clear(LINKED);
    }
    let far = g.t.unbound(1, SELF, 0).unwrap();
    (g.t.connect(DOM, 1, far).unwrap(), far)
}

#[test]
fn free_ports_that_the_guest_calls_queued_are_not_all_looked_at() {
    let g = Guest::new();
    let ports: Vec<u32> = (0..600).map(|_| g.t.ipi(DOM, 0).unwrap()).collect();
    for &port in &ports {
        g.t.close(DOM, port).unwrap();
        g.word(port).set(LINKED);
    }
    let next = g.t.ipi(DOM, 0).unwrap();
    assert!(next > ports[599], "a busy port was given out: {next}");
    // Port 300 is not busy, but behind more busy ones than are looked at: a new group serves instead.
    g.word(300).clear(LINKED);
    let groups: Vec<u32> = (0..64).map(|_| g.t.ipi(DOM, 0).unwrap()).collect();
    assert!(groups.iter().all(|&port| port > next), "{groups:?}");
    g.word(7).clear(LINKED);
    assert_eq!(g.t.ipi(DOM, 0), Ok(7), "the lowest, as ever, where it is near");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each event arrives once on some vcpu, and none is lost, whatever moves in between.
    #[test]
    fn no_event_is_lost_or_invented(steps in prop::collection::vec(step(), 1..120)) {
        let mut g = Guest::new();
        let mut ports = eight_ports(&mut g);
        let mut owed: Vec<bool> = vec![false; 8];
        let mut got = VecDeque::new();
        for step in &steps {
            if let Step::Send(n) = step {
                owed[*n] = true;
            }
            got.extend(run(&mut g, &mut ports, step));
            for port in got.drain(..) {
                let n = ports.iter().position(|p| p.0 == port).unwrap();
                prop_assert!(core::mem::take(&mut owed[n]), "an event that nobody sent");
            }
        }
        for &(port, _) in &ports {
            g.unmask(port);
        }
        for vcpu in [0, 1] {
            for port in g.take_events(vcpu) {
                let n = ports.iter().position(|p| p.0 == port).unwrap();
                prop_assert!(core::mem::take(&mut owed[n]));
            }
        }
        prop_assert_eq!(owed, vec![false; 8], "an event was lost");
        g.t.audit();
    }

    /// Garbage in the pages harms nobody else: the other domain's events arrive, and the tables agree.
    #[test]
    fn garbage_in_the_pages_harms_nobody_else(steps in prop::collection::vec(hostile_step(), 1..120)) {
        let mut g = Guest::new();
        let mut ports = eight_ports(&mut g);
        for step in &steps {
            // A kernel that reads its own garbage may walk in circles: it is not asked to.
            if matches!(step, Step::Take(_)) {
                continue;
            }
            run(&mut g, &mut ports, step);
        }
        g.t.audit();
        let there = g.t.unbound(2, SELF, 0).unwrap();
        let here = g.t.connect(DOM, 2, there);
        if let Ok(here) = here {
            g.t.drain(2);
            g.t.send(DOM, here).unwrap();
            prop_assert!(g.t.pending(2, there));
        }
        g.t.reset(DOM);
        prop_assert!(!g.t.refcount(g.array));
        g.t.audit();
    }
}

proptest! {
    /// A half changes alone.
    #[test]
    fn halves_do_not_touch_each_other(whole: u64, index in 0_usize..2, value: u32, bits: u32) {
        let word = core::sync::atomic::AtomicU64::new(whole);
        let (half, other) = (Half::new(&word, index), Half::new(&word, index ^ 1));
        let theirs = other.load();
        let mine = half.load();
        prop_assert_eq!(half.set(bits), mine);
        prop_assert_eq!(half.clear(bits), mine | bits);
        prop_assert_eq!(half.exchange(mine & !bits, value), Ok(()));
        prop_assert_eq!(half.load(), value);
        half.store(bits);
        prop_assert_eq!((half.load(), other.load()), (bits, theirs));
    }
}
