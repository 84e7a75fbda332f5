//! Claims about the control interfaces, as dom0 calls them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::domctl::{
    AffinityFlags, CreateFlags, DomInfoFlags, Domctl, DomctlAddressSize, DomctlCmd, DomctlCreatedomain,
    DomctlGetdomaininfo, DomctlGetvcpuinfo, DomctlHypercallInit, DomctlMaxMem, DomctlMaxVcpus,
    DomctlNodeaffinity, DomctlSchedulerOp, DomctlSendtrigger, DomctlSetdomainhandle, DomctlTscInfo,
    DomctlVcpuaffinity, DomctlVcpucontext, XenctlBitmap,
};
use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_abi::platform::{PlatformCmd, PlatformOp, XenpfEnterAcpiSleep, XenpfPcpuinfo, XenpfSettime64};
use pv_abi::sysctl::{
    Sysctl, SysctlAvailheap, SysctlCmd, SysctlCpupoolOp, SysctlCputopoinfo, SysctlGetcpuinfo,
    SysctlGetdomaininfolist, SysctlNumainfo, SysctlPhysinfo, SysctlReadconsole,
};
use pv_abi::trap::VcpuGuestContext;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::fake::FakeWorld;
use crate::hypercall::{GuestPtr, dispatch};
use crate::port::Frames;
use crate::regs::UserRegs;
use crate::vcpu::Vcpu;

const ARG: u64 = 0x10_0000;
/// Where further arguments lie.
const MORE: u64 = ARG + 0x1000;
const RIP: u64 = 0x40_0002;
const GUEST: DomId = DomId::new(9);

struct Test {
    w: FakeWorld,
    dom0: Arc<Domain>,
    v0: Arc<Vcpu>,
}

impl Test {
    fn new() -> Self {
        let w = FakeWorld::new(256);
        (0..8).for_each(|n| w.m.map_guest_page(ARG + n * 4096));
        let (dom0, v0) = w.add_domain(DomId::DOM0, Privilege::Control, 32);
        Self { w, dom0, v0 }
    }

    fn put<T: FromBytes + IntoBytes + Immutable>(&self, at: u64, value: &T) {
        GuestPtr::<T>::new(at).unwrap().write(&self.w.m, value).unwrap();
    }

    fn get<T: FromBytes + IntoBytes + Immutable>(&self, at: u64) -> T {
        GuestPtr::<T>::new(at).unwrap().read(&self.w.m).unwrap()
    }

    fn call_as(&self, dom: &Arc<Domain>, v: &Arc<Vcpu>, number: Hypercall) -> Result<u64, Errno> {
        let mut regs = UserRegs { rax: number.raw(), rdi: ARG, rip: RIP, ..UserRegs::default() };
        for _ in 0..1000 {
            let mut cx = Cx::new(&self.w.hv, &self.w.m, dom, v, &mut regs);
            dispatch(&mut cx);
            if regs.rip == RIP {
                let ret = regs.rax.cast_signed();
                return Errno::from_ret(ret).map_or(Ok(regs.rax), Err);
            }
            regs.rip = RIP;
        }
        panic!("restarted for ever");
    }

    fn call(&self, number: Hypercall) -> Result<u64, Errno> {
        self.call_as(&self.dom0, &self.v0, number)
    }

    fn domctl<T: IntoBytes + Immutable>(
        &self,
        cmd: DomctlCmd,
        dom: DomId,
        payload: &T,
    ) -> Result<Domctl, Errno> {
        self.put(ARG, &Domctl::new(cmd, dom, payload));
        assert_eq!(self.call(Hypercall::Domctl)?, 0);
        Ok(self.get(ARG))
    }

    fn plain(&self, cmd: DomctlCmd, dom: DomId) -> Result<(), Errno> {
        self.domctl(cmd, dom, &0_u64).map(|_| ())
    }

    fn sysctl<T: IntoBytes + Immutable>(&self, cmd: SysctlCmd, payload: &T) -> Result<Sysctl, Errno> {
        self.put(ARG, &Sysctl::new(cmd, payload));
        assert_eq!(self.call(Hypercall::Sysctl)?, 0);
        Ok(self.get(ARG))
    }

    fn create(&self, wanted: DomId, max_vcpus: u32) -> Result<DomId, Errno> {
        let request = DomctlCreatedomain { max_vcpus, max_evtchn_port: 1023, ..request() };
        Ok(DomId::new(self.domctl(DomctlCmd::CreateDomain, wanted, &request)?.domain))
    }

    /// A guest with two vcpus and room for memory.
    fn guest(&self) -> Arc<Domain> {
        assert_eq!(self.create(GUEST, 2), Ok(GUEST));
        self.domctl(DomctlCmd::MaxVcpus, GUEST, &DomctlMaxVcpus { max: 2 }).unwrap();
        self.domctl(DomctlCmd::MaxMem, GUEST, &DomctlMaxMem { max_memkb: 64 }).unwrap();
        self.w.hv.domains.get(GUEST).unwrap()
    }

    fn info(&self, dom: DomId) -> Result<DomctlGetdomaininfo, Errno> {
        Ok(self.domctl(DomctlCmd::GetDomainInfo, dom, &0_u64)?.payload())
    }
}

fn request() -> DomctlCreatedomain {
    DomctlCreatedomain {
        handle: *b"0123456789abcdef",
        max_vcpus: 1,
        max_evtchn_port: u32::MAX,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        ..DomctlCreatedomain::default()
    }
}

#[test]
fn another_version_of_the_interface_is_refused() {
    let t = Test::new();
    let mut op = Domctl::new(DomctlCmd::PauseDomain, GUEST, &0_u64);
    op.interface_version += 1;
    t.put(ARG, &op);
    assert_eq!(t.call(Hypercall::Domctl), Err(Errno::Acces));
    let mut op = Sysctl::new(SysctlCmd::PhysInfo, &0_u64);
    op.interface_version -= 1;
    t.put(ARG, &op);
    assert_eq!(t.call(Hypercall::Sysctl), Err(Errno::Acces));
}

#[test]
fn xsa_492_a_guest_is_refused_before_the_lock() {
    let t = Test::new();
    let guest = t.guest();
    let v = guest.vcpu(VcpuId::new(0)).unwrap();
    let _held = t.w.hv.domains.control.lock();
    for cmd in [DomctlCmd::DestroyDomain, DomctlCmd::CreateDomain, DomctlCmd::SetVcpuContext] {
        t.put(ARG, &Domctl::new(cmd, DomId::DOM0, &request()));
        assert_eq!(t.call_as(&guest, &v, Hypercall::Domctl), Err(Errno::Perm));
    }
    t.put(ARG, &Sysctl::new(SysctlCmd::PhysInfo, &0_u64));
    assert_eq!(t.call_as(&guest, &v, Hypercall::Sysctl), Err(Errno::Perm));
    t.put(ARG, &PlatformOp::new(PlatformCmd::SetTime64, &0_u64));
    assert_eq!(t.call_as(&guest, &v, Hypercall::PlatformOp), Err(Errno::Perm));
}

#[test]
fn commands_that_are_not_there_say_so() {
    let t = Test::new();
    t.guest();
    for cmd in [DomctlCmd::ShadowOp, DomctlCmd::SetCpuPolicy, DomctlCmd::AssignDevice, DomctlCmd::VmEventOp] {
        assert_eq!(t.plain(cmd, GUEST), Err(Errno::NoSys));
    }
    let mut op = Domctl::new(DomctlCmd::PauseDomain, GUEST, &0_u64);
    op.cmd = 6;
    t.put(ARG, &op);
    assert_eq!(t.call(Hypercall::Domctl), Err(Errno::NoSys));
    assert_eq!(t.sysctl(SysctlCmd::TbufOp, &0_u64).map(|_| ()), Err(Errno::NoSys));
}

#[test]
fn a_domain_is_made_with_the_number_asked_for_or_a_free_one() {
    let t = Test::new();
    assert_eq!(t.create(DomId::new(5), 1), Ok(DomId::new(5)));
    assert_eq!(t.create(DomId::new(5), 1), Err(Errno::Exist));
    assert_eq!(t.create(DomId::DOM0, 1), Ok(DomId::new(1)));
    assert_eq!(t.create(DomId::INVALID, 1), Ok(DomId::new(2)));
    assert_eq!(t.create(DomId::new(7), 0), Err(Errno::Inval));
}

#[test]
fn what_is_not_offered_is_refused_at_creation() {
    let t = Test::new();
    let bad = [
        DomctlCreatedomain { flags: CreateFlags::HVM.bits(), ..request() },
        DomctlCreatedomain { flags: CreateFlags::IOMMU.bits(), ..request() },
        DomctlCreatedomain { flags: 1 << 30, ..request() },
        DomctlCreatedomain { iommu_opts: 1, ..request() },
        DomctlCreatedomain { vmtrace_size: 4096, ..request() },
        DomctlCreatedomain { cpupool_id: 1, ..request() },
        DomctlCreatedomain { max_vcpus: 129, ..request() },
    ];
    let free = t.w.hv.frames.free_frames();
    for b in bad {
        assert_eq!(t.domctl(DomctlCmd::CreateDomain, GUEST, &b).map(|_| ()), Err(Errno::Inval));
    }
    assert_eq!((t.w.hv.frames.free_frames(), t.w.hv.domains.count()), (free, 1));
}

#[test]
fn info_tells_of_this_domain_or_the_next() {
    let t = Test::new();
    t.guest();
    let info = t.info(DomId::new(3)).unwrap();
    assert_eq!((info.domain, info.max_pages, info.tot_pages), (9, 16, 0));
    assert_eq!((info.nr_online_vcpus, info.max_vcpu_id), (0, 1));
    assert_eq!(info.flags, DomInfoFlags::PAUSED.bits());
    assert_eq!(&info.handle, b"0123456789abcdef");
    assert_eq!(t.info(DomId::new(10)), Err(Errno::Srch));
    assert_eq!(t.info(DomId::SELF), Err(Errno::Inval));
    assert_eq!(t.info(DomId::DOM0).unwrap().domain, 0);
}

#[test]
fn a_destroyed_domain_gives_all_back_and_is_gone() {
    let t = Test::new();
    let before = t.w.hv.frames.free_frames();
    for patience in [u64::MAX, 0, 3] {
        let guest = t.guest();
        for _ in 0..9 {
            t.w.hv.frames.alloc_for(&t.w.m, &guest.mem, 0, 0).unwrap();
        }
        drop(guest);
        t.w.m.preempt_after.store(patience, Relaxed);
        assert_eq!(t.plain(DomctlCmd::DestroyDomain, GUEST), Ok(()));
        t.w.m.preempt_after.store(u64::MAX, Relaxed);
        assert_eq!(t.info(GUEST), Err(Errno::Srch));
        assert_eq!(t.w.hv.frames.free_frames(), before);
    }
}

#[test]
fn dom0_does_not_stop_itself() {
    let t = Test::new();
    for id in [DomId::DOM0, DomId::SELF] {
        for cmd in [
            DomctlCmd::DestroyDomain,
            DomctlCmd::PauseDomain,
            DomctlCmd::ResumeDomain,
            DomctlCmd::MaxVcpus,
            DomctlCmd::SetVcpuContext,
            DomctlCmd::GetVcpuContext,
            DomctlCmd::SetTscInfo,
        ] {
            assert_eq!(t.plain(cmd, id), Err(Errno::Inval), "{}", cmd.abi_name());
        }
    }
    assert_eq!(t.plain(DomctlCmd::PauseDomain, DomId::new(44)), Err(Errno::Srch));
}

#[test]
fn pauses_by_the_toolstack_are_counted() {
    let t = Test::new();
    t.guest();
    assert_eq!(t.plain(DomctlCmd::PauseDomain, GUEST), Ok(()));
    assert_eq!(t.plain(DomctlCmd::UnpauseDomain, GUEST), Ok(()));
    assert_eq!(t.plain(DomctlCmd::UnpauseDomain, GUEST), Ok(()));
    assert_eq!(t.plain(DomctlCmd::UnpauseDomain, GUEST), Err(Errno::Inval));
}

#[test]
fn vcpus_are_made_for_the_number_agreed_at_creation() {
    let t = Test::new();
    t.create(GUEST, 3).unwrap();
    let make = |max| t.domctl(DomctlCmd::MaxVcpus, GUEST, &DomctlMaxVcpus { max }).map(|_| ());
    assert_eq!((make(2), make(4)), (Err(Errno::Inval), Err(Errno::Inval)));
    assert_eq!((make(3), make(3)), (Ok(()), Ok(())));
    let info = |vcpu| {
        let request = DomctlGetvcpuinfo { vcpu, ..DomctlGetvcpuinfo::default() };
        Ok::<DomctlGetvcpuinfo, Errno>(t.domctl(DomctlCmd::GetVcpuInfo, GUEST, &request)?.payload())
    };
    assert_eq!((info(2).unwrap().online, info(2).unwrap().running), (0, 0));
    assert_eq!(info(3), Err(Errno::Inval));
}

#[test]
fn an_affinity_names_a_pcpu_that_exists() {
    let t = Test::new();
    let guest = t.guest();
    let map = XenctlBitmap { bitmap: MORE, nr_bits: 8, _pad: 0 };
    let set = |bits: u8, flags: AffinityFlags| {
        t.put(MORE, &bits);
        let request = DomctlVcpuaffinity { vcpu: 1, flags: flags.bits(), cpumap_hard: map, cpumap_soft: map };
        t.domctl(DomctlCmd::SetVcpuAffinity, GUEST, &request).map(|_| t.get::<u8>(MORE))
    };
    assert_eq!(set(0, AffinityFlags::HARD), Err(Errno::Inval));
    assert_eq!(set(4, AffinityFlags::HARD), Err(Errno::Inval));
    assert_eq!(set(6, AffinityFlags::HARD), Ok(2));
    assert_eq!(set(1, AffinityFlags::SOFT), Err(Errno::Inval));
    assert_eq!(set(3, AffinityFlags::SOFT), Ok(2));
    assert_eq!(set(1, AffinityFlags::empty()), Err(Errno::Inval));
    assert_eq!(guest.vcpu(VcpuId::new(1)).unwrap().sched.hard_affinity().bits(), 6);
    let none = XenctlBitmap::default();
    let get = DomctlVcpuaffinity { vcpu: 1, flags: 1, cpumap_hard: map, cpumap_soft: none };
    t.domctl(DomctlCmd::GetVcpuAffinity, GUEST, &get).unwrap();
    assert_eq!(t.get::<u8>(MORE), 6);
}

#[test]
fn there_is_one_node() {
    let t = Test::new();
    t.guest();
    let nodes = DomctlNodeaffinity { nodemap: XenctlBitmap { bitmap: MORE, nr_bits: 64, _pad: 0 } };
    t.put(MORE, &2_u64);
    assert_eq!(t.domctl(DomctlCmd::SetNodeAffinity, GUEST, &nodes).map(|_| ()), Err(Errno::Inval));
    t.put(MORE, &u64::MAX);
    assert!(t.domctl(DomctlCmd::SetNodeAffinity, GUEST, &nodes).is_ok());
    assert!(t.domctl(DomctlCmd::GetNodeAffinity, GUEST, &nodes).is_ok());
    assert_eq!(t.get::<u64>(MORE), 1);
}

#[test]
fn guests_have_64_bits_and_the_machines_counter() {
    let t = Test::new();
    t.guest();
    let size = |size| t.domctl(DomctlCmd::SetAddressSize, GUEST, &DomctlAddressSize { size }).map(|_| ());
    assert_eq!((size(64), size(32), size(0)), (Ok(()), Err(Errno::Inval), Err(Errno::Inval)));
    let mode = |tsc_mode| {
        let request = DomctlTscInfo { tsc_mode, ..DomctlTscInfo::default() };
        t.domctl(DomctlCmd::SetTscInfo, GUEST, &request).map(|_| ())
    };
    assert_eq!((mode(0), mode(2)), (Ok(()), Ok(())));
    assert_eq!((mode(1), mode(3)), (Err(Errno::OpNotSupp), Err(Errno::Inval)));
}

#[test]
fn a_weight_is_kept_and_a_cap_refused() {
    let t = Test::new();
    t.guest();
    let op = |cmd, weight, cap, sched_id| {
        let request = DomctlSchedulerOp { sched_id, cmd, weight, cap, _rest: [0; 3] };
        t.domctl(DomctlCmd::SchedulerOp, GUEST, &request).map(|op| op.payload::<DomctlSchedulerOp>().weight)
    };
    assert_eq!(op(1, 0, 0, 6), Ok(256));
    assert_eq!(op(0, 512, 0, 6), Ok(512));
    assert_eq!(op(1, 0, 0, 6), Ok(512));
    assert_eq!(op(0, 0, 50, 6), Err(Errno::OpNotSupp));
    assert_eq!(op(1, 0, 0, 5), Err(Errno::Inval));
}

#[test]
fn a_hypercall_page_is_a_writable_frame_of_the_domain() {
    let t = Test::new();
    let guest = t.guest();
    let mfn = t.w.hv.frames.alloc_for(&t.w.m, &guest.mem, 0, 0).unwrap();
    let init = |gmfn| t.domctl(DomctlCmd::HypercallInit, GUEST, &DomctlHypercallInit { gmfn }).map(|_| ());
    assert_eq!(
        (init(0), init(mfn.raw() + 1), init(u64::MAX)),
        (Err(Errno::Inval), Err(Errno::Inval), Err(Errno::Inval))
    );
    assert_eq!(init(mfn.raw()), Ok(()));
    let mut stub = [0; 8];
    t.w.m.read(mfn, 32, &mut stub);
    assert_eq!(stub, [0x51, 0x41, 0x53, 0xb8, 1, 0, 0, 0]);
}

#[test]
fn a_context_is_checked_before_anything_changes() {
    let t = Test::new();
    let guest = t.guest();
    let set = |ctx: &VcpuGuestContext, vcpu| {
        t.put(MORE, ctx);
        let request = DomctlVcpucontext { vcpu, _pad: 0, ctxt: MORE };
        t.domctl(DomctlCmd::SetVcpuContext, GUEST, &request).map(|_| ())
    };
    let good = VcpuGuestContext::default();
    assert_eq!(set(&good, 0), Err(Errno::Inval), "there is no root");
    assert_eq!(set(&good, 2), Err(Errno::Inval), "there is no such vcpu");
    assert_eq!(set(&VcpuGuestContext { ldt_ents: 1, ..good }, 0), Err(Errno::OpNotSupp));
    assert_eq!(set(&VcpuGuestContext { gdt_ents: 7169, ..good }, 0), Err(Errno::Inval));
    assert_eq!(set(&VcpuGuestContext { debugreg: [u64::MAX >> 1; 8], ..good }, 0), Err(Errno::Perm));
    assert_eq!(set(&VcpuGuestContext { fs_base: 1 << 47, ..good }, 0), Err(Errno::Inval));
    let v = guest.vcpu(VcpuId::new(0)).unwrap();
    assert!(!v.sched.initialised.load(Relaxed));
    let get = DomctlVcpucontext { vcpu: 0, _pad: 0, ctxt: MORE };
    assert_eq!(t.domctl(DomctlCmd::GetVcpuContext, GUEST, &get).map(|_| ()), Err(Errno::NoData));
}

#[test]
fn a_context_that_is_set_is_read_back() {
    let t = Test::new();
    let guest = t.guest();
    let root = t.w.hv.frames.alloc_for(&t.w.m, &guest.mem, 0, 0).unwrap();
    let mut ctx = VcpuGuestContext { kernel_sp: 0x5000, flags: 4, ..VcpuGuestContext::default() };
    ctx.ctrlreg[3] = root.to_maddr().raw();
    ctx.user_regs.rip = 0x1234;
    ctx.user_regs.rsi = 77;
    t.put(MORE, &ctx);
    let at = DomctlVcpucontext { vcpu: 0, _pad: 0, ctxt: MORE };
    assert!(t.domctl(DomctlCmd::SetVcpuContext, GUEST, &at).is_ok());
    t.put(MORE, &VcpuGuestContext::default());
    assert!(t.domctl(DomctlCmd::GetVcpuContext, GUEST, &at).is_ok());
    let back: VcpuGuestContext = t.get(MORE);
    assert_eq!((back.user_regs.rip, back.user_regs.rsi, back.kernel_sp), (0x1234, 77, 0x5000));
    assert_eq!((back.ctrlreg[3], back.ctrlreg[1]), (root.to_maddr().raw(), 0));
    assert_eq!(back.user_regs.rflags & 0x200, 0x200);
    drop(guest);
    let before = t.w.hv.frames.free_frames();
    assert_eq!(t.plain(DomctlCmd::DestroyDomain, GUEST), Ok(()));
    assert!(t.w.hv.frames.free_frames() > before);
    assert_eq!(t.w.hv.domains.count(), 1);
    assert_eq!(t.w.hv.frames.leaks(), 0);
}

#[test]
fn a_name_is_set_and_an_nmi_sent() {
    let t = Test::new();
    let guest = t.guest();
    let name = DomctlSetdomainhandle { handle: [7; 16] };
    assert!(t.domctl(DomctlCmd::SetDomainHandle, GUEST, &name).is_ok());
    assert_eq!(t.info(GUEST).unwrap().handle, [7; 16]);
    let send = |trigger, vcpu| {
        t.domctl(DomctlCmd::SendTrigger, GUEST, &DomctlSendtrigger { trigger, vcpu }).map(|_| ())
    };
    assert_eq!((send(3, 0), send(0, 9)), (Err(Errno::NoSys), Err(Errno::Inval)));
    assert_eq!(send(0, 1), Ok(()));
    assert!(guest.vcpu(VcpuId::new(1)).unwrap().entry.nmi_pending.load(Relaxed));
}

// ---- sysctl and platform ----------------------------------------------------------------------------------------------

#[test]
fn the_machine_describes_itself() {
    let t = Test::new();
    let info: SysctlPhysinfo = t.sysctl(SysctlCmd::PhysInfo, &0_u64).unwrap().payload();
    assert_eq!((info.nr_cpus, info.max_cpu_id, info.nr_nodes), (2, 1, 1));
    assert_eq!(info.free_pages, t.w.hv.frames.free_frames());
    let heap = |min_bitwidth, node| {
        let request = SysctlAvailheap { min_bitwidth, node, ..SysctlAvailheap::default() };
        t.sysctl(SysctlCmd::AvailHeap, &request).map(|op| op.payload::<SysctlAvailheap>().avail_bytes)
    };
    assert_eq!(heap(0, -1), Ok(info.free_pages * 4096));
    assert_eq!(heap(0, 1), Ok(0));
    assert_eq!(heap(32, -1), Err(Errno::OpNotSupp));
}

#[test]
fn lists_are_cut_to_the_room_there_is() {
    let t = Test::new();
    t.guest();
    t.create(DomId::new(20), 1).unwrap();
    let list = |first_domain, max_domains| {
        let request = SysctlGetdomaininfolist {
            first_domain,
            max_domains,
            buffer: MORE,
            ..SysctlGetdomaininfolist::default()
        };
        let op = t.sysctl(SysctlCmd::GetDomainInfoList, &request)?;
        Ok::<u32, Errno>(op.payload::<SysctlGetdomaininfolist>().num_domains)
    };
    assert_eq!((list(0, 10), list(1, 10), list(0, 2), list(21, 5)), (Ok(3), Ok(2), Ok(2), Ok(0)));
    assert_eq!(list(0, 3), Ok(3));
    let size = size_of::<DomctlGetdomaininfo>() as u64;
    let ids: [u16; 3] = core::array::from_fn(|n| t.get::<DomctlGetdomaininfo>(MORE + n as u64 * size).domain);
    assert_eq!(ids, [0, 9, 20]);
}

#[test]
fn places_of_pcpus_need_room_for_all() {
    let t = Test::new();
    let topology = |num_cpus, cputopo| {
        let op = t.sysctl(SysctlCmd::CpuTopoInfo, &SysctlCputopoinfo { num_cpus, _pad: 0, cputopo })?;
        Ok::<u32, Errno>(op.payload::<SysctlCputopoinfo>().num_cpus)
    };
    assert_eq!((topology(0, 0), topology(1, MORE), topology(2, MORE)), (Ok(2), Err(Errno::NoBufs), Ok(2)));
    let nodes = SysctlNumainfo { num_nodes: 0, _pad: 0, meminfo: MORE, distance: MORE };
    assert_eq!(t.sysctl(SysctlCmd::NumaInfo, &nodes).map(|_| ()), Err(Errno::NoBufs));
    let idle = SysctlGetcpuinfo { max_cpus: 9, info: MORE, ..SysctlGetcpuinfo::default() };
    assert_eq!(t.sysctl(SysctlCmd::GetCpuInfo, &idle).unwrap().payload::<SysctlGetcpuinfo>().nr_cpus, 2);
}

#[test]
fn the_pool_of_pcpus_can_be_looked_at() {
    let t = Test::new();
    let map = XenctlBitmap { bitmap: MORE, nr_bits: 16, _pad: 0 };
    let pool = |op, cpupool_id| {
        let request = SysctlCpupoolOp { op, cpupool_id, cpumap: map, ..SysctlCpupoolOp::default() };
        t.sysctl(SysctlCmd::CpupoolOp, &request).map(|op| op.payload::<SysctlCpupoolOp>().n_dom)
    };
    assert_eq!(pool(3, 0), Ok(1));
    assert_eq!(t.get::<u16>(MORE), 3);
    assert_eq!(
        (pool(3, 1), pool(1, 0), pool(9, 0)),
        (Err(Errno::NoEnt), Err(Errno::OpNotSupp), Err(Errno::NoSys))
    );
}

#[test]
fn the_console_ring_is_read_in_pieces() {
    let t = Test::new();
    t.w.m.effects.lock().console.extend((0..1500_u32).map(|n| u8::try_from(n % 250).unwrap()));
    let request = SysctlReadconsole { buffer: MORE, count: 4096, ..SysctlReadconsole::default() };
    let all: SysctlReadconsole = t.sysctl(SysctlCmd::ReadConsole, &request).unwrap().payload();
    assert_eq!((all.count, all.index), (1500, 1500));
    assert_eq!(t.get::<u8>(MORE + 1499), 249);
    let rest = SysctlReadconsole { incremental: 1, index: 1400, ..request };
    let rest: SysctlReadconsole = t.sysctl(SysctlCmd::ReadConsole, &rest).unwrap().payload();
    assert_eq!((rest.count, rest.index), (100, 1500));
}

#[test]
fn the_time_is_set_and_the_machine_switched_off() {
    let t = Test::new();
    let op = |op: PlatformOp| {
        t.put(ARG, &op);
        t.call(Hypercall::PlatformOp)
    };
    let time = XenpfSettime64 { secs: 1_900_000_000, nsecs: 0, mbz: 1, system_time: 0 };
    assert_eq!(op(PlatformOp::new(PlatformCmd::SetTime64, &time)), Err(Errno::Inval));
    assert_eq!(op(PlatformOp::new(PlatformCmd::SetTime64, &XenpfSettime64 { mbz: 0, ..time })), Ok(0));
    assert_eq!(t.w.m.words(t.dom0.shared_info)[0xc00 / 8].load(Relaxed) >> 32, 1_900_000_000);
    let sleep = |sleep_state| XenpfEnterAcpiSleep { sleep_state, ..XenpfEnterAcpiSleep::default() };
    assert_eq!(op(PlatformOp::new(PlatformCmd::EnterAcpiSleep, &sleep(3))), Err(Errno::Inval));
    assert_eq!(op(PlatformOp::new(PlatformCmd::EnterAcpiSleep, &sleep(5))), Ok(0));
    assert_eq!(t.w.m.effects.lock().shutdowns, [0]);
}

#[test]
fn a_pcpu_is_known_by_the_names_of_the_firmware() {
    let t = Test::new();
    let ask = |xen_cpuid| {
        let asked = XenpfPcpuinfo { xen_cpuid, ..XenpfPcpuinfo::default() };
        t.put(ARG, &PlatformOp::new(PlatformCmd::GetCpuInfo, &asked));
        assert_eq!(t.call(Hypercall::PlatformOp), Ok(0));
        let answer: XenpfPcpuinfo = GuestPtr::<PlatformOp>::new(ARG).unwrap().read(&t.w.m).unwrap().payload();
        (answer.flags, answer.apic_id, answer.acpi_id, answer.max_present)
    };
    assert_eq!(ask(1), (1, 2, 2, 1));
    assert_eq!(ask(2), (2, 0, 0, 1), "invalid");
    assert_eq!(ask(u32::MAX).0, 2);
}
