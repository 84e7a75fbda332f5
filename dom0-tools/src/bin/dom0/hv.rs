//! The toolstack's hypervisor port: each function one hypercall, or a few.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use dom0_tools::toolstack::ports::{
    CreateDomain, DomainInfo, HostInfo, Hypervisor, MAX_BATCH, Page, ShutdownReason, VcpuStatus,
};
use pv_abi::domctl::{DomInfoFlags, DomctlCreatedomain, DomctlGetdomaininfo};
use pv_abi::errno::Errno;
use pv_abi::frame::PAGE_SIZE;
use pv_abi::grant::{GrantEntryV1, GrantFlags};
use pv_abi::ids::{DomId, EvtchnPort, GrantRef, Mfn, Pfn, VcpuId};
use pv_abi::memory::{E820Entry, E820Type};
use pv_abi::trap::{VcpuGuestContext, VgcfFlags};
use pv_abi::version::XenVersionOp;
use pv_guest_kernel::event;
use pv_guest_kernel::memory::{Prot, map_mfns};
use pv_guest_kernel::privileged::{control, foreign, host};
use pv_image::InitialVcpu;

/// Most domains in one list call.
const LIST_CHUNK: usize = 32;
/// The log is at most this long; the hypervisor's default ring is 16 KiB.
const MAX_LOG_BYTES: usize = 1 << 20;
const LOG_CHUNK: usize = 16 * 1024;

/// The real hypervisor.
#[derive(Default)]
pub(crate) struct RealHypervisor;

fn shutdown_reason(flags: u32) -> ShutdownReason {
    let [_, _, reason, _] = flags.to_le_bytes();
    ShutdownReason::from_raw(reason)
}

fn domain_info(raw: &DomctlGetdomaininfo) -> DomainInfo {
    let flags = DomInfoFlags::from_bits_retain(raw.flags);
    let is_shutdown = flags.contains(DomInfoFlags::SHUTDOWN);
    DomainInfo {
        domid: DomId::new(raw.domain),
        handle: raw.handle,
        dying: flags.contains(DomInfoFlags::DYING),
        shutdown: is_shutdown.then(|| shutdown_reason(raw.flags)),
        paused: flags.contains(DomInfoFlags::PAUSED),
        blocked: flags.contains(DomInfoFlags::BLOCKED),
        running: flags.contains(DomInfoFlags::RUNNING),
        tot_pages: raw.tot_pages,
        max_pages: raw.max_pages,
        cpu_time_ns: raw.cpu_time,
        nr_online_vcpus: raw.nr_online_vcpus,
        max_vcpu_id: raw.max_vcpu_id,
        shared_info: Mfn::new(raw.shared_info_frame),
    }
}

fn context(state: &InitialVcpu, cr3: Mfn) -> Box<VcpuGuestContext> {
    let mut context = Box::<VcpuGuestContext>::default();
    context.flags = (VgcfFlags::IN_KERNEL | VgcfFlags::ONLINE).bits();
    let regs = &mut context.user_regs;
    regs.rip = state.rip.raw();
    regs.rsp = state.rsp.raw();
    regs.rsi = state.rsi.raw();
    regs.rflags = state.rflags;
    regs.cs = state.cs;
    regs.ss = state.ss;
    context.kernel_ss = state.ss.into();
    context.kernel_sp = state.rsp.raw();
    // For 64-bit guests the register holds the frame's address unchanged.
    context.ctrlreg[3] = cr3.to_maddr().raw();
    context
}

impl Hypervisor for RealHypervisor {
    fn create_domain(&mut self, params: &CreateDomain) -> Result<DomId, Errno> {
        let frames = |count: u32| i32::try_from(count).map_err(|_| Errno::Inval);
        control::create(&DomctlCreatedomain {
            handle: params.handle,
            max_vcpus: params.max_vcpus,
            max_evtchn_port: params.max_evtchn_port,
            max_grant_frames: frames(params.max_grant_frames)?,
            max_maptrack_frames: frames(params.max_maptrack_frames)?,
            grant_opts: 1,
            ..DomctlCreatedomain::default()
        })
    }

    fn destroy_domain(&mut self, dom: DomId) -> Result<(), Errno> {
        control::destroy(dom)
    }

    fn set_max_vcpus(&mut self, dom: DomId, vcpus: u32) -> Result<(), Errno> {
        control::set_max_vcpus(dom, vcpus)
    }

    fn set_max_mem(&mut self, dom: DomId, kib: u64) -> Result<(), Errno> {
        control::set_max_mem(dom, kib)
    }

    fn set_memory_map(&mut self, dom: DomId, bytes: u64) -> Result<(), Errno> {
        foreign::set_memory_map(dom, &[E820Entry::new(0, bytes, E820Type::Ram)])
    }

    fn populate(&mut self, dom: DomId, first: Pfn, mfns: &mut [Mfn]) -> Result<usize, Errno> {
        control::populate(dom, first, mfns)
    }

    fn write_frames<'p>(
        &mut self,
        dom: DomId,
        mfns: &[Mfn],
        fill: &mut dyn FnMut(usize, &mut Page) -> Option<&'p Page>,
    ) -> Result<(), Errno> {
        let mapping = map_mfns(dom, mfns, Prot::ReadWrite)?;
        let mut page: Box<Page> = Box::new([0; PAGE_SIZE]);
        for index in 0..mfns.len().min(MAX_BATCH) {
            let whole = fill(index, &mut page);
            mapping.area().write(index * PAGE_SIZE, whole.unwrap_or(&page).as_slice());
        }
        Ok(())
    }

    fn seed_grant(&mut self, dom: DomId, gref: GrantRef, to: DomId, frame: Mfn) -> Result<(), Errno> {
        let table = control::grant_table_frame(dom, 0)?;
        let entry = GrantEntryV1 {
            flags: GrantFlags::PERMIT_ACCESS.bits(),
            domid: to.raw(),
            frame: u32::try_from(frame.raw()).map_err(|_| Errno::Inval)?,
        };
        let offset = usize::try_from(gref.raw()).map_err(|_| Errno::Inval)?.saturating_mul(8);
        if offset + 8 > PAGE_SIZE {
            return Err(Errno::Inval);
        }
        map_mfns(dom, &[table], Prot::ReadWrite)?.area().write(offset, &entry.to_word().to_le_bytes());
        Ok(())
    }

    fn alloc_unbound(&mut self, dom: DomId, remote: DomId) -> Result<EvtchnPort, Errno> {
        event::alloc_unbound_for(dom, remote)
    }

    fn pin_l4(&mut self, dom: DomId, table: Mfn) -> Result<(), Errno> {
        control::pin_l4(dom, table)
    }

    fn init_hypercall_page(&mut self, dom: DomId, frame: Mfn) -> Result<(), Errno> {
        control::init_hypercall_page(dom, frame)
    }

    fn set_vcpu_context(
        &mut self,
        dom: DomId,
        vcpu: VcpuId,
        state: &InitialVcpu,
        cr3: Mfn,
    ) -> Result<(), Errno> {
        control::set_vcpu_context(dom, vcpu, &context(state, cr3))
    }

    fn pause(&mut self, dom: DomId) -> Result<(), Errno> {
        control::pause(dom)
    }

    fn unpause(&mut self, dom: DomId) -> Result<(), Errno> {
        control::unpause(dom)
    }

    fn domain_info(&mut self, dom: DomId) -> Result<DomainInfo, Errno> {
        let raw = control::info(dom)?;
        // The call gives the next domain when this one is gone.
        if raw.domain == dom.raw() { Ok(domain_info(&raw)) } else { Err(Errno::Srch) }
    }

    fn list_domains(&mut self) -> Result<Vec<DomainInfo>, Errno> {
        let mut all = Vec::new();
        let mut first = DomId::new(0);
        loop {
            let mut chunk = [DomctlGetdomaininfo::default(); LIST_CHUNK];
            let count = host::list_domains(first, &mut chunk)?;
            all.extend(chunk.iter().take(count).map(domain_info));
            let last = chunk.get(count.wrapping_sub(1)).map(|info| info.domain);
            match last.and_then(|last| last.checked_add(1)) {
                Some(next) if count == LIST_CHUNK => first = DomId::new(next),
                _ => return Ok(all),
            }
        }
    }

    fn vcpu_status(&mut self, dom: DomId, vcpu: VcpuId) -> Result<VcpuStatus, Errno> {
        let raw = control::vcpu_info(dom, vcpu)?;
        Ok(VcpuStatus {
            online: raw.online != 0,
            blocked: raw.blocked != 0,
            running: raw.running != 0,
            cpu_time_ns: raw.cpu_time,
            pcpu: raw.cpu,
        })
    }

    fn host_info(&mut self) -> Result<HostInfo, Errno> {
        let raw = host::physinfo()?;
        let (major, minor) = pv_guest_kernel::hypercall::version()?;
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(HostInfo {
            nr_cpus: raw.nr_cpus,
            threads_per_core: raw.threads_per_core,
            cores_per_socket: raw.cores_per_socket,
            nr_nodes: raw.nr_nodes,
            cpu_khz: raw.cpu_khz,
            total_pages: raw.total_pages,
            free_pages: raw.free_pages,
            version: (number(major), number(minor)),
            extra_version: text::<16>(XenVersionOp::Extraversion),
            capabilities: text::<1024>(XenVersionOp::Capabilities),
            commandline: text::<1024>(XenVersionOp::Commandline),
            scheduler: String::from(scheduler_name(host::scheduler_id().unwrap_or(0))),
        })
    }

    fn read_console(&mut self) -> Result<Vec<u8>, Errno> {
        let mut log = Vec::new();
        let mut index = 0;
        let mut chunk = alloc::vec![0; LOG_CHUNK];
        while log.len() < MAX_LOG_BYTES {
            let count = host::read_console(&mut index, &mut chunk)?;
            if count == 0 {
                break;
            }
            log.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
        Ok(log)
    }
}

/// A text of `xen_version`, at most `N` bytes; empty where the hypervisor has none.
fn text<const N: usize>(op: XenVersionOp) -> String {
    let mut buffer = [0; N];
    if pv_guest_kernel::hypercall::version_info(op, &mut buffer).is_err() {
        return String::new();
    }
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(N);
    String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned()
}

fn scheduler_name(id: u32) -> &'static str {
    match id {
        5 => "credit",
        6 => "credit2",
        7 => "arinc653",
        8 => "rtds",
        9 => "null",
        _ => "unknown",
    }
}
