//! Calls that every guest makes.

use alloc::vec::Vec;

use pv_abi::callback::{CallbackOp, CallbackRegister, CallbackUnregister};
use pv_abi::console::ConsoleIoOp;
use pv_abi::errno::Errno;
use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose,
    EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSend, EvtchnSetPriority, EvtchnStatus,
    EvtchnUnmask,
};
use pv_abi::grant::{
    GnttabCopy, GnttabCopyPtr, GnttabGetVersion, GnttabMapGrantRef, GnttabOp, GnttabQuerySize,
    GnttabSetVersion, GnttabSetupTable, GnttabUnmapGrantRef, GrantEntryV1,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::memory::{
    MemoryOp, XenMachphysMfnList, XenMemoryDomain, XenMemoryExchange, XenMemoryReservation,
};
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MulticallEntry};
use pv_abi::nmi::{NmiOp, XennmiCallback};
use pv_abi::sched::{SchedOp, SchedPoll, SchedShutdown, SchedWatchdog};
use pv_abi::trap::{IretFrame, TrapInfo, VcpuGuestContext};
use pv_abi::vcpu::{
    VcpuOp, VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea, VcpuRegisterVcpuInfo,
    VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};
use pv_abi::version::{XenBuildId, XenFeatureInfo, XenVersionOp};
use pv_abi::vm_assist::{VmAssist, VmAssistCmd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{ARG, GUEST, MORE, SELF, Scenario, Who, World, ext};
use core::sync::atomic::Ordering::Relaxed;

const SELF64: u64 = SELF as u64;

/// A scenario of the guest, or of whom it names.
macro_rules! scenario {
    ($call:ident, $who:ident, $prepare:expr $(, also $($also:ident)+)?) => {
        Scenario {
            call: Hypercall::$call,
            sub: None,
            name: "",
            who: Who::$who,
            prepare: $prepare,
            also: &[$($(Errno::$also),+)?],
        }
    };
    ($call:ident, $sub:expr, $who:ident, $prepare:expr $(, also $($also:ident)+)?) => {
        Scenario {
            sub: Some($sub.raw() as u64),
            name: stringify!($sub),
            ..scenario!($call, $who, $prepare $(, also $($also)+)?)
        }
    };
}
pub(super) use scenario;

/// Registers of a call `(sub, ARG)` with an argument.
pub(super) fn op<T: FromBytes + IntoBytes + Immutable>(w: &World, sub: u32, arg: &T) -> [u64; 5] {
    w.put(ARG, arg);
    [u64::from(sub), ARG, 0, 0, 0]
}

fn vcpu<T: FromBytes + IntoBytes + Immutable>(w: &World, sub: VcpuOp, arg: &T) -> [u64; 5] {
    w.put(ARG, arg);
    [u64::from(sub.raw()), 0, ARG, 0, 0]
}

/// An entry of the guest's L1.
fn l1(w: &World, index: u64) -> u64 {
    (w.guest.mfns[3].raw() << 12) + index * 8
}

fn pte(w: &World, n: usize) -> u64 {
    w.guest.mfns[n].raw() << 12 | 0x67
}

fn mmuext(w: &World, cmd: MmuextCmd, arg1: u64, arg2: u64) -> [u64; 5] {
    w.put(ARG, &ext(cmd, arg1, arg2));
    [ARG, 1, MORE, SELF64, 0]
}

fn updates(w: &World) -> [u64; 5] {
    let list = [(0, pte(w, 8)), (1, pte(w, 9)), (2, 0)];
    let list = list.map(|(n, val)| MmuUpdate { ptr: l1(w, n), val });
    w.put(ARG, &list);
    [ARG, 3, MORE, SELF64, 0]
}

fn batch(w: &World) -> [u64; 5] {
    w.put(MORE, &MmuUpdate { ptr: l1(w, 0), val: pte(w, 8) });
    let update = [MORE, 1, 0, SELF64, 0, 0];
    let entries =
        [(Hypercall::MmuUpdate, update), (Hypercall::XenVersion, [0; 6]), (Hypercall::SchedOp, [0; 6])];
    w.put(ARG, &entries.map(|(op, args)| MulticallEntry { op: op.raw(), result: 0, args }));
    [ARG, 3, 0, 0, 0]
}

fn traps(w: &World) -> [u64; 5] {
    let trap = |vector| TrapInfo { vector, cs: 0xe033, address: 0x1000, ..TrapInfo::default() };
    w.put(ARG, &[trap(3), trap(13), trap(14), TrapInfo::default()]);
    [ARG, 0, 0, 0, 0]
}

/// The calls that are neither memory nor grants nor events.
#[rustfmt::skip]
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = alloc::vec![
        scenario!(SetTrapTable, Guest, traps),
        scenario!(MmuUpdate, Guest, updates),
        scenario!(SetGdt, Guest, |w| { w.put(ARG, &[w.guest.mfns[10].raw(), w.guest.mfns[11].raw()]); [ARG, 600, 0, 0, 0] }),
        scenario!(StackSwitch, Guest, |_| [0xe02b, 0x8000, 0, 0, 0]),
        scenario!(SetCallbacks, Guest, |_| [0x1000, 0x2000, 0x3000, 0, 0]),
        scenario!(FpuTaskswitch, Guest, |_| [1, 0, 0, 0, 0]),
        scenario!(SetDebugreg, Guest, |_| [0, 0x1000, 0, 0, 0]),
        scenario!(GetDebugreg, Guest, |_| [0, 0, 0, 0, 0]),
        scenario!(UpdateDescriptor, Guest, |w| [w.guest.mfns[10].raw() << 12, 0x00cf_fb00_0000_ffff, 0, 0, 0]),
        scenario!(Multicall, Guest, batch),
        scenario!(UpdateVaMapping, Guest, |w| [0x5000, pte(w, 8), 0, 0, 0]),
        scenario!(UpdateVaMappingOtherdomain, Dom0, |w| [0x5000, pte(w, 8), 0, u64::from(GUEST.raw()), 0]),
        scenario!(SetTimerOp, Guest, |_| [1_000_000, 0, 0, 0, 0]),
        scenario!(Iret, Guest, |w| {
            w.put(ARG, &IretFrame { rip: 0x1000, cs: 0xe033, rflags: 0x202, rsp: ARG + 0x800, ss: 0xe02b, ..Default::default() });
            [0; 5]
        }),
        scenario!(SetSegmentBase, Guest, |_| [0, 0x1000, 0, 0, 0]),
        scenario!(VmAssist, VmAssistCmd::Enable, Guest, |_| [0, u64::from(VmAssist::WritablePagetables.raw()), 0, 0, 0]),
        scenario!(VmAssist, VmAssistCmd::Disable, Guest, |_| [1, u64::from(VmAssist::WritablePagetables.raw()), 0, 0, 0]),
        scenario!(NmiOp, NmiOp::RegisterCallback, Guest, |w| op(w, 0, &XennmiCallback { handler_address: 0x1000, pad: 0 })),
        scenario!(NmiOp, NmiOp::UnregisterCallback, Guest, |_| [1, 0, 0, 0, 0]),
        scenario!(CallbackOp, CallbackOp::Register, Guest, |w| op(w, 0, &CallbackRegister { address: 0x1000, ..Default::default() })),
        scenario!(CallbackOp, CallbackOp::Unregister, Guest, |w| op(w, 1, &CallbackUnregister { kind: 4, _unused: 0 })),
        scenario!(ConsoleIo, ConsoleIoOp::Write, Dom0, |_| [0, 600, ARG, 0, 0]),
        scenario!(ConsoleIo, ConsoleIoOp::Read, Dom0, |_| [1, 16, ARG, 0, 0]),
        scenario!(SchedOp, SchedOp::Yield, Guest, |_| [0; 5]),
        scenario!(SchedOp, SchedOp::Block, Guest, |_| [1, 0, 0, 0, 0]),
        scenario!(SchedOp, SchedOp::Shutdown, Guest, |w| op(w, 2, &SchedShutdown { reason: 0 })),
        scenario!(SchedOp, SchedOp::ShutdownCode, Guest, |w| op(w, 5, &SchedShutdown { reason: 0 })),
        scenario!(SchedOp, SchedOp::Watchdog, Guest, |w| op(w, 6, &SchedWatchdog { id: 0, timeout: 5 })),
        scenario!(SchedOp, SchedOp::Poll, Guest, |w| {
            w.put(MORE, &[1_u32, 2, 3]);
            op(w, 3, &SchedPoll { ports: MORE, nr_ports: 3, _pad: 0, timeout: 1 })
        }),
    ];
    all.extend(versions());
    all.extend(vcpus());
    all
}

#[rustfmt::skip]
fn versions() -> Vec<Scenario> {
    alloc::vec![
        scenario!(XenVersion, XenVersionOp::Version, Guest, |_| [0; 5]),
        scenario!(XenVersion, XenVersionOp::Extraversion, Guest, |_| [1, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::CompileInfo, Guest, |_| [2, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::Capabilities, Guest, |_| [3, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::Changeset, Guest, |_| [4, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::PlatformParameters, Guest, |_| [5, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::GetFeatures, Guest, |w| op(w, 6, &XenFeatureInfo::default())),
        scenario!(XenVersion, XenVersionOp::Pagesize, Guest, |_| [7, 0, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::GuestHandle, Guest, |_| [8, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::Commandline, Dom0, |_| [9, ARG, 0, 0, 0]),
        scenario!(XenVersion, XenVersionOp::BuildId, Dom0, |w| op(w, 10, &XenBuildId { len: 0 }), also NoData),
    ]
}

#[rustfmt::skip]
fn vcpus() -> Vec<Scenario> {
    alloc::vec![
        scenario!(VcpuOp, VcpuOp::Initialise, Guest, |w| {
            let v = w.guest.dom.add_vcpu();
            v.events.set_info(w.guest.dom.shared_info, 64);
            let mut context = VcpuGuestContext::default();
            context.user_regs.cs = 0xe033;
            context.user_regs.ss = 0xe02b;
            context.kernel_ss = 0xe02b;
            context.ctrlreg[3] = w.guest.mfns[4].raw() << 12;
            w.put(ARG, &context);
            [0, 1, ARG, 0, 0]
        }, also Inval),
        scenario!(VcpuOp, VcpuOp::Up, Guest, |_| [1, 0, 0, 0, 0], also Inval),
        scenario!(VcpuOp, VcpuOp::Down, Guest, |_| [2, 0, 0, 0, 0]),
        scenario!(VcpuOp, VcpuOp::IsUp, Guest, |_| [3, 0, 0, 0, 0]),
        scenario!(VcpuOp, VcpuOp::GetRunstateInfo, Guest, |_| [4, 0, ARG, 0, 0]),
        scenario!(VcpuOp, VcpuOp::RegisterRunstateMemoryArea, Guest, |w| vcpu(w, VcpuOp::RegisterRunstateMemoryArea, &VcpuRegisterRunstateMemoryArea { addr: MORE })),
        scenario!(VcpuOp, VcpuOp::SetPeriodicTimer, Guest, |w| vcpu(w, VcpuOp::SetPeriodicTimer, &VcpuSetPeriodicTimer { period_ns: 10_000_000 })),
        scenario!(VcpuOp, VcpuOp::StopPeriodicTimer, Guest, |_| [7, 0, 0, 0, 0]),
        scenario!(VcpuOp, VcpuOp::SetSingleshotTimer, Guest, |w| vcpu(w, VcpuOp::SetSingleshotTimer, &VcpuSetSingleshotTimer { timeout_abs_ns: 1000, ..Default::default() })),
        scenario!(VcpuOp, VcpuOp::StopSingleshotTimer, Guest, |_| [9, 0, 0, 0, 0]),
        scenario!(VcpuOp, VcpuOp::RegisterVcpuInfo, Guest, |w| vcpu(w, VcpuOp::RegisterVcpuInfo, &VcpuRegisterVcpuInfo { mfn: w.guest.mfns[8].raw(), offset: 64, rsvd: 0 })),
        scenario!(VcpuOp, VcpuOp::SendNmi, Guest, |_| [11, 0, 0, 0, 0]),
        scenario!(VcpuOp, VcpuOp::GetPhysid, Guest, |_| [12, 0, ARG, 0, 0], also Inval),
        scenario!(VcpuOp, VcpuOp::RegisterVcpuTimeMemoryArea, Guest, |w| vcpu(w, VcpuOp::RegisterVcpuTimeMemoryArea, &VcpuRegisterTimeMemoryArea { addr: MORE })),
    ]
}

fn extents(w: &World, sub: MemoryOp, first: u64, nr: u64) -> [u64; 5] {
    let list: [u64; 3] = core::array::from_fn(|n| first + u64::try_from(n).unwrap());
    w.put(MORE, &list);
    let arg = XenMemoryReservation { extent_start: MORE, nr_extents: nr, domid: SELF, ..Default::default() };
    op(w, sub.raw(), &arg)
}

fn exchange(w: &World) -> [u64; 5] {
    w.put(MORE, &[w.guest.mfns[8].raw(), w.guest.mfns[9].raw()]);
    w.put(MORE + 64, &[20_u64, 21]);
    let list = |extent_start| XenMemoryReservation {
        extent_start,
        nr_extents: 2,
        domid: SELF,
        ..Default::default()
    };
    let arg = XenMemoryExchange { in_: list(MORE), out: list(MORE + 64), nr_exchanged: 0 };
    op(w, MemoryOp::Exchange.raw(), &arg)
}

/// A tree in frames 5 to 8 that is not in use yet, so that its pin is long work.
fn fresh_tree(w: &World) -> u64 {
    let mfns = &w.guest.mfns;
    for (n, &table) in mfns.iter().enumerate().take(8).skip(5) {
        w.entry(table, 0).store(pte(w, n + 1), Relaxed);
    }
    for n in 0..4 {
        w.entry(mfns[8], n).store(pte(w, 9 + n), Relaxed);
    }
    mfns[5].raw()
}

#[rustfmt::skip]
pub(super) fn memory() -> Vec<Scenario> {
    use MmuextCmd as C;
    alloc::vec![
        scenario!(MemoryOp, MemoryOp::IncreaseReservation, Guest, |w| extents(w, MemoryOp::IncreaseReservation, 0, 3)),
        scenario!(MemoryOp, MemoryOp::DecreaseReservation, Guest, |w| extents(w, MemoryOp::DecreaseReservation, w.guest.mfns[15].raw(), 1)),
        scenario!(MemoryOp, MemoryOp::PopulatePhysmap, Guest, |w| extents(w, MemoryOp::PopulatePhysmap, 20, 3)),
        scenario!(MemoryOp, MemoryOp::Exchange, Guest, exchange),
        scenario!(MemoryOp, MemoryOp::MaximumRamPage, Guest, |_| [2, 0, 0, 0, 0]),
        scenario!(MemoryOp, MemoryOp::CurrentReservation, Guest, |w| op(w, 3, &XenMemoryDomain { domid: SELF })),
        scenario!(MemoryOp, MemoryOp::MaximumReservation, Guest, |w| op(w, 4, &XenMemoryDomain { domid: SELF })),
        scenario!(MemoryOp, MemoryOp::MaximumGpfn, Guest, |w| op(w, 14, &XenMemoryDomain { domid: SELF }), also Perm),
        scenario!(MemoryOp, MemoryOp::MachphysMfnList, Dom0, |w| op(w, 5, &XenMachphysMfnList { max_extents: 1, extent_start: MORE, ..Default::default() })),
        scenario!(MemoryOp, MemoryOp::MachphysMapping, Guest, |_| [12, ARG, 0, 0, 0]),
        scenario!(MemoryOp, MemoryOp::AddToPhysmap, Guest, |_| [7, ARG, 0, 0, 0], also Acces),
        scenario!(MemoryOp, MemoryOp::AddToPhysmapBatch, Guest, |_| [23, ARG, 0, 0, 0], also Acces),
        scenario!(MemoryOp, MemoryOp::RemoveFromPhysmap, Guest, |_| [15, ARG, 0, 0, 0], also Acces),
        scenario!(MemoryOp, MemoryOp::SetPodTarget, Guest, |_| [16, ARG, 0, 0, 0], also Inval),
        scenario!(MemoryOp, MemoryOp::GetPodTarget, Guest, |_| [17, ARG, 0, 0, 0], also Inval),
        scenario!(MmuextOp, C::PinL1Table, Guest, |w| { fresh_tree(w); mmuext(w, C::PinL1Table, w.guest.mfns[8].raw(), 0) }),
        scenario!(MmuextOp, C::PinL2Table, Guest, |w| { fresh_tree(w); mmuext(w, C::PinL2Table, w.guest.mfns[7].raw(), 0) }),
        scenario!(MmuextOp, C::PinL3Table, Guest, |w| { fresh_tree(w); mmuext(w, C::PinL3Table, w.guest.mfns[6].raw(), 0) }),
        scenario!(MmuextOp, C::PinL4Table, Guest, |w| { let root = fresh_tree(w); mmuext(w, C::PinL4Table, root, 0) }),
        scenario!(MmuextOp, C::UnpinTable, Guest, |w| {
            let root = fresh_tree(w);
            let args = mmuext(w, C::PinL4Table, root, 0);
            assert_eq!(w.run(Who::Guest, Hypercall::MmuextOp, args), 0);
            mmuext(w, C::UnpinTable, root, 0)
        }),
        scenario!(MmuextOp, C::NewBaseptr, Guest, |w| { let root = fresh_tree(w); mmuext(w, C::NewBaseptr, root, 0) }),
        scenario!(MmuextOp, C::NewUserBaseptr, Guest, |w| { let root = fresh_tree(w); mmuext(w, C::NewUserBaseptr, root, 0) }),
        scenario!(MmuextOp, C::TlbFlushLocal, Guest, |w| mmuext(w, C::TlbFlushLocal, 0, 0)),
        scenario!(MmuextOp, C::InvlpgLocal, Guest, |w| mmuext(w, C::InvlpgLocal, 0x1000, 0)),
        scenario!(MmuextOp, C::TlbFlushMulti, Guest, |w| mmuext(w, C::TlbFlushMulti, 0, MORE + 64)),
        scenario!(MmuextOp, C::InvlpgMulti, Guest, |w| mmuext(w, C::InvlpgMulti, 0x1000, MORE + 64)),
        scenario!(MmuextOp, C::TlbFlushAll, Guest, |w| mmuext(w, C::TlbFlushAll, 0, 0)),
        scenario!(MmuextOp, C::InvlpgAll, Guest, |w| mmuext(w, C::InvlpgAll, 0x1000, 0)),
        scenario!(MmuextOp, C::FlushCache, Guest, |w| mmuext(w, C::FlushCache, 0, 0), also Acces),
        scenario!(MmuextOp, C::FlushCacheGlobal, Guest, |w| mmuext(w, C::FlushCacheGlobal, 0, 0), also Acces),
        scenario!(MmuextOp, C::SetLdt, Guest, |w| mmuext(w, C::SetLdt, 0, 0)),
        scenario!(MmuextOp, C::ClearPage, Guest, |w| mmuext(w, C::ClearPage, w.guest.mfns[8].raw(), 0)),
        scenario!(MmuextOp, C::CopyPage, Guest, |w| mmuext(w, C::CopyPage, w.guest.mfns[8].raw(), w.guest.mfns[9].raw())),
    ]
}

/// dom0 grants its frame 8 to the guest by reference 8; the guest maps it at entry 5.
fn offered(w: &World) -> GnttabMapGrantRef {
    let table = w.dom0.dom.grants.frame(0).unwrap();
    let frame = u32::try_from(w.dom0.mfns[8].raw()).unwrap();
    w.entry(table, 8).store(GrantEntryV1 { flags: 1, domid: GUEST.raw(), frame }.to_word(), Relaxed);
    GnttabMapGrantRef { host_addr: 5 * 4096, flags: 2, gref: 8, dom: 0, ..Default::default() }
}

fn grant<T: FromBytes + IntoBytes + Immutable>(w: &World, sub: GnttabOp, list: &T, count: u64) -> [u64; 5] {
    w.put(ARG, list);
    [u64::from(sub.raw()), ARG, count, 0, 0]
}

fn map_two(w: &World) -> [u64; 5] {
    let first = offered(w);
    let second = GnttabMapGrantRef { host_addr: 6 * 4096, ..first };
    grant(w, GnttabOp::MapGrantRef, &[first, second], 2)
}

fn unmap_two(w: &World) -> [u64; 5] {
    let args = map_two(w);
    assert_eq!(w.run(Who::Guest, Hypercall::GrantTableOp, args), 0);
    let list = [0, 1].map(|n: u32| {
        let mapped: GnttabMapGrantRef = w.get(ARG + u64::from(n) * 32);
        GnttabUnmapGrantRef { host_addr: mapped.host_addr, handle: mapped.handle, ..Default::default() }
    });
    grant(w, GnttabOp::UnmapGrantRef, &list, 2)
}

fn copy_two(w: &World) -> [u64; 5] {
    offered(w);
    let source = GnttabCopyPtr { u: 8, domid: 0, offset: 0, _pad: 0 };
    let dest = GnttabCopyPtr { u: w.guest.mfns[8].raw(), domid: SELF, offset: 0, _pad: 0 };
    let one = GnttabCopy { source, dest, len: 64, flags: 1, ..Default::default() };
    grant(w, GnttabOp::Copy, &[one, one], 2)
}

/// The guest changes to FIFO queues.
fn fifo(w: &World) -> [u64; 5] {
    let arg = EvtchnInitControl { control_gfn: w.guest.mfns[8].raw(), ..Default::default() };
    op(w, EvtchnOp::InitControl.raw(), &arg)
}

/// Room for ports is made in groups of 64: the next one needs memory.
fn all_ports_taken(w: &World) {
    for _ in 1..64 {
        let args = op(w, EvtchnOp::BindIpi.raw(), &EvtchnBindIpi::default());
        assert_eq!(w.run(Who::Guest, Hypercall::EventChannelOp, args), 0);
    }
}

fn with_ipi(w: &World) -> u32 {
    let args = op(w, EvtchnOp::BindIpi.raw(), &EvtchnBindIpi::default());
    assert_eq!(w.run(Who::Guest, Hypercall::EventChannelOp, args), 0);
    w.get::<EvtchnBindIpi>(ARG).port
}

fn connect(w: &World) -> [u64; 5] {
    let arg = EvtchnAllocUnbound { dom: SELF, remote_dom: GUEST.raw(), port: 0 };
    let args = op(w, EvtchnOp::AllocUnbound.raw(), &arg);
    assert_eq!(w.run(Who::Dom0, Hypercall::EventChannelOp, args), 0);
    let remote_port = w.get::<EvtchnAllocUnbound>(ARG).port;
    all_ports_taken(w);
    op(w, 0, &EvtchnBindInterdomain { remote_dom: 0, remote_port, ..Default::default() })
}

#[rustfmt::skip]
pub(super) fn grants_and_events() -> Vec<Scenario> {
    use EvtchnOp as E;
    alloc::vec![
        scenario!(GrantTableOp, GnttabOp::MapGrantRef, Guest, map_two),
        scenario!(GrantTableOp, GnttabOp::UnmapGrantRef, Guest, unmap_two),
        scenario!(GrantTableOp, GnttabOp::Copy, Guest, copy_two),
        scenario!(GrantTableOp, GnttabOp::SetupTable, Guest, |w| grant(w, GnttabOp::SetupTable, &GnttabSetupTable { dom: SELF, nr_frames: 3, frame_list: MORE, ..Default::default() }, 1)),
        scenario!(GrantTableOp, GnttabOp::QuerySize, Guest, |w| grant(w, GnttabOp::QuerySize, &GnttabQuerySize { dom: SELF, ..Default::default() }, 1)),
        scenario!(GrantTableOp, GnttabOp::SetVersion, Guest, |w| grant(w, GnttabOp::SetVersion, &GnttabSetVersion { version: 1 }, 1)),
        scenario!(GrantTableOp, GnttabOp::GetVersion, Guest, |w| grant(w, GnttabOp::GetVersion, &GnttabGetVersion { dom: SELF, ..Default::default() }, 1)),
        scenario!(EventChannelOp, E::AllocUnbound, Guest, |w| { all_ports_taken(w); op(w, 6, &EvtchnAllocUnbound { dom: SELF, remote_dom: 0, port: 0 }) }),
        scenario!(EventChannelOp, E::BindInterdomain, Guest, connect),
        scenario!(EventChannelOp, E::BindVirq, Guest, |w| { all_ports_taken(w); op(w, 1, &EvtchnBindVirq::default()) }),
        scenario!(EventChannelOp, E::BindIpi, Guest, |w| { all_ports_taken(w); op(w, 7, &EvtchnBindIpi::default()) }),
        scenario!(EventChannelOp, E::BindVcpu, Guest, |w| { let args = connect(w); assert_eq!(w.run(Who::Guest, Hypercall::EventChannelOp, args), 0); op(w, 8, &EvtchnBindVcpu { port: 64, vcpu: 0 }) }),
        scenario!(EventChannelOp, E::Close, Guest, |w| { let port = with_ipi(w); op(w, 3, &EvtchnClose { port }) }),
        scenario!(EventChannelOp, E::Send, Guest, |w| { let port = with_ipi(w); op(w, 4, &EvtchnSend { port }) }),
        scenario!(EventChannelOp, E::Status, Guest, |w| { let port = with_ipi(w); op(w, 5, &EvtchnStatus { dom: SELF, port, ..Default::default() }) }),
        scenario!(EventChannelOp, E::Unmask, Guest, |w| { let port = with_ipi(w); op(w, 9, &EvtchnUnmask { port }) }),
        scenario!(EventChannelOp, E::Reset, Guest, |w| { all_ports_taken(w); with_ipi(w); op(w, 10, &EvtchnReset { dom: SELF }) }),
        scenario!(EventChannelOp, E::InitControl, Guest, |w| fifo(w)),
        scenario!(EventChannelOp, E::ExpandArray, Guest, |w| {
            let args = fifo(w);
            assert_eq!(w.run(Who::Guest, Hypercall::EventChannelOp, args), 0);
            op(w, E::ExpandArray.raw(), &EvtchnExpandArray { array_gfn: w.guest.mfns[9].raw() })
        }),
        scenario!(EventChannelOp, E::SetPriority, Guest, |w| {
            let args = fifo(w);
            assert_eq!(w.run(Who::Guest, Hypercall::EventChannelOp, args), 0);
            let port = with_ipi(w);
            op(w, E::SetPriority.raw(), &EvtchnSetPriority { port, priority: 3 })
        }),
    ]
}
