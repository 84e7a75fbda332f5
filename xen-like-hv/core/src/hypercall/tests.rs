//! Claims about dispatch, batches and the small calls.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use pv_abi::callback::{CallbackOp, CallbackRegister, CallbackType};
use pv_abi::errno::Errno;
use pv_abi::evtchn::{EvtchnBindVirq, EvtchnOp, VirqKind};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::mmu::MulticallEntry;
use pv_abi::sched::{SchedOp, SchedPoll, SchedShutdown, SchedWatchdog};
use pv_abi::trap::TrapInfo;
use pv_abi::vcpu::{
    VcpuOp, VcpuRegisterRunstateMemoryArea, VcpuRegisterVcpuInfo, VcpuRunstateInfo, VcpuSetPeriodicTimer,
    VcpuSetSingleshotTimer,
};
use pv_abi::version::{XenFeatureInfo, XenVersionOp};
use pv_abi::vm_assist::{VmAssist, VmAssistCmd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{GuestPtr, dispatch, restart};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::Args;
use crate::fake::FakeWorld;
use crate::port::Frames;
use crate::regs::UserRegs;
use crate::sched::state::flags;
use crate::sched::timers::TimerKind;
use crate::vcpu::Vcpu;

/// Where the tests put arguments.
const ARG: u64 = 0x10_0000;
/// RIP after the SYSCALL.
const RIP: u64 = 0x40_0002;
/// An address in the hypervisor's area.
const HYPERVISOR: u64 = 0xffff_8000_0000_1000;

/// dom0 and one guest, each with a vcpu, and the one that calls.
struct Test {
    w: FakeWorld,
    dom: Arc<Domain>,
    v: Arc<Vcpu>,
}

impl Test {
    fn new() -> Self {
        Self::with(Privilege::Unprivileged)
    }

    fn privileged() -> Self {
        Self::with(Privilege::Control)
    }

    fn with(privilege: Privilege) -> Self {
        let w = FakeWorld::new(128);
        (0..4).for_each(|n| w.m.map_guest_page(ARG + n * 4096));
        let id = DomId::new(u16::from(privilege == Privilege::Unprivileged));
        let (dom, v) = w.add_domain(id, privilege, 32);
        w.hv.sched.reserve(1).unwrap();
        w.hv.sched.start(&w.m, &v, flags::DOWN);
        let picked = w.hv.sched.pick_next(&w.m, pv_abi::ids::PcpuId::new(0));
        assert!(picked.is_some_and(|p| Arc::ptr_eq(&p, &v)));
        Self { w, dom, v }
    }

    fn regs(&self, number: u64, args: [u64; 5]) -> UserRegs {
        let [rdi, rsi, rdx, r10, r8] = args;
        UserRegs { rax: number, rdi, rsi, rdx, r10, r8, rip: RIP, ..UserRegs::default() }
    }

    fn run(&self, regs: &mut UserRegs) {
        let mut cx = Cx::new(&self.w.hv, &self.w.m, &self.dom, &self.v, regs);
        dispatch(&mut cx);
    }

    /// A call that ends; what RAX says.
    fn raw(&self, number: u64, args: [u64; 5]) -> i64 {
        let mut regs = self.regs(number, args);
        self.run(&mut regs);
        assert_eq!(regs.rip, RIP, "was to be restarted");
        regs.rax.cast_signed()
    }

    fn call(&self, number: Hypercall, args: [u64; 5]) -> Result<u64, Errno> {
        let ret = self.raw(number.raw(), args);
        match Errno::from_ret(ret) {
            Some(e) => Err(e),
            None => Ok(ret.cast_unsigned()),
        }
    }

    fn put<T: FromBytes + IntoBytes + Immutable>(&self, at: u64, value: &T) {
        GuestPtr::<T>::new(at).unwrap().write(&self.w.m, value).unwrap();
    }

    fn get<T: FromBytes + IntoBytes + Immutable>(&self, at: u64) -> T {
        GuestPtr::<T>::new(at).unwrap().read(&self.w.m).unwrap()
    }

    /// A call whose second argument points to `arg`.
    fn op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        number: Hypercall,
        op: u32,
        arg: &T,
    ) -> Result<u64, Errno> {
        self.put(ARG, arg);
        self.call(number, [u64::from(op), ARG, 0, 0, 0])
    }

    fn vcpu_op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        op: VcpuOp,
        vcpu: u64,
        arg: &T,
    ) -> Result<u64, Errno> {
        self.put(ARG, arg);
        self.call(Hypercall::VcpuOp, [u64::from(op.raw()), vcpu, ARG, 0, 0])
    }
}

// ---- dispatch -------------------------------------------------------------------------------------------------------

#[test]
fn a_restart_changes_the_registers_of_its_own_arguments_only() {
    let mut regs = UserRegs { rax: Hypercall::Multicall.raw(), rip: 0x1002, ..UserRegs::default() };
    (regs.rdx, regs.r10, regs.r8, regs.r9) = (3, 4, 5, 6);
    restart(&mut regs, &Args([11, 12, 0, 0, 0, 0]));
    assert_eq!((regs.rip, regs.rdi, regs.rsi), (0x1000, 11, 12));
    assert_eq!((regs.rdx, regs.r10, regs.r8, regs.r9), (3, 4, 5, 6));
}

#[test]
fn unknown_numbers_are_not_implemented() {
    let t = Test::new();
    for n in [6, 11, 16, 19, 27, 31, 34, 37, 48, 49, 63, 64, 0xffff, u64::MAX, 1 << 32 | 17] {
        assert_eq!(t.raw(n, [0; 5]), Errno::NoSys.to_ret(), "{n}");
    }
}

#[test]
fn unknown_sub_operations_are_refused_with_the_abis_errno() {
    let t = Test::privileged();
    let noisy = u64::from(u32::MAX);
    for number in [
        Hypercall::SchedOp,
        Hypercall::XenVersion,
        Hypercall::CallbackOp,
        Hypercall::NmiOp,
        Hypercall::ConsoleIo,
    ] {
        assert_eq!(t.call(number, [noisy, ARG, ARG, 0, 0]), Err(Errno::NoSys), "{number}");
    }
    assert_eq!(t.call(Hypercall::VcpuOp, [noisy, 0, ARG, 0, 0]), Err(Errno::NoSys));
    assert_eq!(t.call(Hypercall::VcpuOp, [noisy, 7, ARG, 0, 0]), Err(Errno::NoEnt));
    assert_eq!(t.call(Hypercall::SetSegmentBase, [9, 0, 0, 0, 0]), Err(Errno::Inval));
    assert_eq!(t.call(Hypercall::VmAssist, [0, 9, 0, 0, 0]), Err(Errno::Inval));
    assert_eq!(t.call(Hypercall::VmAssist, [9, 2, 0, 0, 0]), Err(Errno::NoSys));
}

#[test]
fn the_upper_half_of_a_32_bit_argument_is_not_looked_at() {
    let t = Test::new();
    let op = u64::from(XenVersionOp::Version.raw()) | 0xdead_beef_0000_0000;
    assert_eq!(t.call(Hypercall::XenVersion, [op, 0, 0, 0, 0]), Ok(4 << 16 | 17));
}

#[test]
fn pointers_into_the_hypervisor_are_faults() {
    let t = Test::privileged();
    for at in
        [HYPERVISOR, HYPERVISOR - 8, 0xffff_87ff_ffff_fff8, 0x0000_8000_0000_0000, u64::MAX - 3, 0x9000_0000]
    {
        assert_eq!(
            t.call(Hypercall::SchedOp, [u64::from(SchedOp::Poll.raw()), at, 0, 0, 0]),
            Err(Errno::Fault)
        );
        assert_eq!(
            t.call(Hypercall::XenVersion, [u64::from(XenVersionOp::Extraversion.raw()), at, 0, 0, 0]),
            Err(Errno::Fault)
        );
        assert_eq!(t.call(Hypercall::SetTrapTable, [at, 0, 0, 0, 0]), Err(Errno::Fault));
        assert_eq!(t.call(Hypercall::ConsoleIo, [0, 8, at, 0, 0]), Err(Errno::Fault));
        assert_eq!(t.call(Hypercall::Multicall, [at, 1, 0, 0, 0]), Err(Errno::Fault));
        assert_eq!(t.call(Hypercall::Domctl, [at, 0, 0, 0, 0]), Err(Errno::Fault));
        assert_eq!(t.call(Hypercall::Sysctl, [at, 0, 0, 0, 0]), Err(Errno::Fault));
        assert_eq!(t.call(Hypercall::PlatformOp, [at, 0, 0, 0, 0]), Err(Errno::Fault));
    }
}

// ---- batches --------------------------------------------------------------------------------------------------------

fn entry(op: Hypercall, args: [u64; 6]) -> MulticallEntry {
    MulticallEntry { op: op.raw(), result: 0xaaaa, args }
}

fn version_entry() -> MulticallEntry {
    entry(Hypercall::XenVersion, [0; 6])
}

impl Test {
    fn put_list(&self, list: &[MulticallEntry]) {
        let ptr = GuestPtr::<MulticallEntry>::array(ARG, list.len() as u64).unwrap();
        ptr.write_slice(&self.w.m, 0, list).unwrap();
    }

    fn results(&self, n: usize) -> Vec<i64> {
        let ptr = GuestPtr::<MulticallEntry>::array(ARG, n as u64).unwrap();
        (0..n as u64).map(|i| ptr.read_at(&self.w.m, i).unwrap().result.cast_signed()).collect()
    }
}

#[test]
fn a_batch_gives_each_entry_its_own_result() {
    let t = Test::new();
    let mut wrong = version_entry();
    wrong.op = 6;
    t.put_list(&[version_entry(), wrong, entry(Hypercall::SchedOp, [99, 0, 0, 0, 0, 0]), version_entry()]);
    assert_eq!(t.call(Hypercall::Multicall, [ARG, 4, 0, 0, 0]), Ok(0));
    let no = Errno::NoSys.to_ret();
    assert_eq!(t.results(4), [4 << 16 | 17, no, no, 4 << 16 | 17]);
}

#[test]
fn an_empty_batch_succeeds_wherever_it_points() {
    let t = Test::new();
    assert_eq!(t.call(Hypercall::Multicall, [HYPERVISOR, 0, 0, 0, 0]), Ok(0));
}

#[test]
fn a_batch_in_a_batch_is_refused() {
    let t = Test::new();
    t.put_list(&[entry(Hypercall::Multicall, [ARG, 1, 0, 0, 0, 0]), version_entry()]);
    assert_eq!(t.call(Hypercall::Multicall, [ARG, 2, 0, 0, 0]), Ok(0));
    assert_eq!(t.results(2), [Errno::Inval.to_ret(), 4 << 16 | 17]);
}

#[test]
fn a_batch_that_runs_off_its_page_has_done_what_came_before() {
    let t = Test::new();
    let at = ARG + 4 * 4096 - 64;
    t.put(at, &version_entry());
    assert_eq!(t.call(Hypercall::Multicall, [at, 2, 0, 0, 0]), Err(Errno::Fault));
    assert_eq!(t.get::<MulticallEntry>(at).result, 4 << 16 | 17);
}

#[test]
fn xsa_213_nothing_of_a_batch_runs_after_an_iret() {
    let t = Test::new();
    let stack = ARG + 2 * 4096;
    // RAX R11 RCX flags RIP CS RFLAGS RSP SS: to the kernel.
    let frame: [u64; 9] = [7, 0, 0, 0, 0x1234, 0xe030, 0x202, 0x5678, 0xe02b];
    t.put(stack, &frame);
    t.put_list(&[version_entry(), entry(Hypercall::Iret, [0; 6]), version_entry()]);
    let mut regs = t.regs(Hypercall::Multicall.raw(), [ARG, 3, 0, 0, 0]);
    regs.rsp = stack;
    t.run(&mut regs);
    assert_eq!((regs.rip, regs.rsp), (0x1234, 0x5678));
    assert_eq!(t.results(3), [4 << 16 | 17, 0xaaaa, 0xaaaa]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_preempted_batch_does_each_entry_once_and_in_order(patience in 0..3_u64, n in 1..60_usize) {
        let t = Test::privileged();
        // Each entry writes its own letter to the console, some of them in more bytes than go in one piece.
        let text = ARG + 3 * 4096;
        let letters: Vec<u8> = (0..n).map(|i| b'a' + u8::try_from(i % 26).unwrap()).collect();
        GuestPtr::<u8>::array(text, n as u64).unwrap().write_slice(&t.w.m, 0, &letters).unwrap();
        let list: Vec<_> =
            (0..n as u64).map(|i| entry(Hypercall::ConsoleIo, [0, 1, text + i, 0, 0, 0])).collect();
        t.put_list(&list);
        let mut regs = t.regs(Hypercall::Multicall.raw(), [ARG, n as u64, 0, 0, 0]);
        let mut rounds = 0;
        loop {
            t.w.m.preempt_after.store(patience, Relaxed);
            t.run(&mut regs);
            if regs.rip == RIP {
                break;
            }
            prop_assert_eq!(regs.rip, RIP - 2);
            prop_assert_eq!(regs.rax, Hypercall::Multicall.raw());
            regs.rip = RIP;
            rounds += 1;
            prop_assert!(rounds <= n);
        }
        prop_assert_eq!(regs.rax, 0);
        // Every eighth entry looks whether something waits.
        prop_assert!(rounds > 0 || (n as u64 - 1) / 8 <= patience);
        prop_assert!(t.results(n).iter().all(|r| *r == 0));
        prop_assert_eq!(&t.w.m.effects.lock().console, &letters);
    }

    #[test]
    fn a_call_that_is_preempted_inside_a_batch_goes_on_there(patience in 0..5_u64, len in 1..3000_u64) {
        let t = Test::privileged();
        let text = ARG + 4096;
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        GuestPtr::<u8>::array(text, len).unwrap().write_slice(&t.w.m, 0, &bytes).unwrap();
        t.put_list(&[entry(Hypercall::ConsoleIo, [0, len, text, 0, 0, 0]), version_entry()]);
        let mut regs = t.regs(Hypercall::Multicall.raw(), [ARG, 2, 0, 0, 0]);
        for _ in 0..100 {
            t.w.m.preempt_after.store(patience, Relaxed);
            t.run(&mut regs);
            if regs.rip == RIP {
                break;
            }
            regs.rip = RIP;
        }
        prop_assert_eq!(regs.rax, 0);
        prop_assert_eq!(t.results(2), [0, 4 << 16 | 17]);
        prop_assert_eq!(&t.w.m.effects.lock().console, &bytes);
    }
}

// ---- version, console, assists --------------------------------------------------------------------------------------

#[test]
fn features_are_those_of_a_pv_guest() {
    let features = |t: &Test| {
        t.op(Hypercall::XenVersion, XenVersionOp::GetFeatures.raw(), &XenFeatureInfo::default()).unwrap();
        t.get::<XenFeatureInfo>(ARG).submap
    };
    let t = Test::new();
    assert_eq!(features(&t), 0x220e0);
    t.dom.set_assist(VmAssist::PaeExtendedCr3, true);
    assert_eq!(features(&t), 0x220f0);
    assert_eq!(features(&Test::privileged()), 0x220e0 | 1 << 11);
    let past = XenFeatureInfo { submap_idx: 1, submap: 0 };
    assert_eq!(t.op(Hypercall::XenVersion, XenVersionOp::GetFeatures.raw(), &past), Err(Errno::Inval));
}

#[test]
fn the_command_line_is_dom0s_to_read() {
    for (t, want) in [(Test::new(), &b"<denied>\0"[..]), (Test::privileged(), &b"\0"[..])] {
        let call = [u64::from(XenVersionOp::Commandline.raw()), ARG, 0, 0, 0];
        assert_eq!(t.call(Hypercall::XenVersion, call), Ok(0));
        assert!(t.get::<[u8; 1024]>(ARG).starts_with(want));
    }
    let build_id = [u64::from(XenVersionOp::BuildId.raw()), 0, 0, 0, 0];
    assert_eq!(Test::new().call(Hypercall::XenVersion, build_id), Err(Errno::Perm));
    assert_eq!(Test::privileged().call(Hypercall::XenVersion, build_id), Err(Errno::NoData));
}

#[test]
fn the_console_is_dom0s() {
    assert_eq!(Test::new().call(Hypercall::ConsoleIo, [0, 1, ARG, 0, 0]), Err(Errno::Perm));
    let t = Test::privileged();
    assert_eq!(t.call(Hypercall::ConsoleIo, [1, 1 << 31, ARG, 0, 0]), Err(Errno::TooBig));
    assert_eq!(t.call(Hypercall::ConsoleIo, [0, 0, ARG, 0, 0]), Ok(0));
}

#[test]
fn assists_are_switched_and_the_unknown_one_is_refused() {
    let t = Test::new();
    let on = u64::from(VmAssistCmd::Enable.raw());
    let kind = u64::from(VmAssist::WritablePagetables.raw());
    assert_eq!(t.call(Hypercall::VmAssist, [on, kind, 0, 0, 0]), Ok(0));
    assert!(t.dom.has_assist(VmAssist::WritablePagetables));
    assert_eq!(t.call(Hypercall::VmAssist, [1, kind, 0, 0, 0]), Ok(0));
    assert!(!t.dom.has_assist(VmAssist::WritablePagetables));
    let strict = u64::from(VmAssist::M2pStrict.raw());
    assert_eq!(t.call(Hypercall::VmAssist, [on, strict, 0, 0, 0]), Err(Errno::Inval));
}

// ---- gates ----------------------------------------------------------------------------------------------------------

#[test]
fn callbacks_are_registered_and_addresses_checked() {
    let t = Test::new();
    let register = |kind: u16, address: u64| {
        let arg = CallbackRegister { kind, flags: 1, _pad: 0, address };
        t.op(Hypercall::CallbackOp, CallbackOp::Register.raw(), &arg)
    };
    assert_eq!(register(CallbackType::Event.raw(), 0x1000), Ok(0));
    assert_eq!(register(CallbackType::Syscall.raw(), 0xffff_8000_0000_0000), Ok(0));
    assert_eq!(register(CallbackType::Event.raw(), 0x8000_0000_0000), Err(Errno::Inval));
    assert_eq!(register(6, 0x1000), Err(Errno::NoSys));
    assert_eq!(t.v.entry.event.get().map(|(a, _)| a), Some(0x1000));
    let unregister = |kind| t.op(Hypercall::CallbackOp, CallbackOp::Unregister.raw(), &u32::from(kind));
    assert_eq!(unregister(CallbackType::Event.raw()), Err(Errno::Inval));
    assert_eq!(unregister(CallbackType::Nmi.raw()), Ok(0));
    assert_eq!(unregister(9), Err(Errno::NoSys));
}

#[test]
fn a_trap_table_is_taken_up_to_its_end_or_its_first_mistake() {
    let t = Test::new();
    let gate = |vector, address| TrapInfo { vector, flags: 3, cs: 0xe030, _pad: 0, address };
    let list = [gate(3, 0x1000), gate(14, 0x2000), gate(13, 0x8000_0000_0000), gate(1, 0x3000), gate(0, 0)];
    GuestPtr::<TrapInfo>::array(ARG, 5).unwrap().write_slice(&t.w.m, 0, &list).unwrap();
    assert_eq!(t.call(Hypercall::SetTrapTable, [ARG, 0, 0, 0, 0]), Err(Errno::Inval));
    let handler = |vector| t.v.entry.trap(vector).and_then(|g| g.get()).map(|(a, _)| a);
    assert_eq!((handler(3), handler(14), handler(13), handler(1)), (Some(0x1000), Some(0x2000), None, None));
    assert_eq!(t.v.entry.trap(3).map(|g| g.selector()), Some(0xe033));
    assert_eq!(t.call(Hypercall::SetTrapTable, [0; 5]), Ok(0));
    assert_eq!(handler(3), None);
}

#[test]
fn segment_bases_are_canonical() {
    let t = Test::new();
    for which in 0..3 {
        assert_eq!(t.call(Hypercall::SetSegmentBase, [which, 0x8000_0000_0000, 0, 0, 0]), Err(Errno::Inval));
        assert_eq!(t.call(Hypercall::SetSegmentBase, [which, 0x7fff_ffff_f000, 0, 0, 0]), Ok(0));
    }
    assert_eq!(t.call(Hypercall::SetSegmentBase, [3, 0xffff, 0, 0, 0]), Ok(0));
}

// ---- sched_op -------------------------------------------------------------------------------------------------------

#[test]
fn a_block_waits_unless_something_is_pending() {
    let t = Test::new();
    let block = [u64::from(SchedOp::Block.raw()), 0, 0, 0, 0];
    t.v.events.set_upcall_mask(&t.w.m);
    assert_eq!(t.call(Hypercall::SchedOp, block), Ok(0));
    assert_ne!(t.v.sched.flags() & flags::BLOCKED, 0);
    assert!(!t.v.events.upcall_masked(&t.w.m), "a block opens events");
    t.w.hv.sched.unblock(&t.w.m, &t.v);
    t.w.m.words(t.dom.shared_info)[0].fetch_or(1, Relaxed);
    assert_eq!(t.call(Hypercall::SchedOp, block), Ok(0));
    assert_eq!(t.v.sched.flags() & flags::BLOCKED, 0);
}

#[test]
fn a_poll_waits_for_its_port_or_its_time() {
    let t = Test::new();
    let port = crate::evtchn::alloc_unbound(&t.w.m, &t.dom, DomId::DOM0).unwrap();
    t.put(ARG + 64, &port.raw());
    let poll = |nr_ports, timeout| {
        let arg = SchedPoll { ports: ARG + 64, nr_ports, _pad: 0, timeout };
        t.op(Hypercall::SchedOp, SchedOp::Poll.raw(), &arg)
    };
    assert_eq!(poll(1, 5000), Ok(0));
    assert_ne!(t.v.sched.flags() & flags::BLOCKED, 0);
    assert_eq!(t.dom.polling.load(Relaxed), 1);
    assert_eq!(t.v.sched.timers.deadline(TimerKind::Poll), Some(5000));
    t.w.m.now_ns.store(6000, Relaxed);
    crate::sched::run_timers(&t.w.hv, &t.w.m, pv_abi::ids::PcpuId::new(0));
    assert_eq!(t.v.sched.flags() & flags::BLOCKED, 0);
    assert_eq!(t.dom.polling.load(Relaxed), 0);
    t.put(ARG + 64, &4000_u32);
    assert_eq!(poll(1, 0), Err(Errno::Inval));
    assert_eq!(poll(u32::MAX, 0), Err(Errno::Inval));
    assert_eq!((t.v.sched.flags() & flags::BLOCKED, t.dom.polling.load(Relaxed)), (0, 0));
}

#[test]
fn a_guest_shuts_itself_down_with_the_reason_it_announced() {
    let t = Test::new();
    let announce = SchedShutdown { reason: 0x1_04 };
    assert_eq!(t.op(Hypercall::SchedOp, SchedOp::ShutdownCode.raw(), &announce), Ok(0));
    assert_eq!(t.op(Hypercall::SchedOp, SchedOp::Shutdown.raw(), &SchedShutdown { reason: 0 }), Ok(0));
    assert_eq!(t.dom.slow.lock().shutdown, Some(4));
    assert!(!t.v.sched.is_runnable());
}

#[test]
fn a_guest_may_not_shut_others_down() {
    let t = Test::new();
    let arg = pv_abi::sched::SchedRemoteShutdown { domain_id: 1, _pad: 0, reason: 3 };
    assert_eq!(t.op(Hypercall::SchedOp, SchedOp::RemoteShutdown.raw(), &arg), Err(Errno::Perm));
    let nobody = pv_abi::sched::SchedRemoteShutdown { domain_id: 77, ..arg };
    assert_eq!(t.op(Hypercall::SchedOp, SchedOp::RemoteShutdown.raw(), &nobody), Err(Errno::Srch));
    assert_eq!(t.dom.slow.lock().shutdown, None);
}

#[test]
fn two_watchdogs_and_no_third() {
    let t = Test::new();
    let dog = |id, timeout| t.op(Hypercall::SchedOp, SchedOp::Watchdog.raw(), &SchedWatchdog { id, timeout });
    assert_eq!((dog(0, 0), dog(3, 1), dog(1, 1)), (Err(Errno::Inval), Err(Errno::Inval), Err(Errno::Inval)));
    assert_eq!((dog(0, 2), dog(0, 2), dog(0, 2)), (Ok(1), Ok(2), Err(Errno::NoSpc)));
    assert_eq!((dog(1, 0), dog(1, 5)), (Ok(0), Err(Errno::Inval)));
    t.w.m.now_ns.store(3_000_000_000, Relaxed);
    crate::sched::run_timers(&t.w.hv, &t.w.m, pv_abi::ids::PcpuId::new(0));
    assert_eq!(t.dom.slow.lock().shutdown, Some(4));
}

#[test]
fn pinning_is_dom0s() {
    let pin = |t: &Test, pcpu: i32| {
        t.op(Hypercall::SchedOp, SchedOp::PinOverride.raw(), &pv_abi::sched::SchedPinOverride { pcpu })
    };
    assert_eq!(pin(&Test::new(), 0), Err(Errno::Perm));
    let t = Test::privileged();
    assert_eq!(pin(&t, 64), Err(Errno::Inval));
    assert_eq!(pin(&t, 1), Ok(0));
    assert_eq!(t.v.sched.hard_affinity().bits(), 2);
    assert_eq!(pin(&t, -1), Ok(0));
    assert_eq!(t.v.sched.hard_affinity().bits(), u64::MAX);
}

// ---- vcpu_op and timers ---------------------------------------------------------------------------------------------

#[test]
fn one_shot_timers_obey_their_rules() {
    let t = Test::new();
    t.w.m.now_ns.store(1000, Relaxed);
    let set = |timeout_abs_ns, flags| {
        t.vcpu_op(VcpuOp::SetSingleshotTimer, 0, &VcpuSetSingleshotTimer { timeout_abs_ns, flags, _pad: 0 })
    };
    let due = || t.v.sched.timers.deadline(TimerKind::Singleshot);
    assert_eq!(set(999, 1), Err(Errno::Time));
    assert_eq!(set(999, 0), Ok(0));
    assert_eq!(due(), Some(999));
    assert_eq!(set(5000, 1), Ok(0));
    assert_eq!(due(), Some(5000));
    assert_eq!(t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::StopSingleshotTimer.raw()), 0, 0, 0, 0]), Ok(0));
    assert_eq!(due(), None);
    assert_eq!(t.call(Hypercall::SetTimerOp, [u64::MAX, 0, 0, 0, 0]), Ok(0));
    assert_eq!(due(), Some(100_001_000));
    assert_eq!(t.call(Hypercall::SetTimerOp, [1 << 60, 0, 0, 0, 0]), Ok(0));
    assert_eq!(due(), Some(100_001_000));
    assert_eq!(t.call(Hypercall::SetTimerOp, [7777, 0, 0, 0, 0]), Ok(0));
    assert_eq!(due(), Some(7777));
    assert_eq!(t.call(Hypercall::SetTimerOp, [0; 5]), Ok(0));
    assert_eq!(due(), None);
}

#[test]
fn a_time_that_has_come_is_told_at_once() {
    let t = Test::new();
    t.w.m.now_ns.store(1000, Relaxed);
    let bind = EvtchnBindVirq { virq: VirqKind::Timer.raw(), vcpu: 0, port: 0 };
    assert_eq!(t.op(Hypercall::EventChannelOp, EvtchnOp::BindVirq.raw(), &bind), Ok(0));
    // The pending bits of the first 64 ports.
    let told = || t.w.m.words(t.dom.shared_info)[0x100].swap(0, Relaxed) != 0;
    let due = || t.v.sched.timers.deadline(TimerKind::Singleshot);
    let set = |at| t.call(Hypercall::SetTimerOp, [at, 0, 0, 0, 0]);
    for at in [1000, 999, 1] {
        assert_eq!(set(1001), Ok(0));
        assert!(!told() && due() == Some(1001));
        assert_eq!(set(at), Ok(0));
        assert!(told(), "{at}");
        assert_eq!(due(), None, "the timer that was set is gone");
    }
}

#[test]
fn periods_have_limits() {
    let t = Test::new();
    let set = |period_ns| t.vcpu_op(VcpuOp::SetPeriodicTimer, 0, &VcpuSetPeriodicTimer { period_ns });
    assert_eq!(t.v.sched.timers.period_ns(), 10_000_000, "on from the start");
    assert_eq!(
        (set(0), set(999_999), set(u64::MAX)),
        (Err(Errno::Inval), Err(Errno::Inval), Err(Errno::Inval))
    );
    assert_eq!(set(1_000_000), Ok(0));
    assert!(t.v.sched.timers.deadline(TimerKind::Periodic).is_some());
    assert_eq!(t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::StopPeriodicTimer.raw()), 0, 0, 0, 0]), Ok(0));
    assert_eq!(t.v.sched.timers.deadline(TimerKind::Periodic), None);
}

#[test]
fn xsa_327_a_vcpu_info_is_aligned_and_inside_its_frame() {
    let t = Test::new();
    let mine = t.w.hv.frames.alloc_for(&t.w.m, &t.dom.mem, 0, 0).unwrap();
    let register = |mfn: u64, offset| {
        t.vcpu_op(VcpuOp::RegisterVcpuInfo, 0, &VcpuRegisterVcpuInfo { mfn, offset, rsvd: 0 })
    };
    for offset in (1..64).filter(|o| o % 8 != 0).chain([4033, 4040, 4096, u32::MAX]) {
        assert_eq!(register(mine.raw(), offset), Err(Errno::NxIo), "{offset}");
    }
    for mfn in [0, 100, 1 << 40, u64::MAX] {
        assert_eq!(register(mfn, 0), Err(Errno::Inval), "mfn {mfn:#x}");
    }
    assert_eq!(register(mine.raw(), 64), Ok(0));
    assert_eq!(t.v.events.info_location(), Some((mine, 64)));
    assert_eq!(register(mine.raw(), 128), Err(Errno::Inval), "only once");
    assert!(t.w.m.words(mine)[9].load(Relaxed) == u64::MAX, "every selector bit is set");
}

#[test]
fn a_vcpu_info_keeps_its_frame_writable() {
    let t = Test::new();
    let mine: Mfn = t.w.hv.frames.alloc_for(&t.w.m, &t.dom.mem, 0, 0).unwrap();
    let arg = VcpuRegisterVcpuInfo { mfn: mine.raw(), offset: 0, rsvd: 0 };
    assert_eq!(t.vcpu_op(VcpuOp::RegisterVcpuInfo, 0, &arg), Ok(0));
    let page = t.w.hv.frames.get_page(mine, t.dom.id).unwrap();
    assert!(page.info().type_info().count() == 1);
}

#[test]
fn a_runstate_area_shows_the_state_at_once() {
    let t = Test::new();
    let area = ARG + 4096;
    let register =
        |addr| t.vcpu_op(VcpuOp::RegisterRunstateMemoryArea, 0, &VcpuRegisterRunstateMemoryArea { addr });
    assert_eq!(register(HYPERVISOR), Err(Errno::Fault));
    assert_eq!(register(area), Ok(0));
    let info: VcpuRunstateInfo = t.get(area);
    assert_eq!(info.state, 0);
    assert_eq!(info.state_entry_time >> 63, 0);
}

#[test]
fn the_last_vcpu_that_goes_down_switches_the_domain_off() {
    let t = Test::new();
    let second = t.dom.add_vcpu();
    let down = |n| t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::Down.raw()), n, 0, 0, 0]);
    let up = |n| t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::Up.raw()), n, 0, 0, 0]);
    let is_up = |n| t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::IsUp.raw()), n, 0, 0, 0]);
    assert_eq!(up(1), Err(Errno::Inval), "it has no context");
    second.sched.initialised.store(true, Relaxed);
    t.w.hv.sched.reserve(1).unwrap();
    assert_eq!((up(1), is_up(1), is_up(2)), (Ok(0), Ok(1), Err(Errno::NoEnt)));
    assert_eq!((down(1), is_up(1)), (Ok(0), Ok(0)));
    assert_eq!(t.dom.slow.lock().shutdown, None);
    assert_eq!(down(0), Ok(0));
    assert_eq!(t.dom.slow.lock().shutdown, Some(0));
}

#[test]
fn an_nmi_waits_for_its_handler() {
    let t = Test::new();
    let nmi = |arg| t.call(Hypercall::VcpuOp, [u64::from(VcpuOp::SendNmi.raw()), 0, arg, 0, 0]);
    assert_eq!(nmi(ARG), Err(Errno::Inval));
    assert_eq!(nmi(0), Ok(0));
    assert!(t.v.entry.nmi_pending.load(Relaxed));
}
