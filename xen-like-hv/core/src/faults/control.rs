//! Calls of the control domain: devices, the machine, other domains.

use alloc::vec::Vec;

use pv_abi::domctl::{
    AffinityFlags, Domctl, DomctlAddressSize, DomctlCmd, DomctlCreatedomain, DomctlGetpageframeinfo3,
    DomctlGetvcpuinfo, DomctlHypercallInit, DomctlMaxMem, DomctlMaxVcpus, DomctlNodeaffinity,
    DomctlSchedulerOp, DomctlSendtrigger, DomctlSetVirqHandler, DomctlSetdomainhandle, DomctlSettimeoffset,
    DomctlTscInfo, DomctlVcpuaffinity, DomctlVcpucontext, XenctlBitmap,
};
use pv_abi::errno::Errno;
use pv_abi::evtchn::{EvtchnBindPirq, EvtchnOp};
use pv_abi::hypercall::Hypercall;
use pv_abi::memory::{
    E820Entry, MemoryOp, XenForeignMemoryMap, XenMemAcquireResource, XenMemoryMap, XenMemoryReservation,
};
use pv_abi::physdev::{
    PhysdevApic, PhysdevEoi, PhysdevGetFreePirq, PhysdevIrq, PhysdevIrqStatusQuery, PhysdevManagePci,
    PhysdevMapPirq, PhysdevOp, PhysdevPciDevice, PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved,
    PhysdevPirqEoiGmfn, PhysdevSetIopl, PhysdevSetupGsi, PhysdevUnmapPirq,
};
use pv_abi::platform::{
    PlatformCmd, PlatformOp, XenpfEnterAcpiSleep, XenpfPcpuinfo, XenpfSettime32, XenpfSettime64,
};
use pv_abi::sched::{SchedOp, SchedPinOverride, SchedRemoteShutdown};
use pv_abi::sysctl::{
    Sysctl, SysctlAvailheap, SysctlCmd, SysctlCpupoolOp, SysctlCputopoinfo, SysctlGetcpuinfo,
    SysctlGetdomaininfolist, SysctlNumainfo, SysctlReadconsole,
};
use zerocopy::{Immutable, IntoBytes};

use super::guest::{op, scenario};
use super::{ARG, GUEST, MORE, SELF, Scenario, Who, World};

fn domctl<T: IntoBytes + Immutable>(w: &World, cmd: DomctlCmd, payload: &T) -> [u64; 5] {
    w.put(ARG, &Domctl::new(cmd, GUEST, payload));
    [ARG, 0, 0, 0, 0]
}

fn sysctl<T: IntoBytes + Immutable>(w: &World, cmd: SysctlCmd, payload: &T) -> [u64; 5] {
    w.put(ARG, &Sysctl::new(cmd, payload));
    [ARG, 0, 0, 0, 0]
}

fn platform<T: IntoBytes + Immutable>(w: &World, cmd: PlatformCmd, payload: &T) -> [u64; 5] {
    w.put(ARG, &PlatformOp::new(cmd, payload));
    [ARG, 0, 0, 0, 0]
}

fn gsi(w: &World, pirq: u32) {
    let args = op(
        w,
        PhysdevOp::SetupGsi.raw(),
        &PhysdevSetupGsi { gsi: i32::try_from(pirq).unwrap(), ..Default::default() },
    );
    assert_eq!(w.run(Who::Dom0, Hypercall::PhysdevOp, args), 0);
    let line = i32::try_from(pirq).unwrap();
    let arg = PhysdevMapPirq { domid: SELF, kind: 1, index: line, pirq: line, ..Default::default() };
    let args = op(w, PhysdevOp::MapPirq.raw(), &arg);
    assert_eq!(w.run(Who::Dom0, Hypercall::PhysdevOp, args), 0);
}

fn pci_device(w: &World) {
    let args = op(w, PhysdevOp::PciDeviceAdd.raw(), &PhysdevPciDeviceAdd { devfn: 8, ..Default::default() });
    assert_eq!(w.run(Who::Dom0, Hypercall::PhysdevOp, args), 0);
}

/// A device with both kinds of messages.
fn plugged(w: &World) {
    w.w.m.devices.plug(8);
    pci_device(w);
}

fn table_entry(entry_nr: i32) -> PhysdevMapPirq {
    PhysdevMapPirq {
        domid: SELF,
        kind: 3,
        index: -1,
        pirq: -1,
        devfn: 8,
        entry_nr,
        table_base: 1,
        ..Default::default()
    }
}

/// The pirq of an entry of its table.
fn mapped_entry(w: &World) -> i32 {
    plugged(w);
    let args = op(w, PhysdevOp::MapPirq.raw(), &table_entry(1));
    assert_eq!(w.run(Who::Dom0, Hypercall::PhysdevOp, args), 0);
    w.get::<PhysdevMapPirq>(ARG).pirq
}

fn prepared(w: &World) {
    plugged(w);
    let args = op(w, PhysdevOp::PrepareMsix.raw(), &PhysdevPciDevice { devfn: 8, ..Default::default() });
    assert_eq!(w.run(Who::Dom0, Hypercall::PhysdevOp, args), 0);
}

fn bound_line(w: &World) {
    gsi(w, 17);
    let args = op(w, EvtchnOp::BindPirq.raw(), &EvtchnBindPirq { pirq: 17, flags: 0, port: 0 });
    assert_eq!(w.run(Who::Dom0, Hypercall::EventChannelOp, args), 0);
}

/// A memory map of two ranges at [`MORE`].
fn map_of_two(w: &World) -> XenMemoryMap {
    w.put(MORE, &[E820Entry { kind: 1, ..Default::default() }, E820Entry { kind: 2, ..Default::default() }]);
    XenMemoryMap { nr_entries: 2, _pad: 0, buffer: MORE }
}

fn set_map(w: &World) -> [u64; 5] {
    let map = map_of_two(w);
    op(w, MemoryOp::SetMemoryMap.raw(), &XenForeignMemoryMap { domid: SELF, map, ..Default::default() })
}

#[rustfmt::skip]
pub(super) fn machine() -> Vec<Scenario> {
    use PhysdevOp as P;
    use SysctlCmd as S;
    alloc::vec![
        scenario!(PhysdevOp, P::Eoi, Dom0, |w| { bound_line(w); op(w, P::Eoi.raw(), &PhysdevEoi { irq: 17 }) }, also Inval),
        scenario!(PhysdevOp, P::SetIopl, Dom0, |w| op(w, 6, &PhysdevSetIopl { iopl: 1 })),
        scenario!(PhysdevOp, P::IrqStatusQuery, Dom0, |w| op(w, 5, &PhysdevIrqStatusQuery { irq: 17, flags: 0 })),
        scenario!(PhysdevOp, P::ApicRead, Dom0, |w| op(w, 8, &PhysdevApic::default()), also Inval),
        scenario!(PhysdevOp, P::AllocIrqVector, Dom0, |w| op(w, 10, &PhysdevIrq { irq: 17, vector: 0 })),
        scenario!(PhysdevOp, P::MapPirq, Dom0, |w| op(w, 13, &PhysdevMapPirq { domid: SELF, kind: 1, index: 17, pirq: 17, ..Default::default() })),
        scenario!(PhysdevOp, P::UnmapPirq, Dom0, |w| op(w, 14, &PhysdevUnmapPirq { domid: SELF, _pad: 0, pirq: 17 }), also Inval),
        scenario!(PhysdevOp, P::SetupGsi, Dom0, |w| op(w, 21, &PhysdevSetupGsi { gsi: 17, ..Default::default() })),
        scenario!(PhysdevOp, P::GetFreePirq, Dom0, |w| op(w, 23, &PhysdevGetFreePirq { kind: 1, pirq: 0 }), also OpNotSupp NoSpc Inval),
        scenario!(PhysdevOp, P::ManagePciAdd, Dom0, |w| op(w, 15, &PhysdevManagePci { bus: 0, devfn: 8 })),
        scenario!(PhysdevOp, P::ManagePciAddExt, Dom0, |w| op(w, 20, &PhysdevManagePci { bus: 0, devfn: 8 })),
        scenario!(PhysdevOp, P::ManagePciRemove, Dom0, |w| { pci_device(w); op(w, 16, &PhysdevManagePci { bus: 0, devfn: 8 }) }, also NoDev),
        scenario!(PhysdevOp, P::PciDeviceAdd, Dom0, |w| op(w, 25, &PhysdevPciDeviceAdd { devfn: 8, ..Default::default() })),
        scenario!(PhysdevOp, P::PciDeviceRemove, Dom0, |w| { pci_device(w); op(w, 26, &PhysdevPciDevice { devfn: 8, ..Default::default() }) }, also NoDev),
        scenario!(PhysdevOp, P::PirqEoiGmfnV1, Dom0, |w| { bound_line(w); op(w, 17, &PhysdevPirqEoiGmfn { gmfn: w.dom0.mfns[8].raw() }) }, also Busy),
        scenario!(PhysdevOp, P::PirqEoiGmfnV2, Guest, |w| op(w, 28, &PhysdevPirqEoiGmfn { gmfn: w.guest.mfns[8].raw() }), also Busy),
        scenario!(PhysdevOp, P::MapPirq, Dom0, |w| { plugged(w); op(w, 13, &table_entry(2)) }),
        scenario!(PhysdevOp, P::MapPirq, Dom0, |w| { plugged(w); op(w, 13, &PhysdevMapPirq { table_base: 0, ..table_entry(0) }) }),
        scenario!(PhysdevOp, P::UnmapPirq, Dom0, |w| { let pirq = mapped_entry(w); op(w, 14, &PhysdevUnmapPirq { domid: SELF, _pad: 0, pirq }) }, also Inval),
        scenario!(PhysdevOp, P::GetFreePirq, Dom0, |w| op(w, 23, &PhysdevGetFreePirq { kind: 0, pirq: 0 })),
        scenario!(PhysdevOp, P::PciDeviceRemove, Dom0, |w| { mapped_entry(w); op(w, 26, &PhysdevPciDevice { devfn: 8, ..Default::default() }) }, also NoDev),
        scenario!(PhysdevOp, P::PciMmcfgReserved, Dom0, |w| op(w, 24, &PhysdevPciMmcfgReserved { address: 0x4000_0000, end_bus: 255, flags: 1, ..Default::default() }), also Io NoDev Inval),
        scenario!(PhysdevOp, P::PrepareMsix, Dom0, |w| { plugged(w); op(w, 30, &PhysdevPciDevice { devfn: 8, ..Default::default() }) }, also Busy),
        scenario!(PhysdevOp, P::ReleaseMsix, Dom0, |w| { prepared(w); op(w, 31, &PhysdevPciDevice { devfn: 8, ..Default::default() }) }, also Busy),
        scenario!(PhysdevOp, P::RestoreMsi, Dom0, |w| { mapped_entry(w); op(w, 19, &PhysdevManagePci { bus: 0, devfn: 8 }) }),
        scenario!(PhysdevOp, P::RestoreMsiExt, Dom0, |w| { mapped_entry(w); op(w, 27, &PhysdevPciDevice { devfn: 8, ..Default::default() }) }),
        scenario!(EventChannelOp, EvtchnOp::BindPirq, Dom0, |w| { gsi(w, 17); op(w, 2, &EvtchnBindPirq { pirq: 17, flags: 0, port: 0 }) }),
        scenario!(SchedOp, SchedOp::RemoteShutdown, Dom0, |w| op(w, 4, &SchedRemoteShutdown { domain_id: GUEST.raw(), _pad: 0, reason: 0 })),
        scenario!(SchedOp, SchedOp::PinOverride, Dom0, |w| op(w, 7, &SchedPinOverride { pcpu: 0 })),
        scenario!(MemoryOp, MemoryOp::MemoryMap, Dom0, |w| {
            let args = set_map(w);
            assert_eq!(w.run(Who::Dom0, Hypercall::MemoryOp, args), 0);
            op(w, MemoryOp::MemoryMap.raw(), &XenMemoryMap { nr_entries: 2, _pad: 0, buffer: MORE })
        }),
        scenario!(MemoryOp, MemoryOp::MachineMemoryMap, Dom0, |w| op(w, 10, &XenMemoryMap { nr_entries: 8, _pad: 0, buffer: MORE })),
        scenario!(MemoryOp, MemoryOp::SetMemoryMap, Dom0, set_map),
        scenario!(MemoryOp, MemoryOp::ClaimPages, Dom0, |w| op(w, 24, &XenMemoryReservation { nr_extents: 20, domid: GUEST.raw(), ..Default::default() })),
        scenario!(MemoryOp, MemoryOp::AcquireResource, Dom0, |w| op(w, 28, &XenMemAcquireResource { domid: GUEST.raw(), kind: 1, nr_frames: 2, frame_list: MORE, ..Default::default() })),
        scenario!(PlatformOp, PlatformCmd::SetTime32, Dom0, |w| platform(w, PlatformCmd::SetTime32, &XenpfSettime32 { secs: 1, ..Default::default() })),
        scenario!(PlatformOp, PlatformCmd::SetTime64, Dom0, |w| platform(w, PlatformCmd::SetTime64, &XenpfSettime64 { secs: 1, ..Default::default() })),
        scenario!(PlatformOp, PlatformCmd::GetCpuInfo, Dom0, |w| platform(w, PlatformCmd::GetCpuInfo, &XenpfPcpuinfo::default())),
        scenario!(PlatformOp, PlatformCmd::EnterAcpiSleep, Dom0, |w| platform(w, PlatformCmd::EnterAcpiSleep, &XenpfEnterAcpiSleep { sleep_state: 5, ..Default::default() })),
        scenario!(Sysctl, S::ReadConsole, Dom0, |w| sysctl(w, S::ReadConsole, &SysctlReadconsole { buffer: MORE, count: 64, ..Default::default() })),
        scenario!(Sysctl, S::PhysInfo, Dom0, |w| sysctl(w, S::PhysInfo, &0_u64)),
        scenario!(Sysctl, S::SchedId, Dom0, |w| sysctl(w, S::SchedId, &0_u64)),
        scenario!(Sysctl, S::GetDomainInfoList, Dom0, |w| sysctl(w, S::GetDomainInfoList, &SysctlGetdomaininfolist { max_domains: 4, buffer: MORE, ..Default::default() })),
        scenario!(Sysctl, S::GetCpuInfo, Dom0, |w| sysctl(w, S::GetCpuInfo, &SysctlGetcpuinfo { max_cpus: 2, info: MORE, ..Default::default() })),
        scenario!(Sysctl, S::AvailHeap, Dom0, |w| sysctl(w, S::AvailHeap, &SysctlAvailheap { node: -1, ..Default::default() })),
        scenario!(Sysctl, S::CpuTopoInfo, Dom0, |w| sysctl(w, S::CpuTopoInfo, &SysctlCputopoinfo { num_cpus: 2, cputopo: MORE, ..Default::default() })),
        scenario!(Sysctl, S::NumaInfo, Dom0, |w| sysctl(w, S::NumaInfo, &SysctlNumainfo { num_nodes: 1, meminfo: MORE, distance: MORE + 512, ..Default::default() })),
        scenario!(Sysctl, S::CpupoolOp, Dom0, |w| sysctl(w, S::CpupoolOp, &SysctlCpupoolOp { op: 3, cpumap: XenctlBitmap { bitmap: MORE, nr_bits: 64, _pad: 0 }, ..Default::default() })),
    ]
}

fn request(w: &World) -> [u64; 5] {
    let request = DomctlCreatedomain {
        max_vcpus: 1,
        max_evtchn_port: 63,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 1,
        ..Default::default()
    };
    w.put(ARG, &Domctl::new(DomctlCmd::CreateDomain, pv_abi::ids::DomId::new(5), &request));
    [ARG, 0, 0, 0, 0]
}

/// A domain of the toolstack's making, as the tests of the commands that need one want it.
fn made(w: &World) -> pv_abi::ids::DomId {
    let args = request(w);
    assert_eq!(w.run(Who::Dom0, Hypercall::Domctl, args), 0);
    pv_abi::ids::DomId::new(5)
}

fn on_made<T: IntoBytes + Immutable>(w: &World, cmd: DomctlCmd, payload: &T) -> [u64; 5] {
    let dom = made(w);
    w.put(ARG, &Domctl::new(cmd, dom, payload));
    [ARG, 0, 0, 0, 0]
}

fn with_vcpu<T: IntoBytes + Immutable>(w: &World, cmd: DomctlCmd, payload: &T) -> [u64; 5] {
    let args = on_made(w, DomctlCmd::MaxVcpus, &DomctlMaxVcpus { max: 1 });
    assert_eq!(w.run(Who::Dom0, Hypercall::Domctl, args), 0);
    w.put(ARG, &Domctl::new(cmd, pv_abi::ids::DomId::new(5), payload));
    [ARG, 0, 0, 0, 0]
}

const MAP: XenctlBitmap = XenctlBitmap { bitmap: MORE, nr_bits: 8, _pad: 0 };

#[rustfmt::skip]
pub(super) fn domains() -> Vec<Scenario> {
    use DomctlCmd as D;
    alloc::vec![
        scenario!(Domctl, D::CreateDomain, Dom0, request),
        scenario!(Domctl, D::DestroyDomain, Dom0, |w| domctl(w, D::DestroyDomain, &0_u64)),
        scenario!(Domctl, D::PauseDomain, Dom0, |w| on_made(w, D::PauseDomain, &0_u64)),
        scenario!(Domctl, D::UnpauseDomain, Dom0, |w| on_made(w, D::UnpauseDomain, &0_u64), also Inval),
        scenario!(Domctl, D::GetDomainInfo, Dom0, |w| domctl(w, D::GetDomainInfo, &0_u64)),
        scenario!(Domctl, D::ResumeDomain, Dom0, |w| on_made(w, D::ResumeDomain, &0_u64)),
        scenario!(Domctl, D::SetDomainHandle, Dom0, |w| domctl(w, D::SetDomainHandle, &DomctlSetdomainhandle { handle: [1; 16] })),
        scenario!(Domctl, D::SendTrigger, Dom0, |w| domctl(w, D::SendTrigger, &DomctlSendtrigger { trigger: 0, vcpu: 0 })),
        scenario!(Domctl, D::SetVirqHandler, Dom0, |w| domctl(w, D::SetVirqHandler, &DomctlSetVirqHandler { virq: 3 })),
        scenario!(Domctl, D::GetVcpuInfo, Dom0, |w| domctl(w, D::GetVcpuInfo, &DomctlGetvcpuinfo::default())),
        scenario!(Domctl, D::MaxVcpus, Dom0, |w| on_made(w, D::MaxVcpus, &DomctlMaxVcpus { max: 1 })),
        scenario!(Domctl, D::MaxMem, Dom0, |w| domctl(w, D::MaxMem, &DomctlMaxMem { max_memkb: 256 })),
        scenario!(Domctl, D::SetAddressSize, Dom0, |w| domctl(w, D::SetAddressSize, &DomctlAddressSize { size: 64 })),
        scenario!(Domctl, D::GetAddressSize, Dom0, |w| domctl(w, D::GetAddressSize, &0_u64)),
        scenario!(Domctl, D::SchedulerOp, Dom0, |w| domctl(w, D::SchedulerOp, &DomctlSchedulerOp { sched_id: crate::hypercall::domctl::SCHEDULER.raw(), cmd: 1, ..Default::default() })),
        scenario!(Domctl, D::SetVcpuContext, Dom0, |w| with_vcpu(w, D::SetVcpuContext, &DomctlVcpucontext { vcpu: 0, _pad: 0, ctxt: MORE }), also Inval),
        scenario!(Domctl, D::GetVcpuContext, Dom0, |w| domctl(w, D::GetVcpuContext, &DomctlVcpucontext { vcpu: 0, _pad: 0, ctxt: MORE }), also NoData),
        scenario!(Domctl, D::SetVcpuAffinity, Dom0, |w| { w.put(MORE, &3_u64); with_vcpu(w, D::SetVcpuAffinity, &DomctlVcpuaffinity { vcpu: 0, flags: AffinityFlags::HARD.bits(), cpumap_hard: MAP, cpumap_soft: MAP }) }),
        scenario!(Domctl, D::GetVcpuAffinity, Dom0, |w| with_vcpu(w, D::GetVcpuAffinity, &DomctlVcpuaffinity { vcpu: 0, flags: AffinityFlags::HARD.bits(), cpumap_hard: MAP, cpumap_soft: MAP })),
        scenario!(Domctl, D::SetNodeAffinity, Dom0, |w| { w.put(MORE, &1_u64); domctl(w, D::SetNodeAffinity, &DomctlNodeaffinity { nodemap: MAP }) }),
        scenario!(Domctl, D::GetNodeAffinity, Dom0, |w| domctl(w, D::GetNodeAffinity, &DomctlNodeaffinity { nodemap: MAP })),
        scenario!(Domctl, D::HypercallInit, Dom0, |w| domctl(w, D::HypercallInit, &DomctlHypercallInit { gmfn: w.guest.mfns[8].raw() })),
        scenario!(Domctl, D::GetPageFrameInfo3, Dom0, |w| {
            w.put(MORE, &[w.guest.mfns[0].raw(), w.guest.mfns[8].raw(), 1 << 40]);
            domctl(w, D::GetPageFrameInfo3, &DomctlGetpageframeinfo3 { num: 3, array: MORE })
        }),
        scenario!(Domctl, D::SetTimeOffset, Dom0, |w| domctl(w, D::SetTimeOffset, &DomctlSettimeoffset { time_offset_seconds: 60 })),
        scenario!(Domctl, D::SetTscInfo, Dom0, |w| on_made(w, D::SetTscInfo, &DomctlTscInfo { tsc_mode: 2, ..Default::default() })),
        scenario!(Domctl, D::GetTscInfo, Dom0, |w| domctl(w, D::GetTscInfo, &0_u64)),
    ]
}
