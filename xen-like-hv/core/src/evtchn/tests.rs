//! Claims about event channels, on a fake machine.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use pv_abi::errno::Errno;
use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq,
    EvtchnClose, EvtchnOp, EvtchnReset, EvtchnSend, EvtchnStat, EvtchnStatus, EvtchnUnmask, VirqKind,
};
use pv_abi::ids::{DomId, EvtchnPort};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{audit, destroy, event_channel_op, pirq, send_global_virq, send_virq};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit};
use crate::fake::{FakeMachine, FakeWorld};
use crate::hypercall::GuestPtr;
use crate::port::{Frames, GsiConfig};
use crate::regs::UserRegs;
use crate::seeded;
use crate::vcpu::Vcpu;

/// Where the tests put arguments.
const ARG: u64 = 0x1000;
const SELF: u16 = DomId::SELF.raw();

/// dom0 with two vcpus, and two guests with one.
pub(super) struct Test {
    pub(super) world: FakeWorld,
    pub(super) doms: Vec<(Arc<Domain>, Arc<Vcpu>)>,
}

pub(super) type Answer<T> = Result<T, Errno>;

impl Test {
    pub(super) fn new() -> Self {
        let world = FakeWorld::new(64);
        world.m.map_guest_page(ARG);
        let doms: Vec<_> =
            [(0, Privilege::Control), (1, Privilege::Unprivileged), (2, Privilege::Unprivileged)]
                .map(|(id, privilege)| world.add_domain(DomId::new(id), privilege, 8))
                .into();
        let second = doms[0].0.add_vcpu();
        second.events.set_info(doms[0].0.shared_info, 64);
        Self { world, doms }
    }

    pub(super) fn m(&self) -> &FakeMachine {
        &self.world.m
    }

    pub(super) fn raw<T: FromBytes + IntoBytes + Immutable>(
        &self,
        dom: usize,
        op: EvtchnOp,
        arg: &T,
    ) -> (Result<u64, Exit>, T) {
        let ptr = GuestPtr::<T>::new(ARG).unwrap();
        ptr.write(self.m(), arg).unwrap();
        let (d, v) = &self.doms[dom];
        let mut regs = UserRegs::default();
        let mut cx = Cx::new(&self.world.hv, self.m(), d, v, &mut regs);
        let result = event_channel_op(&mut cx, &Args([u64::from(op.raw()), ARG, 0, 0, 0, 0]));
        (result, ptr.read(self.m()).unwrap())
    }

    pub(super) fn call<T: FromBytes + IntoBytes + Immutable>(
        &self,
        dom: usize,
        op: EvtchnOp,
        arg: T,
    ) -> Answer<T> {
        match self.raw(dom, op, &arg) {
            (Ok(0), answer) => Ok(answer),
            (Err(Exit::Err(e)), _) => Err(e),
            (other, _) => panic!("{other:?}"),
        }
    }

    pub(super) fn unbound(&self, dom: usize, of: u16, remote_dom: u16) -> Answer<u32> {
        let arg = EvtchnAllocUnbound { dom: of, remote_dom, port: 0 };
        Ok(self.call(dom, EvtchnOp::AllocUnbound, arg)?.port)
    }

    pub(super) fn connect(&self, dom: usize, remote_dom: u16, remote_port: u32) -> Answer<u32> {
        let arg = EvtchnBindInterdomain { remote_dom, remote_port, ..Default::default() };
        Ok(self.call(dom, EvtchnOp::BindInterdomain, arg)?.local_port)
    }

    pub(super) fn virq(&self, dom: usize, virq: u32, vcpu: u32) -> Answer<u32> {
        Ok(self.call(dom, EvtchnOp::BindVirq, EvtchnBindVirq { virq, vcpu, port: 0 })?.port)
    }

    pub(super) fn ipi(&self, dom: usize, vcpu: u32) -> Answer<u32> {
        Ok(self.call(dom, EvtchnOp::BindIpi, EvtchnBindIpi { vcpu, port: 0 })?.port)
    }

    pub(super) fn send(&self, dom: usize, port: u32) -> Answer<()> {
        self.call(dom, EvtchnOp::Send, EvtchnSend { port }).map(|_| ())
    }

    pub(super) fn close(&self, dom: usize, port: u32) -> Answer<()> {
        self.call(dom, EvtchnOp::Close, EvtchnClose { port }).map(|_| ())
    }

    pub(super) fn bind_vcpu(&self, dom: usize, port: u32, vcpu: u32) -> Answer<()> {
        self.call(dom, EvtchnOp::BindVcpu, EvtchnBindVcpu { port, vcpu }).map(|_| ())
    }

    pub(super) fn status(&self, dom: usize, of: u16, port: u32) -> Answer<EvtchnStatus> {
        self.call(dom, EvtchnOp::Status, EvtchnStatus { dom: of, port, ..Default::default() })
    }

    pub(super) fn state(&self, dom: usize, port: u32) -> EvtchnStat {
        EvtchnStat::from_raw(self.status(dom, SELF, port).unwrap().status).unwrap()
    }

    pub(super) fn word(&self, dom: usize, byte: usize) -> u64 {
        self.m().words(self.doms[dom].0.shared_info)[byte / 8].load(SeqCst)
    }

    pub(super) fn pending(&self, dom: usize, port: u32) -> bool {
        self.word(dom, 0x800 + usize::try_from(port / 64).unwrap() * 8) >> (port % 64) & 1 != 0
    }

    pub(super) fn set_mask(&self, dom: usize, port: u32) {
        let word = (0xa00 / 8) + usize::try_from(port / 64).unwrap();
        self.m().words(self.doms[dom].0.shared_info)[word].fetch_or(1 << (port % 64), SeqCst);
    }

    pub(super) fn masked(&self, dom: usize, port: u32) -> bool {
        let word = (0xa00 / 8) + usize::try_from(port / 64).unwrap();
        self.word(dom, word * 8) >> (port % 64) & 1 != 0
    }

    /// `(upcall pending, selector)` of a vcpu in the shared page.
    pub(super) fn vcpu_info(&self, dom: usize, vcpu: usize) -> (bool, u64) {
        (self.word(dom, vcpu * 64) & 0xff != 0, self.word(dom, vcpu * 64 + 8))
    }

    /// The guest takes its events: everything pending is cleared.
    pub(super) fn drain(&self, dom: usize) {
        let words = self.m().words(self.doms[dom].0.shared_info);
        for word in &words[..0xa00 / 8] {
            word.store(0, SeqCst);
        }
    }

    pub(super) fn audit(&self) {
        let doms: Vec<_> = self.doms.iter().map(|(d, _)| d.clone()).collect();
        let wrong = audit(&self.world.hv, &doms);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn two_domains_meet_and_part() {
    let t = Test::new();
    let port = t.unbound(1, SELF, 2).unwrap();
    assert_eq!(port, 1, "the lowest port but the reserved one");
    assert_eq!((t.state(1, port), t.status(1, SELF, port).unwrap().u0), (EvtchnStat::Unbound, 2));
    assert_eq!(t.send(1, port), Ok(()), "nobody is there, nobody minds");
    let theirs = t.connect(2, 1, port).unwrap();
    assert!(t.pending(2, theirs), "what was sent before must not be lost");
    let status = t.status(1, SELF, port).unwrap();
    assert_eq!((status.status, status.u0, status.u1), (EvtchnStat::Interdomain.raw(), 2, theirs));
    t.drain(2);
    t.send(1, port).unwrap();
    assert!(t.pending(2, theirs) && !t.pending(1, port));
    assert_eq!(t.vcpu_info(2, 0), (true, 1));
    t.send(2, theirs).unwrap();
    assert!(t.pending(1, port));
    t.audit();
    t.close(2, theirs).unwrap();
    assert_eq!(t.state(1, port), EvtchnStat::Unbound);
    assert!(!t.pending(2, theirs), "a closed port is not pending");
    assert_eq!(t.connect(2, 1, port), Ok(theirs), "who left may come back");
    t.close(1, port).unwrap();
    assert_eq!(t.state(2, theirs), EvtchnStat::Unbound);
    assert_eq!(t.state(1, port), EvtchnStat::Closed);
    t.audit();
}

#[test]
fn only_the_named_domain_connects() {
    let t = Test::new();
    let port = t.unbound(0, SELF, 1).unwrap();
    assert_eq!(t.connect(2, 0, port), Err(Errno::Inval));
    assert_eq!(t.connect(1, 0, 0), Err(Errno::Inval));
    assert_eq!(t.connect(1, 0, 63), Err(Errno::Inval));
    assert_eq!(t.connect(1, 0, 64), Err(Errno::Inval));
    assert_eq!(t.connect(1, 0, u32::MAX), Err(Errno::Inval));
    assert_eq!(t.connect(1, 9, port), Err(Errno::Srch));
    let mine = t.connect(1, 0, port).unwrap();
    assert_eq!(t.connect(1, 0, port), Err(Errno::Inval), "taken");
    assert_eq!(mine, 1, "what failed used no port up");
    t.audit();
}

#[test]
fn only_a_control_domain_acts_for_others() {
    let t = Test::new();
    assert_eq!(t.unbound(1, 2, 1), Err(Errno::Perm));
    assert_eq!(t.unbound(1, 7, 1), Err(Errno::Srch));
    let port = t.unbound(0, 1, SELF).unwrap();
    assert_eq!(t.status(0, 1, port).unwrap().u0, 0, "self is the caller");
    assert_eq!(t.status(1, 2, 0), Err(Errno::Perm));
    assert_eq!(t.call(1, EvtchnOp::Reset, EvtchnReset { dom: 2 }), Err(Errno::Perm));
    assert_eq!(t.call(0, EvtchnOp::Reset, EvtchnReset { dom: 1 }), Err(Errno::Inval), "it is not paused");
    t.doms[1].0.slow.lock().controller_pauses = 1;
    assert!(t.call(0, EvtchnOp::Reset, EvtchnReset { dom: 1 }).is_ok());
    assert_eq!(t.state(1, port), EvtchnStat::Closed);
}

#[test]
fn a_loop_to_oneself_works() {
    let t = Test::new();
    let a = t.unbound(1, SELF, SELF).unwrap();
    let b = t.connect(1, SELF, a).unwrap();
    t.drain(1);
    t.send(1, a).unwrap();
    assert!(t.pending(1, b) && !t.pending(1, a));
    t.bind_vcpu(1, b, 0).unwrap();
    t.audit();
    t.close(1, a).unwrap();
    assert_eq!(t.state(1, b), EvtchnStat::Unbound);
    t.audit();
}

#[test]
fn delivery_stops_where_somebody_else_goes_on() {
    let t = Test::new();
    let port = t.ipi(0, 1).unwrap();
    t.set_mask(0, port);
    t.send(0, port).unwrap();
    assert!(t.pending(0, port), "a masked port is pending all the same");
    assert_eq!(t.vcpu_info(0, 1), (false, 0));
    t.call(0, EvtchnOp::Unmask, EvtchnUnmask { port }).unwrap();
    assert_eq!(t.vcpu_info(0, 1), (true, 1), "unmasking delivers, to the port's vcpu");
    assert_eq!(t.vcpu_info(0, 0), (false, 0));
    // The guest has taken the upcall but not looked at the port yet: nothing more is told.
    t.m().words(t.doms[0].0.shared_info)[8].store(0, SeqCst);
    t.send(0, port).unwrap();
    assert_eq!(t.vcpu_info(0, 1), (false, 1));
}

#[test]
fn a_moved_port_notifies_its_new_vcpu() {
    let t = Test::new();
    let theirs = t.unbound(0, SELF, 1).unwrap();
    let mine = t.connect(1, 0, theirs).unwrap();
    t.bind_vcpu(0, theirs, 1).unwrap();
    t.audit();
    t.send(1, mine).unwrap();
    assert_eq!((t.vcpu_info(0, 0).0, t.vcpu_info(0, 1).0), (false, true));
    assert_eq!(t.bind_vcpu(0, theirs, 2), Err(Errno::NoEnt));
    assert_eq!(t.bind_vcpu(0, 5000, 1), Err(Errno::Inval));
    let ipi = t.ipi(0, 0).unwrap();
    assert_eq!(t.bind_vcpu(0, ipi, 1), Err(Errno::Inval), "an ipi stays");
    let timer = t.virq(0, 0, 0).unwrap();
    assert_eq!(t.bind_vcpu(0, timer, 1), Err(Errno::Inval), "a vcpu's own line stays");
    let console = t.virq(0, 2, 0).unwrap();
    assert_eq!(t.bind_vcpu(0, console, 1), Ok(()), "a global line moves");
    t.audit();
    t.close(0, console).unwrap();
    t.audit();
    assert_eq!(t.virq(0, 2, 0), Ok(console));
}

#[test]
fn virtual_lines_are_bound_once_and_raised() {
    let t = Test::new();
    assert_eq!(t.virq(0, 24, 0), Err(Errno::Inval));
    assert_eq!(t.virq(0, u32::MAX, 0), Err(Errno::Inval));
    assert_eq!(t.virq(0, 3, 1), Err(Errno::Inval), "a global line belongs to vcpu 0");
    assert_eq!(t.virq(0, 0, 2), Err(Errno::NoEnt));
    let (a, b) = (t.virq(0, 0, 0).unwrap(), t.virq(0, 0, 1).unwrap());
    assert_eq!(t.virq(0, 0, 1), Err(Errno::Exist));
    assert_eq!(t.send(0, a), Err(Errno::Inval), "only the hypervisor raises a line");
    let second = t.doms[0].0.vcpu(pv_abi::ids::VcpuId::new(1)).unwrap();
    send_virq(&t.world.hv, t.m(), &second, VirqKind::Timer);
    assert_eq!((t.pending(0, a), t.pending(0, b)), (false, true));
    send_global_virq(&t.world.hv, t.m(), VirqKind::DomExc);
    let exc = t.virq(0, 3, 0).unwrap();
    assert!(!t.pending(0, exc), "nobody had bound it");
    send_global_virq(&t.world.hv, t.m(), VirqKind::DomExc);
    assert!(t.pending(0, exc));
    let guest = t.virq(1, 3, 0).unwrap();
    t.world.hv.virqs.set_handler(VirqKind::DomExc.virq(), DomId::new(1)).unwrap();
    assert_eq!(t.world.hv.virqs.set_handler(VirqKind::Timer.virq(), DomId::new(1)), Err(Errno::Inval));
    send_global_virq(&t.world.hv, t.m(), VirqKind::DomExc);
    assert!(t.pending(1, guest));
    t.audit();
}

#[test]
fn ports_end_where_the_abi_or_the_creator_says() {
    let t = Test::new();
    t.doms[1].0.events.set_limit(100);
    let got = (0..200).map_while(|_| t.ipi(1, 0).ok()).count();
    assert_eq!(got, 100);
    assert_eq!(t.ipi(1, 0), Err(Errno::NoSpc));
    let all = (0..5000).map_while(|_| t.ipi(2, 0).ok()).last();
    assert_eq!(all, Some(4095), "two-level ports end at 4096");
    assert_eq!(t.ipi(2, 0), Err(Errno::NoSpc));
    t.close(2, 77).unwrap();
    assert_eq!(t.ipi(2, 0), Ok(77));
    t.audit();
}

#[test]
fn ports_do_not_come_out_of_the_last_memory() {
    let t = Test::new();
    let got = (0..63).filter(|_| t.ipi(1, 0).is_ok()).count();
    seeded::fail_allocation(Some(0));
    assert_eq!((got, t.ipi(1, 0)), (63, Err(Errno::NoMem)));
    assert_eq!(t.ipi(1, 0), Ok(64), "and again when there is some");
    t.audit();
}

#[test]
fn nonsense_gets_its_errno() {
    let t = Test::new();
    let zeros = |op| t.call(1, op, [0_u64; 3]);
    assert_eq!(zeros(EvtchnOp::InitControl), Err(Errno::Inval));
    assert_eq!(zeros(EvtchnOp::ExpandArray), Err(Errno::OpNotSupp));
    assert_eq!(zeros(EvtchnOp::SetPriority), Err(Errno::NoSys));
    assert_eq!(t.close(1, 0), Err(Errno::Inval));
    t.ipi(1, 0).unwrap();
    for port in [0, 2, 63, 64, 4096, u32::MAX] {
        assert_eq!(t.close(1, port), Err(Errno::Inval));
        assert_eq!(t.send(1, port), Err(Errno::Inval));
    }
    let unmask = |port| t.call(1, EvtchnOp::Unmask, EvtchnUnmask { port }).map(|_| ());
    assert_eq!((unmask(0), unmask(63)), (Ok(()), Ok(())), "as on Xen: valid, nothing to do");
    assert_eq!(unmask(64), Err(Errno::Inval));
    assert_eq!(t.status(1, SELF, 64), Err(Errno::Inval));
    assert_eq!(t.state(1, 63), EvtchnStat::Closed);
    t.m().unmap_guest_page(ARG);
    let (d, v) = &t.doms[1];
    let mut regs = UserRegs::default();
    let mut cx = Cx::new(&t.world.hv, t.m(), d, v, &mut regs);
    let op = |cmd, at| Args([cmd, at, 0, 0, 0, 0]);
    assert_eq!(event_channel_op(&mut cx, &op(4, ARG)), Err(Exit::Err(Errno::Fault)));
    assert_eq!(event_channel_op(&mut cx, &op(4, 0xffff_8000_0000_0000)), Err(Exit::Err(Errno::Fault)));
    assert_eq!(event_channel_op(&mut cx, &op(14, ARG)), Err(Exit::Err(Errno::NoSys)));
    assert_eq!(event_channel_op(&mut cx, &op(99, ARG)), Err(Exit::Err(Errno::NoSys)));
}

#[test]
fn closing_everything_can_be_interrupted() {
    let t = Test::new();
    for _ in 0..1000 {
        t.ipi(1, 0).unwrap();
    }
    t.m().preempt_after.store(0, SeqCst);
    let mut turns = 1;
    let arg = EvtchnReset { dom: SELF };
    while let (Err(Exit::Restart(_)), _) = t.raw(1, EvtchnOp::Reset, &arg) {
        turns += 1;
        t.audit();
        t.m().preempt_after.store(0, SeqCst);
    }
    assert!(turns > 5, "{turns} turns");
    assert_eq!(t.state(1, 1000), EvtchnStat::Closed);
    assert_eq!(t.ipi(1, 0), Ok(1));
}

#[test]
fn a_dead_domain_leaves_nothing_behind() {
    let t = Test::new();
    let (a, b) = (t.unbound(1, SELF, 2).unwrap(), t.unbound(2, SELF, 1).unwrap());
    let (c, d) = (t.connect(2, 1, a).unwrap(), t.connect(1, 2, b).unwrap());
    t.virq(1, 0, 0).unwrap();
    assert!(t.doms[1].0.begin_dying(&t.world.hv, t.m()));
    while destroy(&t.world.hv, t.m(), &t.doms[1].0).is_err() {}
    assert_eq!((t.state(2, c), t.state(2, b)), (EvtchnStat::Unbound, EvtchnStat::Unbound));
    assert_eq!(t.ipi(1, 0), Err(Errno::Inval), "nothing new for the dead");
    assert_eq!(t.connect(2, 1, d), Err(Errno::Inval));
    t.audit();
    let dead = Arc::downgrade(&t.doms[1].0);
    assert_eq!(Arc::strong_count(&t.doms[1].0), 2, "the table of domains and this test: no port holds it");
    assert!(dead.upgrade().is_some());
}

#[test]
fn a_physical_line_fires_until_it_is_closed() {
    let t = Test::new();
    let bind = |dom, pirq| t.call(dom, EvtchnOp::BindPirq, EvtchnBindPirq { pirq, flags: 0, port: 0 });
    assert_eq!(bind(1, 17), Err(Errno::Perm));
    assert_eq!(bind(0, 17), Err(Errno::Inval), "not mapped");
    assert_eq!(bind(0, 5000), Err(Errno::Inval), "no such line");
    let (hv, dom0) = (&t.world.hv, &t.doms[0].0);
    assert_eq!(pirq::map(hv, t.m(), &t.doms[1].0, 17), Err(Errno::Perm));
    assert_eq!(pirq::map(hv, t.m(), dom0, 17), Ok(17));
    let port = bind(0, 17).unwrap().port;
    assert_eq!(bind(0, 17), Err(Errno::Exist));
    pirq::fired(hv, t.m(), 17);
    assert!(t.pending(0, port));
    assert_eq!(pirq::unmap(hv, t.m(), dom0, 17), Err(Errno::Inval), "bound");
    assert_eq!(pirq::eoi(hv, t.m(), dom0, 17), Ok(()));
    assert_eq!(pirq::eoi(hv, t.m(), dom0, 18), Err(Errno::Inval));
    t.audit();
    let steps = || {
        let noted = &t.m().effects.lock().registers;
        noted.iter().filter(|(name, _)| name.ends_with("mask_gsi")).map(|(name, _)| *name).collect::<Vec<_>>()
    };
    assert_eq!(steps(), ["unmask_gsi", "unmask_gsi"], "bound, and after the EOI");
    t.close(0, port).unwrap();
    assert_eq!(steps().last(), Some(&"mask_gsi"));
    t.drain(0);
    pirq::fired(hv, t.m(), 17);
    assert!(!t.pending(0, port));
    assert_eq!(pirq::unmap(hv, t.m(), dom0, 17), Ok(()));
    t.audit();
}

#[test]
fn a_line_in_use_is_not_set_up_again_for_the_next_device_that_shares_it() {
    let t = Test::new();
    let (hv, dom0) = (&t.world.hv, &t.doms[0].0);
    let setup = |dom: usize, gsi| pirq::setup(hv, t.m(), &t.doms[dom].0, gsi, GsiConfig::default());
    let routed =
        || t.m().effects.lock().registers.iter().filter(|noted| **noted == ("route_gsi", 17)).count();
    assert_eq!((setup(1, 17), setup(0, 5000)), (Err(Errno::Perm), Err(Errno::Inval)));
    pirq::map(hv, t.m(), dom0, 17).unwrap();
    assert_eq!(setup(0, 17), Ok(()));
    assert_eq!(routed(), 2);
    let port = pirq::bind_pirq(hv, t.m(), dom0, 17).unwrap();
    assert_eq!(setup(0, 17), Err(Errno::Exist));
    assert_eq!(pirq::map(hv, t.m(), dom0, 17), Ok(17));
    assert_eq!(routed(), 2, "routing masks the line");
    t.close(0, port.raw()).unwrap();
    assert_eq!(setup(0, 17), Ok(()));
}

#[test]
fn a_line_of_the_hypervisor_can_be_mapped_and_not_bound() {
    let t = Test::new();
    let (hv, dom0) = (&t.world.hv, &t.doms[0].0);
    assert_eq!(pirq::map(hv, t.m(), dom0, 4), Ok(4), "a dom0 names every line that ACPI lists");
    assert_eq!(pirq::setup(hv, t.m(), dom0, 4, GsiConfig::default()), Ok(()));
    assert_eq!(pirq::bind_pirq(hv, t.m(), dom0, 4), Err(Errno::Inval));
    assert_eq!(pirq::unmap(hv, t.m(), dom0, 4), Ok(()));
    let touched = |name| t.m().effects.lock().registers.contains(&(name, 4));
    assert!(!touched("mask_gsi") && !touched("unmask_gsi"), "the serial port went silent");
    t.audit();
}

#[test]
fn an_event_wakes_who_polls_for_it() {
    let t = Test::new();
    let v = &t.doms[1].1;
    let (a, b) = (t.ipi(1, 0).unwrap(), t.ipi(1, 0).unwrap());
    for port in [a, b] {
        t.set_mask(1, port);
    }
    let poll = |only: Option<u32>| {
        t.world.hv.sched.begin_poll(&t.doms[1].0, v);
        t.world.hv.sched.block_in_poll(t.m(), v, only.map(EvtchnPort::new));
    };
    let blocked = || v.sched.flags() & crate::sched::state::flags::BLOCKED != 0;
    poll(Some(b));
    t.send(1, a).unwrap();
    assert!(blocked(), "another port");
    t.send(1, b).unwrap();
    assert!(!blocked());
    t.drain(1);
    poll(None);
    t.send(1, a).unwrap();
    assert!(!blocked());
    assert_eq!(super::poll_port(t.m(), &t.doms[1].0, EvtchnPort::new(a)), Ok(true));
    assert_eq!(super::poll_port(t.m(), &t.doms[1].0, EvtchnPort::new(b)), Ok(false));
    assert_eq!(super::poll_port(t.m(), &t.doms[1].0, EvtchnPort::new(64)), Err(Errno::Inval));
}

#[derive(Clone, Debug)]
enum Step {
    Unbound(usize, u16, u16),
    Connect(usize, u16, u32),
    Virq(usize, u32, u32),
    Ipi(usize, u32),
    Move(usize, u32, u32),
    Send(usize, u32),
    Close(usize, u32),
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let dom = || 0_usize..3;
    let id = || prop_oneof![0_u16..4, Just(SELF)];
    let port = || prop_oneof![8 => 0_u32..12, 1 => Just(63_u32), 1 => Just(64_u32), 1 => any::<u32>()];
    prop_oneof![
        6 => (dom(), id(), id()).prop_map(|(d, a, b)| Step::Unbound(d, a, b)),
        8 => (dom(), id(), port()).prop_map(|(d, r, p)| Step::Connect(d, r, p)),
        2 => (dom(), 0_u32..25, 0_u32..3).prop_map(|(d, l, v)| Step::Virq(d, l, v)),
        1 => (dom(), 0_u32..3).prop_map(|(d, v)| Step::Ipi(d, v)),
        3 => (dom(), port(), 0_u32..3).prop_map(|(d, p, v)| Step::Move(d, p, v)),
        4 => (dom(), port()).prop_map(|(d, p)| Step::Send(d, p)),
        4 => (dom(), port()).prop_map(|(d, p)| Step::Close(d, p)),
        1 => dom().prop_map(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_three_domains_do_the_tables_agree(steps in prop::collection::vec(step(), 1..60)) {
        let t = Test::new();
        for step in steps {
            // Whether a step succeeds is its own affair; what it leaves behind is checked.
            let _result = match step {
                Step::Unbound(d, of, remote) => t.unbound(d, of, remote).map(|_| ()),
                Step::Connect(d, remote, port) => t.connect(d, remote, port).map(|_| ()),
                Step::Virq(d, line, vcpu) => t.virq(d, line, vcpu).map(|_| ()),
                Step::Ipi(d, vcpu) => t.ipi(d, vcpu).map(|_| ()),
                Step::Move(d, port, vcpu) => t.bind_vcpu(d, port, vcpu),
                Step::Send(d, port) => t.send(d, port),
                Step::Close(d, port) => t.close(d, port),
                Step::Reset(d) => t.call(d, EvtchnOp::Reset, EvtchnReset { dom: SELF }).map(|_| ()),
            };
            t.audit();
        }
    }
}

/// Three domains from three CPUs at once: nothing blocks for ever, and the tables agree in the end.
#[test]
fn three_cpus_at_once_leave_the_tables_in_agreement() {
    let t = Test::new();
    let doms: Vec<Arc<Domain>> = t.doms.iter().map(|(d, _)| d.clone()).collect();
    let (hv, m) = (&t.world.hv, t.m());
    std::thread::scope(|scope| {
        for cpu in 0..3_u32 {
            let doms = &doms;
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_u32.wrapping_mul(cpu + 1);
                let mut next = |below: u32| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 16) % below
                };
                for _ in 0..1000 {
                    // Everybody acts for everybody, on the same few ports.
                    let pick = |n: u32| &doms[usize::try_from(n).unwrap_or(0)];
                    let (dom, other) = (pick(next(3)), pick(next(3)));
                    let port = EvtchnPort::new(next(8));
                    let _whatever = match next(7) {
                        0 => super::alloc_unbound(m, dom, other.id).map(|_| ()),
                        1 | 2 => super::bind_interdomain(hv, m, dom, other, port).map(|_| ()),
                        3 => super::close(hv, m, dom, port),
                        4 => super::send(hv, m, dom, port),
                        5 => super::bind_vcpu(dom, port, pv_abi::ids::VcpuId::new(0)),
                        _ => super::bind_virq(m, dom, next(4), pv_abi::ids::VcpuId::new(0)).map(|_| ()),
                    };
                }
            });
        }
    });
    t.audit();
}
