//! Numbers: enumerations, flags and constants.

#[test]
fn enumerations() {
    numbers!(pv_abi::callback::CallbackOp, Register 0, Unregister 1);
    numbers!(pv_abi::callback::CallbackType,
        Event 0, Failsafe 1, Syscall 2, SysenterDeprecated 3, Nmi 4, Sysenter 5, Syscall32 7
    );
    numbers!(pv_abi::console::ConsoleIoOp, Write 0, Read 1);
    numbers!(pv_abi::domctl::DomctlCmd,
        CreateDomain 1, DestroyDomain 2, PauseDomain 3, UnpauseDomain 4, GetDomainInfo 5, SetVcpuAffinity 9,
        ShadowOp 10, MaxMem 11, SetVcpuContext 12, GetVcpuContext 13, GetVcpuInfo 14, MaxVcpus 15,
        SchedulerOp 16, SetDomainHandle 17, SetDebugging 18, IrqPermission 19, IomemPermission 20,
        IoportPermission 21, HypercallInit 22, SetTimeOffset 24, GetVcpuAffinity 25, RealModeArea 26,
        ResumeDomain 27, SendTrigger 28, Subscribe 29, GetHvmContext 33, SetHvmContext 34,
        SetAddressSize 35, GetAddressSize 36, AssignDevice 37, BindPtIrq 38, MemoryMapping 39,
        IoportMapping 40, SetExtVcpuContext 42, GetExtVcpuContext 43, SetOptFeature 44, TestAssignDevice 45,
        SetTarget 46, DeassignDevice 47, UnbindPtIrq 48, GetDeviceGroup 50, DebugOp 54,
        GetHvmContextPartial 55, VmEventOp 56, MemSharingOp 57, GetTscInfo 59, SetTscInfo 60,
        GetPageFrameInfo3 61, SetVcpuExtState 62, GetVcpuExtState 63, SetAccessRequired 64, AuditP2m 65,
        SetVirqHandler 66, SetBrokenPageP2m 67, SetNodeAffinity 68, GetNodeAffinity 69, CacheFlush 71,
        GetVcpuMsrs 72, SetVcpuMsrs 73, SetVnumaInfo 74, PsrCmtOp 75, MonitorOp 77, PsrAlloc 78,
        SoftReset 79, VuartOp 81, GetCpuPolicy 82, SetCpuPolicy 83, VmtraceOp 84, GetPagingMempoolSize 85,
        SetPagingMempoolSize 86, GdbsxGuestMemIo 1000, GdbsxPauseVcpu 1001, GdbsxUnpauseVcpu 1002,
        GdbsxDomStatus 1003
    );
    numbers!(pv_abi::domctl::SchedulerId, Credit 5, Credit2 6, Arinc653 7, Rtds 8, Null 9);
    numbers!(pv_abi::domctl::SchedulerOpCmd, PutInfo 0, GetInfo 1, PutVcpuInfo 2, GetVcpuInfo 3);
    numbers!(pv_abi::elfnote::ElfNote,
        Info 0, Entry 1, HypercallPage 2, VirtBase 3, PaddrOffset 4, XenVersion 5, GuestOs 6,
        GuestVersion 7, Loader 8, PaeMode 9, Features 10, BsdSymtab 11, HvStartLow 12, L1MfnValid 13,
        SuspendCancel 14, InitP2m 15, ModStartPfn 16, SupportedFeatures 17, Phys32Entry 18
    );
    numbers!(pv_abi::errno::Errno,
        Perm 1, NoEnt 2, Srch 3, Io 5, NxIo 6, TooBig 7, NoExec 8, BadF 9, Child 10, Again 11, NoMem 12,
        Acces 13, Fault 14, Busy 16, Exist 17, XDev 18, NoDev 19, NotDir 20, IsDir 21, Inval 22, NFile 23,
        MFile 24, NoSpc 28, RoFs 30, MLink 31, Dom 33, Range 34, Deadlk 35, NameTooLong 36, NoLck 37,
        NoSys 38, NotEmpty 39, NoData 61, Time 62, BadMsg 74, Overflow 75, IlSeq 84, NotSock 88, MsgSize 90,
        OpNotSupp 95, AddrInUse 98, AddrNotAvail 99, NoBufs 105, IsConn 106, NotConn 107, TimedOut 110,
        ConnRefused 111
    );
    numbers!(pv_abi::evtchn::EvtchnOp,
        BindInterdomain 0, BindVirq 1, BindPirq 2, Close 3, Send 4, Status 5, AllocUnbound 6, BindIpi 7,
        BindVcpu 8, Unmask 9, Reset 10, InitControl 11, ExpandArray 12, SetPriority 13
    );
    numbers!(pv_abi::evtchn::EvtchnStat, Closed 0, Unbound 1, Interdomain 2, Pirq 3, Virq 4, Ipi 5);
    numbers!(pv_abi::evtchn::VirqKind,
        Timer 0, Debug 1, Console 2, DomExc 3, Tbuf 4, Debugger 6, Xenoprof 7, ConRing 8, PcpuState 9,
        MemEvent 10, Argo 11, Enomem 12, Xenpmu 13, Mca 16
    );
    numbers!(pv_abi::grant::GnttabOp,
        MapGrantRef 0, UnmapGrantRef 1, SetupTable 2, DumpTable 3, Transfer 4, Copy 5, QuerySize 6,
        UnmapAndReplace 7, SetVersion 8, GetStatusFrames 9, GetVersion 10, SwapGrantRef 11, CacheFlush 12
    );
    numbers!(pv_abi::grant::GrantStatus,
        Okay 0, GeneralError -1, BadDomain -2, BadGntref -3, BadHandle -4, BadVirtAddr -5, BadDevAddr -6,
        NoDeviceSpace -7, PermissionDenied -8, BadPage -9, BadCopyArg -10, AddressTooBig -11, Eagain -12,
        NoSpace -13
    );
    numbers!(pv_abi::io::blkif::BlkifOp,
        Read 0, Write 1, WriteBarrier 2, FlushDiskcache 3, Discard 5, Indirect 6
    );
    numbers!(pv_abi::io::blkif::BlkifStatus, Okay 0, Error -1, OpNotSupp -2);
    numbers!(pv_abi::io::netif::NetExtraType, None 0, Gso 1, McastAdd 2, McastDel 3, Hash 4);
    numbers!(pv_abi::io::netif::NetGsoType, None 0, TcpV4 1, TcpV6 2);
    numbers!(pv_abi::io::netif::NetifStatus, Null 1, Okay 0, Error -1, Dropped -2);
    numbers!(pv_abi::io::xenbus::XenbusState,
        Unknown 0, Initialising 1, InitWait 2, Initialised 3, Connected 4, Closing 5, Closed 6,
        Reconfiguring 7, Reconfigured 8
    );
    numbers!(pv_abi::io::xenstore::XsType,
        Control 0, Directory 1, Read 2, GetPerms 3, Watch 4, Unwatch 5, TransactionStart 6,
        TransactionEnd 7, Introduce 8, Release 9, GetDomainPath 10, Write 11, Mkdir 12, Rm 13, SetPerms 14,
        WatchEvent 15, Error 16, IsDomainIntroduced 17, Resume 18, SetTarget 19, ResetWatches 21,
        DirectoryPart 22
    );
    numbers!(pv_abi::io::xenstore::ConnectionState, Connected 0, Reconnect 1);
    numbers!(pv_abi::io::xenstore::RingFault, None 0, Comm 1, RingIdx 2, Proto 3);
    numbers!(pv_abi::memory::MemoryOp,
        IncreaseReservation 0, DecreaseReservation 1, MaximumRamPage 2, CurrentReservation 3,
        MaximumReservation 4, MachphysMfnList 5, PopulatePhysmap 6, AddToPhysmap 7, MemoryMap 9,
        MachineMemoryMap 10, Exchange 11, MachphysMapping 12, SetMemoryMap 13, MaximumGpfn 14,
        RemoveFromPhysmap 15, SetPodTarget 16, GetPodTarget 17, GetSharingFreedPages 18,
        GetSharingSharedPages 19, PagingOp 20, AccessOp 21, SharingOp 22, AddToPhysmapBatch 23,
        ClaimPages 24, MachphysCompatMfnList 25, GetVnumainfo 26, ReservedDeviceMemoryMap 27,
        AcquireResource 28
    );
    numbers!(pv_abi::memory::E820Type, Ram 1, Reserved 2, Acpi 3, Nvs 4, Unusable 5);
    numbers!(pv_abi::memory::MemResource, IoreqServer 0, GrantTable 1, VmtraceBuf 2);
    numbers!(pv_abi::mmu::MmuUpdateCmd,
        NormalPtUpdate 0, MachphysUpdate 1, PtUpdatePreserveAd 2, PtUpdateNoTranslate 3
    );
    numbers!(pv_abi::mmu::MmuextCmd,
        PinL1Table 0, PinL2Table 1, PinL3Table 2, PinL4Table 3, UnpinTable 4, NewBaseptr 5, TlbFlushLocal 6,
        InvlpgLocal 7, TlbFlushMulti 8, InvlpgMulti 9, TlbFlushAll 10, InvlpgAll 11, FlushCache 12,
        SetLdt 13, NewUserBaseptr 15, ClearPage 16, CopyPage 17, FlushCacheGlobal 18, MarkSuper 19,
        UnmarkSuper 20
    );
    numbers!(pv_abi::nmi::NmiOp, RegisterCallback 0, UnregisterCallback 1);
    numbers!(pv_abi::physdev::PhysdevOp,
        IrqUnmaskNotify 4, IrqStatusQuery 5, SetIopl 6, SetIobitmap 7, ApicRead 8, ApicWrite 9,
        AllocIrqVector 10, FreeIrqVector 11, Eoi 12, MapPirq 13, UnmapPirq 14, ManagePciAdd 15,
        ManagePciRemove 16, PirqEoiGmfnV1 17, RestoreMsi 19, ManagePciAddExt 20, SetupGsi 21,
        GetFreePirq 23, PciMmcfgReserved 24, PciDeviceAdd 25, PciDeviceRemove 26, RestoreMsiExt 27,
        PirqEoiGmfnV2 28, DbgpOp 29, PrepareMsix 30, ReleaseMsix 31
    );
    numbers!(pv_abi::physdev::MapPirqType, Msi 0, Gsi 1, Unknown 2, MsiSeg 3, MultiMsi 4);
    numbers!(pv_abi::platform::PlatformCmd,
        SetTime32 17, AddMemtype 31, DelMemtype 32, ReadMemtype 33, MicrocodeUpdate 35, PlatformQuirk 39,
        GetCpuVersion 48, EfiRuntimeCall 49, FirmwareInfo 50, EnterAcpiSleep 51, ChangeFreq 52,
        GetIdleTime 53, SetProcessorPminfo 54, GetCpuInfo 55, CpuOnline 56, CpuOffline 57, CpuHotadd 58,
        MemHotadd 59, CoreParking 60, ResourceOp 61, SetTime64 62, GetSymbol 63
    );
    numbers!(pv_abi::platform::FirmwareInfoType,
        DiskInfo 1, DiskMbrSignature 2, VbeddcInfo 3, EfiInfo 4, KbdShiftFlags 5
    );
    numbers!(pv_abi::sched::SchedOp,
        Yield 0, Block 1, Shutdown 2, Poll 3, RemoteShutdown 4, ShutdownCode 5, Watchdog 6, PinOverride 7
    );
    numbers!(pv_abi::sched::ShutdownReason,
        Poweroff 0, Reboot 1, Suspend 2, Crash 3, Watchdog 4, SoftReset 5
    );
    numbers!(pv_abi::sysctl::SysctlCmd,
        ReadConsole 1, TbufOp 2, PhysInfo 3, SchedId 4, PerfcOp 5, GetDomainInfoList 6, DebugKeys 7,
        GetCpuInfo 8, AvailHeap 9, GetPmStat 10, CpuHotplug 11, PmOp 12, PageOfflineOp 14, LockprofOp 15,
        CpuTopoInfo 16, NumaInfo 17, CpupoolOp 18, SchedulerOp 19, CoverageOp 20, PsrCmtOp 21,
        PciTopoInfo 22, PsrAlloc 23, GetCpuLevellingCaps 25, GetCpuFeatureset 26, LivepatchOp 27,
        GetCpuPolicy 29
    );
    numbers!(pv_abi::sysctl::CpupoolOpCmd,
        Create 1, Destroy 2, Info 3, AddCpu 4, RmCpu 5, MoveDomain 6, FreeInfo 7
    );
    numbers!(pv_abi::trap::SegmentBase, Fs 0, GsUser 1, GsKernel 2, GsUserSel 3);
    numbers!(pv_abi::vcpu::VcpuOp,
        Initialise 0, Up 1, Down 2, IsUp 3, GetRunstateInfo 4, RegisterRunstateMemoryArea 5,
        SetPeriodicTimer 6, StopPeriodicTimer 7, SetSingleshotTimer 8, StopSingleshotTimer 9,
        RegisterVcpuInfo 10, SendNmi 11, GetPhysid 12, RegisterVcpuTimeMemoryArea 13
    );
    numbers!(pv_abi::vcpu::Runstate, Running 0, Runnable 1, Blocked 2, Offline 3);
    numbers!(pv_abi::version::XenVersionOp,
        Version 0, Extraversion 1, CompileInfo 2, Capabilities 3, Changeset 4, PlatformParameters 5,
        GetFeatures 6, Pagesize 7, GuestHandle 8, Commandline 9, BuildId 10
    );
    numbers!(pv_abi::version::Feature,
        WritablePageTables 0, WritableDescriptorTables 1, AutoTranslatedPhysmap 2, SupervisorModeKernel 3,
        PaePgdirAbove4gb 4, MmuPtUpdatePreserveAd 5, HighmemAssist 6, GnttabMapAvailBits 7,
        HvmCallbackVector 8, HvmSafePvclock 9, HvmPirqs 10, Dom0 11, MemoryOpVnodeSupported 13,
        ArmSmcccSupported 14, LinuxRsdpUnrestricted 15, NotDirectMapped 16, DirectMapped 17
    );
    numbers!(pv_abi::vm_assist::VmAssistCmd, Enable 0, Disable 1);
    numbers!(pv_abi::vm_assist::VmAssist,
        FourGbSegments 0, FourGbSegmentsNotify 1, WritablePagetables 2, PaeExtendedCr3 3,
        ArchitecturalIopl 4, RunstateUpdateFlag 5, M2pStrict 32
    );
    numbers!(pv_abi::hypercall::Hypercall,
        SetTrapTable 0, MmuUpdate 1, SetGdt 2, StackSwitch 3, SetCallbacks 4, FpuTaskswitch 5, PlatformOp 7,
        SetDebugreg 8, GetDebugreg 9, UpdateDescriptor 10, MemoryOp 12, Multicall 13, UpdateVaMapping 14,
        SetTimerOp 15, XenVersion 17, ConsoleIo 18, GrantTableOp 20, VmAssist 21,
        UpdateVaMappingOtherdomain 22, Iret 23, VcpuOp 24, SetSegmentBase 25, MmuextOp 26, NmiOp 28,
        SchedOp 29, CallbackOp 30, EventChannelOp 32, PhysdevOp 33, Sysctl 35, Domctl 36
    );
}

#[test]
fn flags() {
    flags!(pv_abi::callback::CallbackFlags, MASK_EVENTS 0x1);
    flags!(pv_abi::domctl::CreateFlags,
        HVM 0x1, HAP 0x2, S3_INTEGRITY 0x4, OOS_OFF 0x8, XS_DOMAIN 0x10, IOMMU 0x20, NESTED_VIRT 0x40,
        VPMU 0x80
    );
    flags!(pv_abi::domctl::DomInfoFlags,
        DYING 0x1, HVM_GUEST 0x2, SHUTDOWN 0x4, PAUSED 0x8, BLOCKED 0x10, RUNNING 0x20, DEBUGGED 0x40,
        XS_DOMAIN 0x80, HAP 0x100
    );
    flags!(pv_abi::domctl::AffinityFlags, HARD 0x1, SOFT 0x2, FORCE 0x4);
    flags!(pv_abi::evtchn::EventWord,
        PENDING 0x80000000, MASKED 0x40000000, LINKED 0x20000000, BUSY 0x10000000, LINK 0x1ffff
    );
    flags!(pv_abi::evtchn::BindPirqFlags, WILL_SHARE 0x1);
    flags!(pv_abi::grant::GrantFlags,
        TYPE_MASK 0x3, PERMIT_ACCESS 0x1, ACCEPT_TRANSFER 0x2, READONLY 0x4, READING 0x8, WRITING 0x10,
        PWT 0x20, PCD 0x40, PAT 0x80, SUB_PAGE 0x100
    );
    flags!(pv_abi::grant::GntmapFlags,
        DEVICE_MAP 0x1, HOST_MAP 0x2, READONLY 0x4, APPLICATION_MAP 0x8, CONTAINS_PTE 0x10,
        GUEST_AVAIL_MASK 0xffff0000
    );
    flags!(pv_abi::grant::GntcopyFlags, SOURCE_GREF 0x1, DEST_GREF 0x2);
    flags!(pv_abi::io::blkif::VdiskFlags, CDROM 0x1, REMOVABLE 0x2, READONLY 0x4);
    flags!(pv_abi::io::blkif::DiscardFlags, SECURE 0x1);
    flags!(pv_abi::io::netif::NetTxFlags, CSUM_BLANK 0x1, DATA_VALIDATED 0x2, MORE_DATA 0x4, EXTRA_INFO 0x8);
    flags!(pv_abi::io::netif::NetRxFlags,
        DATA_VALIDATED 0x1, CSUM_BLANK 0x2, MORE_DATA 0x4, EXTRA_INFO 0x8, GSO_PREFIX 0x10
    );
    flags!(pv_abi::io::netif::NetExtraFlags, MORE 0x1);
    flags!(pv_abi::memory::MemFlags, POPULATE_ON_DEMAND 0x10000, EXACT_NODE_REQUEST 0x20000, VNODE 0x40000);
    flags!(pv_abi::nmi::NmiReason, IO_ERROR 0x1, PCI_SERR 0x2, UNKNOWN 0x4);
    flags!(pv_abi::physdev::IrqStatus, NEEDS_EOI 0x1, SHARED 0x2);
    flags!(pv_abi::physdev::PciDevFlags, EXTFN 0x1, VIRTFN 0x2, PXM 0x4);
    flags!(pv_abi::shared_info::PvclockFlags, TSC_STABLE 0x1, GUEST_STOPPED 0x2);
    flags!(pv_abi::start_info::StartInfoFlags,
        PRIVILEGED 0x1, INITDOMAIN 0x2, MULTIBOOT_MOD 0x4, MOD_START_PFN 0x8, VIRT_P2M_4TOOLS 0x10,
        PM_MASK 0xff00
    );
    flags!(pv_abi::sysctl::PhysCaps,
        HVM 0x1, PV 0x2, DIRECTIO 0x4, HAP 0x8, SHADOW 0x10, IOMMU_HAP_PT_SHARE 0x20, VMTRACE 0x40,
        VPMU 0x80, GNTTAB_V1 0x100, GNTTAB_V2 0x200
    );
    flags!(pv_abi::trap::VgcfFlags,
        I387_VALID 0x1, IN_KERNEL 0x4, FAILSAFE_DISABLES_EVENTS 0x8, SYSCALL_DISABLES_EVENTS 0x10,
        ONLINE 0x20
    );
    flags!(pv_abi::trap::IretFlags, IN_SYSCALL 0x100);
    flags!(pv_abi::vcpu::SingleshotFlags, FUTURE 0x1);
}

#[test]
fn constants() {
    constants!(pv_abi::domctl,
        INTERFACE_VERSION 21, INVALID_MAX_VCPU_ID 4294967295, DOMINF_SHUTDOWN_SHIFT 16,
        DOMINF_SHUTDOWN_MASK 255, GRANT_VERSION_MASK 15, X86_MSR_RELAXED 1
    );
    constants!(pv_abi::evtchn,
        FIFO_PRIORITY_MAX 0, FIFO_PRIORITY_DEFAULT 7, FIFO_PRIORITY_MIN 15, FIFO_MAX_QUEUES 16,
        FIFO_LINK_BITS 17, FIFO_NR_CHANNELS 131072
    );
    constants!(pv_abi::grant,
        NR_RESERVED_ENTRIES 8, RESERVED_CONSOLE 0, RESERVED_XENSTORE 1, GNTMAP_GUEST_AVAIL_SHIFT 16
    );
    constants!(pv_abi::io::blkif, MAX_SEGMENTS 11, MAX_INDIRECT_PAGES 8);
    constants!(pv_abi::io::netif, NR_SLOTS_MIN 18, MAX_TX_SIZE 65535);
    constants!(pv_abi::io::xenstore,
        RING_SIZE 1024, PAYLOAD_MAX 4096, ABS_PATH_MAX 3072, REL_PATH_MAX 2048,
        SERVER_FEATURE_RECONNECTION 1, SERVER_FEATURE_ERROR 2
    );
    constants!(pv_abi::memory, RESOURCE_GRANT_TABLE_ID_SHARED 0, RESOURCE_GRANT_TABLE_ID_STATUS 1);
    constants!(pv_abi::mmu::UvmFlags, NONE 0, TLB_FLUSH 1, INVLPG 2, FLUSHTYPE_MASK 3, LOCAL 0, ALL 4);
    constants!(pv_abi::physdev, PCI_MMCFG_RESERVED 1);
    constants!(pv_abi::platform, INTERFACE_VERSION 50331649);
    constants!(pv_abi::sysctl,
        INTERFACE_VERSION 21, INVALID_CORE_ID 4294967295, INVALID_SOCKET_ID 4294967295,
        INVALID_NODE_ID 4294967295, INVALID_MEM_SZ 4294967295, INVALID_NODE_DIST 4294967295
    );
    constants!(pv_abi::trap, FLAT_RING3_CS64 57395, FLAT_RING3_SS64 57387);
    constants!(pv_abi::vcpu, RUNSTATE_UPDATE 9223372036854775808);
    constants!(pv_abi::version,
        EXTRAVERSION_LEN 16, CAPABILITIES_INFO_LEN 1024, CHANGESET_INFO_LEN 64, NR_FEATURE_SUBMAPS 1
    );
}
