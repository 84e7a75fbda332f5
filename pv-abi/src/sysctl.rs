//! `sysctl` (interface 0x15): the machine as the toolstack sees it.
//!
//! One argument, a [`Sysctl`]: a header and a union of 128 bytes, which [`Sysctl::payload`] and
//! [`Sysctl::set_payload`] read and write as one of the structures here.

use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::domctl::XenctlBitmap;

/// The version a caller must state.
#[doc(alias = "XEN_SYSCTL_INTERFACE_VERSION")]
pub const INTERFACE_VERSION: u32 = 0x15;
/// Bytes of the union.
pub const PAYLOAD_SIZE: usize = 128;
/// No core.
#[doc(alias = "XEN_INVALID_CORE_ID")]
pub const INVALID_CORE_ID: u32 = u32::MAX;
/// No socket.
#[doc(alias = "XEN_INVALID_SOCKET_ID")]
pub const INVALID_SOCKET_ID: u32 = u32::MAX;
/// No node.
#[doc(alias = "XEN_INVALID_NODE_ID")]
pub const INVALID_NODE_ID: u32 = u32::MAX;
/// No size.
#[doc(alias = "XEN_INVALID_MEM_SZ")]
pub const INVALID_MEM_SZ: u32 = u32::MAX;
/// No distance.
#[doc(alias = "XEN_INVALID_NODE_DIST")]
pub const INVALID_NODE_DIST: u32 = u32::MAX;

abi_enum! {
    /// Commands.
    pub enum SysctlCmd: u32 {
        ReadConsole = 1, "XEN_SYSCTL_readconsole";
        TbufOp = 2, "XEN_SYSCTL_tbuf_op";
        PhysInfo = 3, "XEN_SYSCTL_physinfo";
        SchedId = 4, "XEN_SYSCTL_sched_id";
        PerfcOp = 5, "XEN_SYSCTL_perfc_op";
        GetDomainInfoList = 6, "XEN_SYSCTL_getdomaininfolist";
        DebugKeys = 7, "XEN_SYSCTL_debug_keys";
        GetCpuInfo = 8, "XEN_SYSCTL_getcpuinfo";
        AvailHeap = 9, "XEN_SYSCTL_availheap";
        GetPmStat = 10, "XEN_SYSCTL_get_pmstat";
        CpuHotplug = 11, "XEN_SYSCTL_cpu_hotplug";
        PmOp = 12, "XEN_SYSCTL_pm_op";
        PageOfflineOp = 14, "XEN_SYSCTL_page_offline_op";
        LockprofOp = 15, "XEN_SYSCTL_lockprof_op";
        CpuTopoInfo = 16, "XEN_SYSCTL_cputopoinfo";
        NumaInfo = 17, "XEN_SYSCTL_numainfo";
        CpupoolOp = 18, "XEN_SYSCTL_cpupool_op";
        SchedulerOp = 19, "XEN_SYSCTL_scheduler_op";
        CoverageOp = 20, "XEN_SYSCTL_coverage_op";
        PsrCmtOp = 21, "XEN_SYSCTL_psr_cmt_op";
        PciTopoInfo = 22, "XEN_SYSCTL_pcitopoinfo";
        PsrAlloc = 23, "XEN_SYSCTL_psr_alloc";
        GetCpuLevellingCaps = 25, "XEN_SYSCTL_get_cpu_levelling_caps";
        GetCpuFeatureset = 26, "XEN_SYSCTL_get_cpu_featureset";
        LivepatchOp = 27, "XEN_SYSCTL_livepatch_op";
        GetCpuPolicy = 29, "XEN_SYSCTL_get_cpu_policy";
    }
}

abi_enum! {
    /// `cpupool_op.op`.
    pub enum CpupoolOpCmd: u32 {
        Create = 1, "XEN_SYSCTL_CPUPOOL_OP_CREATE";
        Destroy = 2, "XEN_SYSCTL_CPUPOOL_OP_DESTROY";
        Info = 3, "XEN_SYSCTL_CPUPOOL_OP_INFO";
        AddCpu = 4, "XEN_SYSCTL_CPUPOOL_OP_ADDCPU";
        RmCpu = 5, "XEN_SYSCTL_CPUPOOL_OP_RMCPU";
        MoveDomain = 6, "XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN";
        FreeInfo = 7, "XEN_SYSCTL_CPUPOOL_OP_FREEINFO";
    }
}

bitflags::bitflags! {
    /// `physinfo.capabilities`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PhysCaps: u32 {
        /// Hardware-virtualised guests.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_hvm")]
        const HVM = 1 << 0;
        /// PV guests.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_pv")]
        const PV = 1 << 1;
        /// Devices for guests.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_directio")]
        const DIRECTIO = 1 << 2;
        /// Hardware-assisted paging.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_hap")]
        const HAP = 1 << 3;
        /// Shadow paging.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_shadow")]
        const SHADOW = 1 << 4;
        /// Page tables shared with the IOMMU.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share")]
        const IOMMU_HAP_PT_SHARE = 1 << 5;
        /// Traces of guests.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_vmtrace")]
        const VMTRACE = 1 << 6;
        /// Performance counters.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_vpmu")]
        const VPMU = 1 << 7;
        /// Version 1 grant tables.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_gnttab_v1")]
        const GNTTAB_V1 = 1 << 8;
        /// Version 2 grant tables.
        #[doc(alias = "XEN_SYSCTL_PHYSCAP_gnttab_v2")]
        const GNTTAB_V2 = 1 << 9;
    }
}

wire! {
    /// Of [`SysctlCmd::ReadConsole`].
    #[doc(alias = "xen_sysctl_readconsole")]
    pub struct SysctlReadconsole {
        /// Non-zero: empty the ring.
        pub clear: u8,
        /// Non-zero: start at `index`, and return the next one there.
        pub incremental: u8,
        /// Padding.
        pub pad0: u8,
        /// Padding.
        pub pad1: u8,
        /// Position (in and out).
        pub index: u32,
        /// Handle of the bytes.
        pub buffer: u64,
        /// Room (in), bytes (out).
        pub count: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// Of [`SysctlCmd::PhysInfo`].
    #[doc(alias = "xen_sysctl_physinfo")]
    pub struct SysctlPhysinfo {
        /// Threads of a core.
        pub threads_per_core: u32,
        /// Cores of a socket.
        pub cores_per_socket: u32,
        /// Pcpus that are up.
        pub nr_cpus: u32,
        /// Largest pcpu.
        pub max_cpu_id: u32,
        /// Nodes.
        pub nr_nodes: u32,
        /// Largest node.
        pub max_node_id: u32,
        /// Frequency.
        pub cpu_khz: u32,
        /// [`PhysCaps`].
        pub capabilities: u32,
        /// The architecture's capabilities.
        pub arch_capabilities: u32,
        /// Padding.
        pub pad: u32,
        /// Pages of the machine.
        pub total_pages: u64,
        /// Free pages.
        pub free_pages: u64,
        /// Free pages that await scrubbing.
        pub scrub_pages: u64,
        /// Pages claimed and not yet owned.
        pub outstanding_pages: u64,
        /// Largest frame.
        pub max_mfn: u64,
        /// Words of CPUID features.
        pub hw_cap: [u32; 8],
    }

    /// Of [`SysctlCmd::SchedId`].
    #[doc(alias = "xen_sysctl_sched_id")]
    pub struct SysctlSchedId {
        /// [`crate::domctl::SchedulerId`].
        pub sched_id: u32,
    }

    /// Of [`SysctlCmd::GetDomainInfoList`].
    #[doc(alias = "xen_sysctl_getdomaininfolist")]
    pub struct SysctlGetdomaininfolist {
        /// Where to start.
        pub first_domain: u16,
        /// Padding.
        pub _pad0: u16,
        /// Room.
        pub max_domains: u32,
        /// Handle of [`crate::domctl::DomctlGetdomaininfo`]s.
        pub buffer: u64,
        /// How many were written (out).
        pub num_domains: u32,
        /// Padding.
        pub _pad1: u32,
    }

    /// Of [`SysctlCmd::DebugKeys`].
    #[doc(alias = "xen_sysctl_debug_keys")]
    pub struct SysctlDebugKeys {
        /// Handle of the keys, a byte each.
        pub keys: u64,
        /// Keys.
        pub nr_keys: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// A pcpu, for [`SysctlCmd::GetCpuInfo`].
    #[doc(alias = "xen_sysctl_cpuinfo")]
    pub struct SysctlCpuinfo {
        /// Nanoseconds without work.
        pub idletime: u64,
    }

    /// Of [`SysctlCmd::GetCpuInfo`].
    #[doc(alias = "xen_sysctl_getcpuinfo")]
    pub struct SysctlGetcpuinfo {
        /// Room.
        pub max_cpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// Handle of [`SysctlCpuinfo`]s.
        pub info: u64,
        /// How many were written (out).
        pub nr_cpus: u32,
        /// Padding.
        pub _pad1: u32,
    }

    /// Of [`SysctlCmd::AvailHeap`].
    #[doc(alias = "xen_sysctl_availheap")]
    pub struct SysctlAvailheap {
        /// Lowest address width, 0 for any.
        pub min_bitwidth: u32,
        /// Highest address width, 0 for any.
        pub max_bitwidth: u32,
        /// Node, -1 for all.
        pub node: i32,
        /// Padding.
        pub _pad: u32,
        /// Bytes (out).
        pub avail_bytes: u64,
    }

    /// A pcpu's place, for [`SysctlCmd::CpuTopoInfo`].
    #[doc(alias = "xen_sysctl_cputopo")]
    pub struct SysctlCputopo {
        /// Core.
        pub core: u32,
        /// Socket.
        pub socket: u32,
        /// Node.
        pub node: u32,
    }

    /// Of [`SysctlCmd::CpuTopoInfo`].
    #[doc(alias = "xen_sysctl_cputopoinfo")]
    pub struct SysctlCputopoinfo {
        /// Room (in), pcpus (out).
        pub num_cpus: u32,
        /// Padding.
        pub _pad: u32,
        /// Handle of [`SysctlCputopo`]s; 0 asks for the number.
        pub cputopo: u64,
    }

    /// A node's memory, for [`SysctlCmd::NumaInfo`].
    #[doc(alias = "xen_sysctl_meminfo")]
    pub struct SysctlMeminfo {
        /// Bytes.
        pub memsize: u64,
        /// Free bytes.
        pub memfree: u64,
    }

    /// Of [`SysctlCmd::NumaInfo`].
    #[doc(alias = "xen_sysctl_numainfo")]
    pub struct SysctlNumainfo {
        /// Room (in), nodes (out).
        pub num_nodes: u32,
        /// Padding.
        pub _pad: u32,
        /// Handle of [`SysctlMeminfo`]s.
        pub meminfo: u64,
        /// Handle of the distances (`u32` each).
        pub distance: u64,
    }

    /// Of [`SysctlCmd::CpupoolOp`].
    #[doc(alias = "xen_sysctl_cpupool_op")]
    pub struct SysctlCpupoolOp {
        /// [`CpupoolOpCmd`].
        pub op: u32,
        /// Pool (in and out).
        pub cpupool_id: u32,
        /// [`crate::domctl::SchedulerId`] (in and out).
        pub sched_id: u32,
        /// Domain to move.
        pub domid: u32,
        /// Pcpu to add or remove.
        pub cpu: u32,
        /// Domains of the pool (out).
        pub n_dom: u32,
        /// Pcpus of the pool (out).
        pub cpumap: XenctlBitmap,
    }

    /// Of [`SysctlCmd::GetCpuPolicy`].
    #[doc(alias = "xen_sysctl_cpu_policy")]
    pub struct SysctlCpuPolicy {
        /// Which policy.
        pub index: u32,
        /// Leaves (room in, number out).
        pub nr_leaves: u32,
        /// Registers (room in, number out).
        pub nr_msrs: u32,
        /// Zero.
        pub _rsvd: u32,
        /// Handle of the leaves.
        pub leaves: u64,
        /// Handle of the registers.
        pub msrs: u64,
    }

    /// The argument of `sysctl`.
    #[doc(alias = "xen_sysctl")]
    pub struct Sysctl {
        /// [`SysctlCmd`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The union `u`.
        pub u: [u8; PAYLOAD_SIZE],
    }
}

impl Sysctl {
    /// A command with a payload.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: SysctlCmd, payload: &T) -> Self {
        let mut op = Self { cmd: cmd.raw(), interface_version: INTERFACE_VERSION, ..Self::new_zeroed() };
        op.set_payload(payload);
        op
    }
}

union_payload!(Sysctl);
