//! `domctl` (interface 0x15): the control of domains by the toolstack.
//!
//! One argument, a [`Domctl`]: a header and a union of 128 bytes, which [`Domctl::payload`] and
//! [`Domctl::set_payload`] read and write as one of the structures here.

use zerocopy::{FromZeros, Immutable, IntoBytes};

/// The version a caller must state.
#[doc(alias = "XEN_DOMCTL_INTERFACE_VERSION")]
pub const INTERFACE_VERSION: u32 = 0x15;
/// Bytes of the union.
pub const PAYLOAD_SIZE: usize = 128;
/// `getdomaininfo.max_vcpu_id` of a domain without vcpus.
#[doc(alias = "XEN_INVALID_MAX_VCPU_ID")]
pub const INVALID_MAX_VCPU_ID: u32 = u32::MAX;

abi_enum! {
    /// Commands.
    pub enum DomctlCmd: u32 {
        CreateDomain = 1, "XEN_DOMCTL_createdomain";
        DestroyDomain = 2, "XEN_DOMCTL_destroydomain";
        PauseDomain = 3, "XEN_DOMCTL_pausedomain";
        UnpauseDomain = 4, "XEN_DOMCTL_unpausedomain";
        GetDomainInfo = 5, "XEN_DOMCTL_getdomaininfo";
        SetVcpuAffinity = 9, "XEN_DOMCTL_setvcpuaffinity";
        ShadowOp = 10, "XEN_DOMCTL_shadow_op";
        MaxMem = 11, "XEN_DOMCTL_max_mem";
        SetVcpuContext = 12, "XEN_DOMCTL_setvcpucontext";
        GetVcpuContext = 13, "XEN_DOMCTL_getvcpucontext";
        GetVcpuInfo = 14, "XEN_DOMCTL_getvcpuinfo";
        MaxVcpus = 15, "XEN_DOMCTL_max_vcpus";
        SchedulerOp = 16, "XEN_DOMCTL_scheduler_op";
        SetDomainHandle = 17, "XEN_DOMCTL_setdomainhandle";
        SetDebugging = 18, "XEN_DOMCTL_setdebugging";
        IrqPermission = 19, "XEN_DOMCTL_irq_permission";
        IomemPermission = 20, "XEN_DOMCTL_iomem_permission";
        IoportPermission = 21, "XEN_DOMCTL_ioport_permission";
        HypercallInit = 22, "XEN_DOMCTL_hypercall_init";
        SetTimeOffset = 24, "XEN_DOMCTL_settimeoffset";
        GetVcpuAffinity = 25, "XEN_DOMCTL_getvcpuaffinity";
        RealModeArea = 26, "XEN_DOMCTL_real_mode_area";
        ResumeDomain = 27, "XEN_DOMCTL_resumedomain";
        SendTrigger = 28, "XEN_DOMCTL_sendtrigger";
        Subscribe = 29, "XEN_DOMCTL_subscribe";
        GetHvmContext = 33, "XEN_DOMCTL_gethvmcontext";
        SetHvmContext = 34, "XEN_DOMCTL_sethvmcontext";
        SetAddressSize = 35, "XEN_DOMCTL_set_address_size";
        GetAddressSize = 36, "XEN_DOMCTL_get_address_size";
        AssignDevice = 37, "XEN_DOMCTL_assign_device";
        BindPtIrq = 38, "XEN_DOMCTL_bind_pt_irq";
        MemoryMapping = 39, "XEN_DOMCTL_memory_mapping";
        IoportMapping = 40, "XEN_DOMCTL_ioport_mapping";
        SetExtVcpuContext = 42, "XEN_DOMCTL_set_ext_vcpucontext";
        GetExtVcpuContext = 43, "XEN_DOMCTL_get_ext_vcpucontext";
        SetOptFeature = 44, "XEN_DOMCTL_set_opt_feature";
        TestAssignDevice = 45, "XEN_DOMCTL_test_assign_device";
        SetTarget = 46, "XEN_DOMCTL_set_target";
        DeassignDevice = 47, "XEN_DOMCTL_deassign_device";
        UnbindPtIrq = 48, "XEN_DOMCTL_unbind_pt_irq";
        GetDeviceGroup = 50, "XEN_DOMCTL_get_device_group";
        DebugOp = 54, "XEN_DOMCTL_debug_op";
        GetHvmContextPartial = 55, "XEN_DOMCTL_gethvmcontext_partial";
        VmEventOp = 56, "XEN_DOMCTL_vm_event_op";
        MemSharingOp = 57, "XEN_DOMCTL_mem_sharing_op";
        GetTscInfo = 59, "XEN_DOMCTL_gettscinfo";
        SetTscInfo = 60, "XEN_DOMCTL_settscinfo";
        GetPageFrameInfo3 = 61, "XEN_DOMCTL_getpageframeinfo3";
        SetVcpuExtState = 62, "XEN_DOMCTL_setvcpuextstate";
        GetVcpuExtState = 63, "XEN_DOMCTL_getvcpuextstate";
        SetAccessRequired = 64, "XEN_DOMCTL_set_access_required";
        AuditP2m = 65, "XEN_DOMCTL_audit_p2m";
        SetVirqHandler = 66, "XEN_DOMCTL_set_virq_handler";
        SetBrokenPageP2m = 67, "XEN_DOMCTL_set_broken_page_p2m";
        SetNodeAffinity = 68, "XEN_DOMCTL_setnodeaffinity";
        GetNodeAffinity = 69, "XEN_DOMCTL_getnodeaffinity";
        CacheFlush = 71, "XEN_DOMCTL_cacheflush";
        GetVcpuMsrs = 72, "XEN_DOMCTL_get_vcpu_msrs";
        SetVcpuMsrs = 73, "XEN_DOMCTL_set_vcpu_msrs";
        SetVnumaInfo = 74, "XEN_DOMCTL_setvnumainfo";
        PsrCmtOp = 75, "XEN_DOMCTL_psr_cmt_op";
        MonitorOp = 77, "XEN_DOMCTL_monitor_op";
        PsrAlloc = 78, "XEN_DOMCTL_psr_alloc";
        SoftReset = 79, "XEN_DOMCTL_soft_reset";
        VuartOp = 81, "XEN_DOMCTL_vuart_op";
        GetCpuPolicy = 82, "XEN_DOMCTL_get_cpu_policy";
        SetCpuPolicy = 83, "XEN_DOMCTL_set_cpu_policy";
        VmtraceOp = 84, "XEN_DOMCTL_vmtrace_op";
        GetPagingMempoolSize = 85, "XEN_DOMCTL_get_paging_mempool_size";
        SetPagingMempoolSize = 86, "XEN_DOMCTL_set_paging_mempool_size";
        GdbsxGuestMemIo = 1000, "XEN_DOMCTL_gdbsx_guestmemio";
        GdbsxPauseVcpu = 1001, "XEN_DOMCTL_gdbsx_pausevcpu";
        GdbsxUnpauseVcpu = 1002, "XEN_DOMCTL_gdbsx_unpausevcpu";
        GdbsxDomStatus = 1003, "XEN_DOMCTL_gdbsx_domstatus";
    }
}

abi_enum! {
    /// Schedulers.
    pub enum SchedulerId: u32 {
        Credit = 5, "XEN_SCHEDULER_CREDIT";
        Credit2 = 6, "XEN_SCHEDULER_CREDIT2";
        Arinc653 = 7, "XEN_SCHEDULER_ARINC653";
        Rtds = 8, "XEN_SCHEDULER_RTDS";
        Null = 9, "XEN_SCHEDULER_NULL";
    }
}

abi_enum! {
    /// `scheduler_op.cmd`.
    pub enum SchedulerOpCmd: u32 {
        PutInfo = 0, "XEN_DOMCTL_SCHEDOP_putinfo";
        GetInfo = 1, "XEN_DOMCTL_SCHEDOP_getinfo";
        PutVcpuInfo = 2, "XEN_DOMCTL_SCHEDOP_putvcpuinfo";
        GetVcpuInfo = 3, "XEN_DOMCTL_SCHEDOP_getvcpuinfo";
    }
}

abi_enum! {
    /// How a guest sees the time stamp counter.
    pub enum TscMode: u32 {
        /// Native where it is safe, else emulated.
        Default = 0, "XEN_CPUID_TSC_MODE_DEFAULT";
        AlwaysEmulate = 1, "XEN_CPUID_TSC_MODE_ALWAYS_EMULATE";
        NeverEmulate = 2, "XEN_CPUID_TSC_MODE_NEVER_EMULATE";
    }
}

bitflags::bitflags! {
    /// `createdomain.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CreateFlags: u32 {
        /// A hardware-virtualised guest.
        #[doc(alias = "XEN_DOMCTL_CDF_hvm")]
        const HVM = 1 << 0;
        /// Hardware-assisted paging.
        #[doc(alias = "XEN_DOMCTL_CDF_hap")]
        const HAP = 1 << 1;
        /// Memory integrity over S3.
        #[doc(alias = "XEN_DOMCTL_CDF_s3_integrity")]
        const S3_INTEGRITY = 1 << 2;
        /// No out-of-sync shadows.
        #[doc(alias = "XEN_DOMCTL_CDF_oos_off")]
        const OOS_OFF = 1 << 3;
        /// The domain that runs xenstore.
        #[doc(alias = "XEN_DOMCTL_CDF_xs_domain")]
        const XS_DOMAIN = 1 << 4;
        /// Devices behind an IOMMU.
        #[doc(alias = "XEN_DOMCTL_CDF_iommu")]
        const IOMMU = 1 << 5;
        /// Nested virtualisation.
        #[doc(alias = "XEN_DOMCTL_CDF_nested_virt")]
        const NESTED_VIRT = 1 << 6;
        /// Performance counters.
        #[doc(alias = "XEN_DOMCTL_CDF_vpmu")]
        const VPMU = 1 << 7;
    }

    /// `getdomaininfo.flags`, the low bits; bits 16 to 23 hold the shutdown reason.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct DomInfoFlags: u32 {
        /// Being destroyed.
        #[doc(alias = "XEN_DOMINF_dying")]
        const DYING = 1 << 0;
        /// Hardware-virtualised.
        #[doc(alias = "XEN_DOMINF_hvm_guest")]
        const HVM_GUEST = 1 << 1;
        /// Has shut down.
        #[doc(alias = "XEN_DOMINF_shutdown")]
        const SHUTDOWN = 1 << 2;
        /// Paused by the toolstack.
        #[doc(alias = "XEN_DOMINF_paused")]
        const PAUSED = 1 << 3;
        /// No vcpu wants to run.
        #[doc(alias = "XEN_DOMINF_blocked")]
        const BLOCKED = 1 << 4;
        /// A vcpu runs.
        #[doc(alias = "XEN_DOMINF_running")]
        const RUNNING = 1 << 5;
        /// Under a debugger.
        #[doc(alias = "XEN_DOMINF_debugged")]
        const DEBUGGED = 1 << 6;
        /// Runs xenstore.
        #[doc(alias = "XEN_DOMINF_xs_domain")]
        const XS_DOMAIN = 1 << 7;
        /// Hardware-assisted paging.
        #[doc(alias = "XEN_DOMINF_hap")]
        const HAP = 1 << 8;
    }

    /// `vcpuaffinity.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct AffinityFlags: u32 {
        /// Where it may run.
        #[doc(alias = "XEN_VCPUAFFINITY_HARD")]
        const HARD = 1 << 0;
        /// Where it likes to run.
        #[doc(alias = "XEN_VCPUAFFINITY_SOFT")]
        const SOFT = 1 << 1;
        /// Undo a temporary pinning.
        #[doc(alias = "XEN_VCPUAFFINITY_FORCE")]
        const FORCE = 1 << 2;
    }
}

/// Where `getdomaininfo.flags` holds the shutdown reason.
#[doc(alias = "XEN_DOMINF_shutdownshift")]
pub const DOMINF_SHUTDOWN_SHIFT: u32 = 16;
/// Mask of the shutdown reason, before the shift.
#[doc(alias = "XEN_DOMINF_shutdownmask")]
pub const DOMINF_SHUTDOWN_MASK: u32 = 255;
/// Bits of `createdomain.grant_opts` that hold the highest grant-table version.
#[doc(alias = "XEN_DOMCTL_GRANT_version_mask")]
pub const GRANT_VERSION_MASK: u32 = 0xf;
/// `arch.misc_flags`: unknown MSRs read as zero.
#[doc(alias = "XEN_X86_MSR_RELAXED")]
pub const X86_MSR_RELAXED: u32 = 1;

wire! {
    /// A bitmap in the caller's memory.
    #[doc(alias = "xenctl_bitmap")]
    pub struct XenctlBitmap {
        /// Handle of the bytes.
        pub bitmap: u64,
        /// Bits.
        pub nr_bits: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// The architecture's part of a domain's configuration.
    #[doc(alias = "xen_arch_domainconfig")]
    pub struct XenArchDomainconfig {
        /// Devices emulated; none for PV (but the timer bit).
        pub emulation_flags: u32,
        /// [`X86_MSR_RELAXED`].
        pub misc_flags: u32,
    }

    /// Of [`DomctlCmd::CreateDomain`].
    #[doc(alias = "xen_domctl_createdomain")]
    pub struct DomctlCreatedomain {
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: [u8; 16],
        /// [`CreateFlags`].
        pub flags: u32,
        /// IOMMU options.
        pub iommu_opts: u32,
        /// Vcpus, at least one.
        pub max_vcpus: u32,
        /// Largest port.
        pub max_evtchn_port: u32,
        /// Frames of the grant table; negative for the default.
        pub max_grant_frames: i32,
        /// Frames of the maptrack table; negative for the default.
        pub max_maptrack_frames: i32,
        /// Highest grant-table version.
        pub grant_opts: u32,
        /// Trace buffer, 0 for none.
        pub vmtrace_size: u32,
        /// CPU pool.
        pub cpupool_id: u32,
        /// The architecture's part.
        pub arch: XenArchDomainconfig,
    }

    /// Of [`DomctlCmd::GetDomainInfo`] and of the domain list.
    #[doc(alias = "xen_domctl_getdomaininfo")]
    pub struct DomctlGetdomaininfo {
        /// Domain.
        pub domain: u16,
        /// Padding.
        pub pad1: u16,
        /// [`DomInfoFlags`] and the shutdown reason.
        pub flags: u32,
        /// Pages owned.
        pub tot_pages: u64,
        /// Limit of pages.
        pub max_pages: u64,
        /// Pages claimed and not yet owned.
        pub outstanding_pages: u64,
        /// Shared pages.
        pub shr_pages: u64,
        /// Pages paged out.
        pub paged_pages: u64,
        /// Frame of the shared-info page.
        pub shared_info_frame: u64,
        /// Nanoseconds of all vcpus.
        pub cpu_time: u64,
        /// Vcpus that are up.
        pub nr_online_vcpus: u32,
        /// Largest vcpu.
        pub max_vcpu_id: u32,
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: [u8; 16],
        /// CPU pool.
        pub cpupool: u32,
        /// Width of guest-physical addresses.
        pub gpaddr_bits: u8,
        /// Padding.
        pub pad2: [u8; 7],
        /// The architecture's part.
        pub arch_config: XenArchDomainconfig,
    }

    /// Of [`DomctlCmd::MaxMem`].
    #[doc(alias = "xen_domctl_max_mem")]
    pub struct DomctlMaxMem {
        /// KiB.
        pub max_memkb: u64,
    }

    /// Of [`DomctlCmd::SetVcpuContext`] and [`DomctlCmd::GetVcpuContext`].
    #[doc(alias = "xen_domctl_vcpucontext")]
    pub struct DomctlVcpucontext {
        /// Vcpu.
        pub vcpu: u32,
        /// Padding.
        pub _pad: u32,
        /// Handle of a [`crate::trap::VcpuGuestContext`]; 0 takes the context away.
        pub ctxt: u64,
    }

    /// Of [`DomctlCmd::GetVcpuInfo`].
    #[doc(alias = "xen_domctl_getvcpuinfo")]
    pub struct DomctlGetvcpuinfo {
        /// Vcpu.
        pub vcpu: u32,
        /// Whether it is up.
        pub online: u8,
        /// Whether it waits.
        pub blocked: u8,
        /// Whether it is on a pcpu.
        pub running: u8,
        /// Padding.
        pub _pad0: u8,
        /// Nanoseconds on pcpus.
        pub cpu_time: u64,
        /// The pcpu.
        pub cpu: u32,
        /// Padding.
        pub _pad1: u32,
    }

    /// Of the node-affinity commands.
    #[doc(alias = "xen_domctl_nodeaffinity")]
    pub struct DomctlNodeaffinity {
        /// Nodes.
        pub nodemap: XenctlBitmap,
    }

    /// Of [`DomctlCmd::SetVcpuAffinity`] and [`DomctlCmd::GetVcpuAffinity`].
    #[doc(alias = "xen_domctl_vcpuaffinity")]
    pub struct DomctlVcpuaffinity {
        /// Vcpu.
        pub vcpu: u32,
        /// [`AffinityFlags`].
        pub flags: u32,
        /// Where it may run (in), what is in force (out).
        pub cpumap_hard: XenctlBitmap,
        /// Where it likes to run (in), what is in force (out).
        pub cpumap_soft: XenctlBitmap,
    }

    /// Of [`DomctlCmd::MaxVcpus`].
    #[doc(alias = "xen_domctl_max_vcpus")]
    pub struct DomctlMaxVcpus {
        /// Number.
        pub max: u32,
    }

    /// Of [`DomctlCmd::SchedulerOp`]; the parameters are those of the credit schedulers.
    #[doc(alias = "xen_domctl_scheduler_op")]
    pub struct DomctlSchedulerOp {
        /// [`SchedulerId`].
        pub sched_id: u32,
        /// [`SchedulerOpCmd`].
        pub cmd: u32,
        /// Weight.
        pub weight: u16,
        /// Cap in percent, 0 for none.
        pub cap: u16,
        /// The rest of the union.
        pub _rest: [u32; 3],
    }

    /// Of [`DomctlCmd::SetDomainHandle`].
    #[doc(alias = "xen_domctl_setdomainhandle")]
    pub struct DomctlSetdomainhandle {
        /// UUID.
        pub handle: [u8; 16],
    }

    /// Of [`DomctlCmd::SetDebugging`].
    #[doc(alias = "xen_domctl_setdebugging")]
    pub struct DomctlSetdebugging {
        /// Non-zero to switch on.
        pub enable: u8,
    }

    /// Of [`DomctlCmd::IrqPermission`].
    #[doc(alias = "xen_domctl_irq_permission")]
    pub struct DomctlIrqPermission {
        /// Line of the caller.
        pub pirq: u32,
        /// Non-zero to allow.
        pub allow_access: u8,
        /// Padding.
        pub pad: [u8; 3],
    }

    /// Of [`DomctlCmd::IomemPermission`].
    #[doc(alias = "xen_domctl_iomem_permission")]
    pub struct DomctlIomemPermission {
        /// First frame.
        pub first_mfn: u64,
        /// Frames.
        pub nr_mfns: u64,
        /// Non-zero to allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad: [u8; 7],
    }

    /// Of [`DomctlCmd::IoportPermission`].
    #[doc(alias = "xen_domctl_ioport_permission")]
    pub struct DomctlIoportPermission {
        /// First port.
        pub first_port: u32,
        /// Ports.
        pub nr_ports: u32,
        /// Non-zero to allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad: [u8; 3],
    }

    /// Of [`DomctlCmd::HypercallInit`].
    #[doc(alias = "xen_domctl_hypercall_init")]
    pub struct DomctlHypercallInit {
        /// Frame of the hypercall page.
        pub gmfn: u64,
    }

    /// Of [`DomctlCmd::SetTimeOffset`].
    #[doc(alias = "xen_domctl_settimeoffset")]
    pub struct DomctlSettimeoffset {
        /// Seconds that the wall clock is off.
        pub time_offset_seconds: i64,
    }

    /// Of the address-size commands.
    #[doc(alias = "xen_domctl_address_size")]
    pub struct DomctlAddressSize {
        /// 32 or 64.
        pub size: u32,
    }

    /// Of [`DomctlCmd::SendTrigger`].
    #[doc(alias = "xen_domctl_sendtrigger")]
    pub struct DomctlSendtrigger {
        /// 0 for an NMI.
        pub trigger: u32,
        /// Vcpu.
        pub vcpu: u32,
    }

    /// Of [`DomctlCmd::Subscribe`].
    #[doc(alias = "xen_domctl_subscribe")]
    pub struct DomctlSubscribe {
        /// Port that is notified when the domain suspends.
        pub port: u32,
    }

    /// Of [`DomctlCmd::SetTarget`].
    #[doc(alias = "xen_domctl_set_target")]
    pub struct DomctlSetTarget {
        /// The domain that the named one controls.
        pub target: u16,
    }

    /// Of the time-stamp-counter commands.
    #[doc(alias = "xen_domctl_tsc_info")]
    pub struct DomctlTscInfo {
        /// [`TscMode`].
        pub tsc_mode: u32,
        /// Frequency, 0 for the machine's.
        pub gtsc_khz: u32,
        /// Migrations so far.
        pub incarnation: u32,
        /// Padding.
        pub pad: u32,
        /// Age of the domain in nanoseconds.
        pub elapsed_nsec: u64,
    }

    /// Of [`DomctlCmd::GetPageFrameInfo3`].
    #[doc(alias = "xen_domctl_getpageframeinfo3")]
    pub struct DomctlGetpageframeinfo3 {
        /// Frames.
        pub num: u64,
        /// Handle of the frame numbers, replaced by types.
        pub array: u64,
    }

    /// Of [`DomctlCmd::SetVirqHandler`].
    #[doc(alias = "xen_domctl_set_virq_handler")]
    pub struct DomctlSetVirqHandler {
        /// A global line.
        pub virq: u32,
    }

    /// Of the paging-pool commands.
    #[doc(alias = "xen_domctl_paging_mempool")]
    pub struct DomctlPagingMempool {
        /// Bytes.
        pub size: u64,
    }

    /// Of the CPU-policy commands.
    #[doc(alias = "xen_domctl_cpu_policy")]
    pub struct DomctlCpuPolicy {
        /// Leaves.
        pub nr_leaves: u32,
        /// Registers.
        pub nr_msrs: u32,
        /// Handle of the leaves.
        pub leaves: u64,
        /// Handle of the registers.
        pub msrs: u64,
        /// The leaf that was refused.
        pub err_leaf: u32,
        /// Its subleaf.
        pub err_subleaf: u32,
        /// The register that was refused.
        pub err_msr: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// The argument of `domctl`.
    #[doc(alias = "xen_domctl")]
    pub struct Domctl {
        /// [`DomctlCmd`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The domain.
        pub domain: u16,
        /// Padding.
        pub _pad: [u16; 3],
        /// The union `u`.
        pub u: [u8; PAYLOAD_SIZE],
    }
}

impl Domctl {
    /// A command for `domain` with a payload.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: DomctlCmd, domain: crate::ids::DomId, payload: &T) -> Self {
        let mut op = Self {
            cmd: cmd.raw(),
            interface_version: INTERFACE_VERSION,
            domain: domain.raw(),
            ..Self::new_zeroed()
        };
        op.set_payload(payload);
        op
    }
}

union_payload!(Domctl);
