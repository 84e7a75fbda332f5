//! The ports of the toolstack. Whoever builds dom0 implements them; the tests have a fake.

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef, Mfn, Pfn, VcpuId};
use pv_image::InitialVcpu;

/// One page of memory.
pub type Page = [u8; PAGE_SIZE];

/// What `XEN_DOMCTL_createdomain` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateDomain {
    /// The domain's handle (its UUID).
    pub handle: [u8; 16],
    /// Most vcpus the domain may ever have.
    pub max_vcpus: u32,
    /// Most event channel ports.
    pub max_evtchn_port: u32,
    /// Most grant table frames.
    pub max_grant_frames: u32,
    /// Most maptrack frames.
    pub max_maptrack_frames: u32,
}

/// Why a domain stopped: `SHUTDOWN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// 0.
    Poweroff,
    /// 1.
    Reboot,
    /// 2.
    Suspend,
    /// 3.
    Crash,
    /// 4.
    Watchdog,
    /// 5.
    SoftReset,
    /// Anything else, as the guest gave it.
    Other(u8),
}

impl ShutdownReason {
    /// From the ABI's number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            other => Self::Other(other),
        }
    }
}

/// What `getdomaininfo` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Its handle (UUID).
    pub handle: [u8; 16],
    /// Being destroyed.
    pub dying: bool,
    /// Stopped by itself, for this reason.
    pub shutdown: Option<ShutdownReason>,
    /// Paused by the toolstack.
    pub paused: bool,
    /// Every vcpu is blocked.
    pub blocked: bool,
    /// A vcpu is on a pcpu now.
    pub running: bool,
    /// Pages it has.
    pub tot_pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// CPU time of all vcpus, ns.
    pub cpu_time_ns: u64,
    /// Vcpus that are up.
    pub nr_online_vcpus: u32,
    /// Highest vcpu number it may use.
    pub max_vcpu_id: u32,
    /// Machine frame of its shared_info.
    pub shared_info: Mfn,
}

/// What `getvcpuinfo` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuStatus {
    /// Up.
    pub online: bool,
    /// Blocked.
    pub blocked: bool,
    /// On a pcpu now.
    pub running: bool,
    /// CPU time, ns.
    pub cpu_time_ns: u64,
    /// The pcpu it is or was on.
    pub pcpu: u32,
}

/// What `pvctl info` shows: physinfo and the version calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// Pcpus.
    pub nr_cpus: u32,
    /// Threads per core.
    pub threads_per_core: u32,
    /// Cores per socket.
    pub cores_per_socket: u32,
    /// Nodes.
    pub nr_nodes: u32,
    /// kHz.
    pub cpu_khz: u32,
    /// Pages of RAM.
    pub total_pages: u64,
    /// Free pages.
    pub free_pages: u64,
    /// `major`, `minor` of the ABI.
    pub version: (u32, u32),
    /// The rest of the version.
    pub extra_version: String,
    /// `xen_caps`.
    pub capabilities: String,
    /// Its command line.
    pub commandline: String,
    /// Scheduler's name.
    pub scheduler: String,
}

/// Hypercalls, one function each; an implementation carries out restarts itself.
pub trait Hypervisor {
    /// `XEN_DOMCTL_createdomain`; the hypervisor picks the number. The domain begins paused.
    fn create_domain(&mut self, params: &CreateDomain) -> Result<DomId, Errno>;
    /// `XEN_DOMCTL_destroydomain`, until it is done.
    fn destroy_domain(&mut self, dom: DomId) -> Result<(), Errno>;
    /// `XEN_DOMCTL_max_vcpus`.
    fn set_max_vcpus(&mut self, dom: DomId, vcpus: u32) -> Result<(), Errno>;
    /// `XEN_DOMCTL_max_mem`, KiB.
    fn set_max_mem(&mut self, dom: DomId, kib: u64) -> Result<(), Errno>;
    /// `XENMEM_set_memory_map`: one range of RAM from 0 on.
    fn set_memory_map(&mut self, dom: DomId, bytes: u64) -> Result<(), Errno>;
    /// `XENMEM_populate_physmap` of single pages: pfns `first..first + mfns.len()`; fills `mfns` and
    /// says how many were got (fewer when memory ran out). The hypervisor sets the M2P entries.
    fn populate(&mut self, dom: DomId, first: Pfn, mfns: &mut [Mfn]) -> Result<usize, Errno>;
    /// Maps frames of `dom` (at most [`MAX_BATCH`]; its shared_info is one), writes each and unmaps them. What is
    /// written is the page that `fill` answers, or else the one that it was given and has filled, all of it.
    fn write_frames<'p>(
        &mut self,
        dom: DomId,
        mfns: &[Mfn],
        fill: &mut dyn FnMut(usize, &mut Page) -> Option<&'p Page>,
    ) -> Result<(), Errno>;
    /// Writes a version 1 entry "`to` may access `frame`" into the domain's grant table
    /// (`XENMEM_acquire_resource` of the grant table's frame 0).
    fn seed_grant(&mut self, dom: DomId, gref: GrantRef, to: DomId, frame: Mfn) -> Result<(), Errno>;
    /// `EVTCHNOP_alloc_unbound` for `dom`, to be bound by `remote`.
    fn alloc_unbound(&mut self, dom: DomId, remote: DomId) -> Result<EvtchnPort, Errno>;
    /// `MMUEXT_PIN_L4_TABLE` on behalf of `dom`.
    fn pin_l4(&mut self, dom: DomId, table: Mfn) -> Result<(), Errno>;
    /// `XEN_DOMCTL_hypercall_init`: the hypervisor writes the hypercall page into this frame.
    fn init_hypercall_page(&mut self, dom: DomId, frame: Mfn) -> Result<(), Errno>;
    /// `XEN_DOMCTL_setvcpucontext` from the plan's registers; `cr3` is the L4's frame.
    fn set_vcpu_context(
        &mut self,
        dom: DomId,
        vcpu: VcpuId,
        state: &InitialVcpu,
        cr3: Mfn,
    ) -> Result<(), Errno>;
    /// `XEN_DOMCTL_pausedomain`.
    fn pause(&mut self, dom: DomId) -> Result<(), Errno>;
    /// `XEN_DOMCTL_unpausedomain`.
    fn unpause(&mut self, dom: DomId) -> Result<(), Errno>;
    /// `XEN_DOMCTL_getdomaininfo` of exactly this domain.
    fn domain_info(&mut self, dom: DomId) -> Result<DomainInfo, Errno>;
    /// `XEN_SYSCTL_getdomaininfolist`, all domains in order.
    fn list_domains(&mut self) -> Result<Vec<DomainInfo>, Errno>;
    /// `XEN_DOMCTL_getvcpuinfo`.
    fn vcpu_status(&mut self, dom: DomId, vcpu: VcpuId) -> Result<VcpuStatus, Errno>;
    /// Host facts.
    fn host_info(&mut self) -> Result<HostInfo, Errno>;
    /// `XEN_SYSCTL_readconsole`: the whole kept log.
    fn read_console(&mut self) -> Result<Vec<u8>, Errno>;
}

/// Most frames in one [`Hypervisor::write_frames`] or [`Hypervisor::populate`].
pub const MAX_BATCH: usize = 64;

pub use crate::xenstore::Access;

/// xenstore as dom0's toolstack uses it: absolute paths, all rights. `xenstore::Xenstore` implements it.
pub trait Store {
    /// Value of a node.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno>;
    /// Writes, making missing parents.
    fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno>;
    /// Makes an empty node (and parents) if it is not there.
    fn mkdir(&mut self, path: &str) -> Result<(), Errno>;
    /// Removes a node and all below it; no error if it is not there.
    fn remove(&mut self, path: &str) -> Result<(), Errno>;
    /// Names of the children.
    fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno>;
    /// Sets permissions: the owner and what all others may, then the exceptions.
    fn set_perms(
        &mut self,
        path: &str,
        owner: (DomId, Access),
        others: &[(DomId, Access)],
    ) -> Result<(), Errno>;
    /// Forgets whatever an earlier domain of this number left: nodes it owned, permissions that name it.
    fn forget_domain(&mut self, dom: DomId);
}

/// What a disk of dom0's turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// 512-byte sectors.
    pub sectors: u64,
    /// `major:minor` in hex or any other name the back end understands; goes to `physical-device`.
    pub physical_device: String,
    /// Cannot be written.
    pub read_only: bool,
}

/// The other services of dom0, as far as the toolstack must tell them about a domain's coming and going.
/// The block and network back ends find their devices by themselves through watches on `backend/vbd` and `backend/vif`.
pub trait Services {
    /// The store connects to the domain: maps the ring, binds the port, fires `@introduceDomain`.
    fn store_introduce(&mut self, dom: DomId, ring: Mfn, port: EvtchnPort) -> Result<(), Errno>;
    /// The store lets go of the domain (ring unmapped, port closed, `@releaseDomain`). No error if it
    /// was never introduced.
    fn store_release(&mut self, dom: DomId);
    /// The console service connects to the domain.
    fn console_attach(&mut self, dom: DomId, name: &str, ring: Mfn, port: EvtchnPort) -> Result<(), Errno>;
    /// The console service lets go of the ring; the log stays readable.
    fn console_detach(&mut self, dom: DomId);
    /// Looks at a disk before anything is made: the target of a configuration's `disk` entry.
    fn disk_info(&mut self, target: &str) -> Result<DiskInfo, Errno>;
    /// Every block back end of this domain lets go of its grants and ports, whatever its state.
    fn disks_detach(&mut self, dom: DomId);
    /// The same for its network back ends.
    fn vifs_detach(&mut self, dom: DomId);
    /// Monotonic time, ns.
    fn now_ns(&mut self) -> u64;
    /// 16 bytes for a UUID; need not be secret, must not repeat.
    fn random_uuid(&mut self) -> [u8; 16];
}
