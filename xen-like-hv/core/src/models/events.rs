//! Event channels, two-level: two domains connect, notify, mask, close, reset and die in every order.
//!
//! The guest's side is made of the steps that a kernel makes: it masks a port with its own instruction, unmasks it by the
//! hypercall, and drains: upcall, selector, then the ports that are not masked. What races between a sender and a guest
//! that drains instruction by instruction is for the exploration of atomic steps (`tests/races`).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVirq, EvtchnClose, EvtchnOp,
    EvtchnReset, EvtchnSend, EvtchnStat, EvtchnStatus, EvtchnUnmask,
};
use pv_abi::ids::DomId;
use pv_abi::shared_info::{SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING, VCPU_INFO_PENDING_SEL};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Broken, Pages, Scene, assert_caught, assert_holds, snapshot_frames};
use crate::UserRegs;
use crate::access::Privilege;
use crate::audit::audit;
use crate::cx::Cx;
use crate::domain::{Domain, teardown};
use crate::error::{Args, Exit};
use crate::evtchn::event_channel_op;
use crate::fake::FakeWorld;
use crate::hypercall::GuestPtr;
use crate::port::Frames;
use crate::seeded::Fault;
use crate::vcpu::Vcpu;

/// Ports 1 to this.
const PORTS: u32 = 3;
const ARG: u64 = 0x1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    /// A port to which the other may connect.
    Unbound,
    /// Connects to a port of the other.
    Connect(u32),
    Ipi,
    Timer,
    Send(u32),
    Close(u32),
    Mask(u32),
    Unmask(u32),
    Drain,
    Reset,
    Destroy,
}

struct Events {
    w: FakeWorld,
    pages: Pages,
    steps: Vec<(usize, Op)>,
    guests: [(Arc<Domain>, Arc<Vcpu>); 2],
    dead: [bool; 2],
    /// Whether there was anything to notify of since the last drain.
    reason: [bool; 2],
    /// What a step did that it should not.
    lost: Option<String>,
}

impl Events {
    fn call<T: FromBytes + IntoBytes + Immutable>(&self, who: usize, op: EvtchnOp, arg: &T) -> Option<T> {
        let ptr = GuestPtr::<T>::new(ARG).unwrap();
        ptr.write(&self.w.m, arg).unwrap();
        let (dom, vcpu) = &self.guests[who];
        let mut regs = UserRegs::default();
        let mut cx = Cx::new(&self.w.hv, &self.w.m, dom, vcpu, &mut regs);
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

    fn word(&self, who: usize, byte: usize) -> &core::sync::atomic::AtomicU64 {
        &self.w.m.words(self.guests[who].0.shared_info)[byte / 8]
    }

    fn bit(&self, who: usize, byte: usize, port: u32) -> bool {
        self.word(who, byte).load(SeqCst) >> port & 1 != 0
    }

    fn pending(&self, who: usize, port: u32) -> bool {
        self.bit(who, SHARED_INFO_EVTCHN_PENDING, port)
    }

    fn masked(&self, who: usize, port: u32) -> bool {
        self.bit(who, SHARED_INFO_EVTCHN_MASK, port)
    }

    fn notified(&self, who: usize) -> bool {
        self.word(who, 0).load(SeqCst) & 0xff != 0
    }

    /// What a kernel does in its upcall.
    fn drain(&mut self, who: usize) {
        self.word(who, 0).fetch_and(!0xff, SeqCst);
        self.word(who, VCPU_INFO_PENDING_SEL).swap(0, SeqCst);
        let mask = self.word(who, SHARED_INFO_EVTCHN_MASK).load(SeqCst);
        self.word(who, SHARED_INFO_EVTCHN_PENDING).fetch_and(mask, SeqCst);
        self.reason[who] = false;
    }

    fn send(&mut self, who: usize, port: u32) {
        let before = self.status(who, port);
        if self.call(who, EvtchnOp::Send, &EvtchnSend { port }).is_none() {
            return;
        }
        let Some(s) = before else { return };
        let target = match EvtchnStat::from_raw(s.status) {
            Some(EvtchnStat::Interdomain) => (usize::try_from(s.u0).unwrap() - 1, s.u1),
            Some(EvtchnStat::Ipi) => (who, port),
            _ => return,
        };
        if !self.pending(target.0, target.1) {
            self.lost = Some(format!("what d{} sent by port {port} is not pending", who + 1));
        }
    }

    fn other(who: usize) -> u16 {
        if who == 0 { 2 } else { 1 }
    }
}

impl Scene for Events {
    type Spec = Vec<(usize, Op)>;
    const RULES: &'static [&'static str] = &["audit", "E1", "E2", "E3", "E4", "I9"];

    fn new(spec: &Self::Spec) -> Self {
        let pages = Pages::new(3);
        let w = FakeWorld::over(pages.table());
        w.m.map_guest_page(ARG);
        let guests = [1, 2].map(|id| w.add_domain(DomId::new(id), Privilege::Unprivileged, 0));
        guests.iter().for_each(|(dom, _)| dom.events.set_limit(PORTS));
        Self { w, pages, steps: spec.clone(), guests, dead: [false; 2], reason: [false; 2], lost: None }
    }

    fn steps(spec: &Self::Spec) -> u16 {
        u16::try_from(spec.len()).unwrap()
    }

    fn enabled(&self, step: u16) -> bool {
        let (who, _) = self.steps[usize::from(step)];
        !self.dead[who]
    }

    fn make(&mut self, step: u16) {
        let (who, op) = self.steps[usize::from(step)];
        let dom = DomId::SELF.raw();
        let remote_dom = Self::other(who);
        match op {
            Op::Unbound => {
                let arg = EvtchnAllocUnbound { dom, remote_dom, port: 0 };
                let _ = self.call(who, EvtchnOp::AllocUnbound, &arg);
            }
            Op::Connect(remote_port) => {
                let arg = EvtchnBindInterdomain { remote_dom, remote_port, ..Default::default() };
                let _ = self.call(who, EvtchnOp::BindInterdomain, &arg);
            }
            Op::Ipi => drop(self.call(who, EvtchnOp::BindIpi, &EvtchnBindIpi::default())),
            Op::Timer => drop(self.call(who, EvtchnOp::BindVirq, &EvtchnBindVirq::default())),
            Op::Send(port) => self.send(who, port),
            Op::Close(port) => drop(self.call(who, EvtchnOp::Close, &EvtchnClose { port })),
            Op::Mask(port) => drop(self.word(who, SHARED_INFO_EVTCHN_MASK).fetch_or(1 << port, SeqCst)),
            Op::Unmask(port) => drop(self.call(who, EvtchnOp::Unmask, &EvtchnUnmask { port })),
            Op::Drain => self.drain(who),
            Op::Reset => drop(self.call(who, EvtchnOp::Reset, &EvtchnReset { dom })),
            Op::Destroy => {
                let dom = self.guests[who].0.clone();
                self.dead[who] = teardown::destroy(&self.w.hv, &self.w.m, &dom).is_ok();
            }
        }
        for who in [0, 1] {
            self.reason[who] |= (1..=PORTS).any(|p| self.pending(who, p) && !self.masked(who, p));
        }
    }

    fn snapshot(&self, into: &mut impl Hasher) {
        snapshot_frames(&self.w, &self.pages, into);
        for who in [0, 1] {
            for port in 1..=PORTS {
                self.status(who, port).map(|s| (s.status, s.vcpu, s.u0, s.u1)).hash(into);
            }
        }
        (self.dead, self.reason, &self.lost).hash(into);
    }

    fn broken(&mut self) -> Vec<Broken> {
        let domains: Vec<_> = self.guests.iter().map(|(dom, _)| dom.clone()).collect();
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        let mut broken: Vec<Broken> = wrong.into_iter().map(|what| ("audit", what)).collect();
        broken.extend(self.lost.take().map(|what| ("E4", what)));
        for who in (0..2).filter(|&who| !self.dead[who]) {
            let selected = self.word(who, VCPU_INFO_PENDING_SEL).load(SeqCst) & 1 != 0;
            for port in 1..=PORTS {
                let (pending, masked) = (self.pending(who, port), self.masked(who, port));
                if pending && !masked && !(selected && self.notified(who)) {
                    broken.push(("E1", format!("d{} port {port} is pending, nobody is told", who + 1)));
                }
                let free = self.status(who, port).is_some_and(|s| s.status == EvtchnStat::Closed.raw());
                if free && pending {
                    broken.push(("E3", format!("d{} port {port} is free and pending", who + 1)));
                }
            }
            if self.notified(who) && !self.reason[who] {
                broken.push(("E2", format!("d{} is told of nothing", who + 1)));
            }
        }
        for who in [0, 1] {
            let dom = self.guests[who].0.clone();
            let _ = teardown::destroy(&self.w.hv, &self.w.m, &dom);
        }
        if self.w.hv.domains.count() != 0 {
            broken.push(("I9", String::from("a domain that is never gone")));
        }
        broken
    }

    fn describe(spec: &Self::Spec, step: u16) -> String {
        let (who, op) = spec[usize::from(step)];
        format!("d{}: {op:?}", who + 1)
    }
}

fn each(ops: &[Op]) -> Vec<(usize, Op)> {
    [0, 1].iter().flat_map(|&who| ops.iter().map(move |&op| (who, op))).collect()
}

fn connections() -> Vec<(usize, Op)> {
    let mut ops = alloc::vec![Op::Unbound, Op::Ipi, Op::Timer, Op::Reset, Op::Destroy];
    for port in 1..=2 {
        ops.extend([Op::Connect(port), Op::Close(port)]);
    }
    each(&ops)
}

fn deliveries() -> Vec<(usize, Op)> {
    let mut ops = alloc::vec![Op::Unbound, Op::Connect(1), Op::Drain];
    for port in 1..=2 {
        ops.extend([Op::Send(port), Op::Close(port), Op::Mask(port), Op::Unmask(port)]);
    }
    each(&ops)
}

#[test]
fn two_domains_connect_and_part_in_every_order() {
    assert_holds::<Events>("events: connections", connections(), 60_000);
}

#[test]
fn every_event_is_told_and_no_other() {
    assert_holds::<Events>("events: deliveries", deliveries(), 60_000);
}

#[test]
fn the_model_notices_faults_of_events() {
    assert_caught::<Events>(connections(), Fault::CloseLeavesPeer, &["audit", "I9"]);
    assert_caught::<Events>(deliveries(), Fault::CloseKeepsPending, &["E2", "E3"]);
    assert_caught::<Events>(deliveries(), Fault::IgnoresMask, &["E2"]);
    assert_caught::<Events>(deliveries(), Fault::NoSelector, &["E1"]);
}
