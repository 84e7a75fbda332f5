//! `xen_version`: which hypervisor this is, and what it can do.

abi_enum! {
    /// Sub-operations.
    pub enum XenVersionOp: u32 {
        /// Returns `major << 16 | minor`.
        Version = 0, "XENVER_version";
        /// Text of 16 bytes.
        Extraversion = 1, "XENVER_extraversion";
        /// [`XenCompileInfo`].
        CompileInfo = 2, "XENVER_compile_info";
        /// Text of 1024 bytes.
        Capabilities = 3, "XENVER_capabilities";
        /// Text of 64 bytes.
        Changeset = 4, "XENVER_changeset";
        /// [`XenPlatformParameters`].
        PlatformParameters = 5, "XENVER_platform_parameters";
        /// [`XenFeatureInfo`].
        GetFeatures = 6, "XENVER_get_features";
        /// Returns the page size.
        Pagesize = 7, "XENVER_pagesize";
        /// 16 bytes: the domain's UUID.
        GuestHandle = 8, "XENVER_guest_handle";
        /// Text of 1024 bytes.
        Commandline = 9, "XENVER_commandline";
        /// [`XenBuildId`] and the bytes behind it.
        BuildId = 10, "XENVER_build_id";
    }
}

/// Bytes of the extra version.
#[doc(alias = "XEN_EXTRAVERSION_LEN")]
pub const EXTRAVERSION_LEN: usize = 16;
/// Bytes of the capabilities.
#[doc(alias = "XEN_CAPABILITIES_INFO_LEN")]
pub const CAPABILITIES_INFO_LEN: usize = 1024;
/// Bytes of the changeset.
#[doc(alias = "XEN_CHANGESET_INFO_LEN")]
pub const CHANGESET_INFO_LEN: usize = 64;
/// Bytes of the hypervisor's command line.
#[doc(alias = "xen_commandline_t")]
pub const COMMANDLINE_LEN: usize = 1024;
/// Submaps of the features.
#[doc(alias = "XENFEAT_NR_SUBMAPS")]
pub const NR_FEATURE_SUBMAPS: u32 = 1;

abi_enum! {
    /// Features; the value is the bit in submap 0.
    pub enum Feature: u32 {
        /// Page tables need not be read-only.
        WritablePageTables = 0, "XENFEAT_writable_page_tables";
        /// Descriptor tables need not be read-only.
        WritableDescriptorTables = 1, "XENFEAT_writable_descriptor_tables";
        /// The hypervisor translates frame numbers.
        AutoTranslatedPhysmap = 2, "XENFEAT_auto_translated_physmap";
        /// The kernel runs at ring 0.
        SupervisorModeKernel = 3, "XENFEAT_supervisor_mode_kernel";
        /// Roots may lie above 4 GiB.
        PaePgdirAbove4gb = 4, "XENFEAT_pae_pgdir_above_4gb";
        /// `MMU_PT_UPDATE_PRESERVE_AD` works.
        MmuPtUpdatePreserveAd = 5, "XENFEAT_mmu_pt_update_preserve_ad";
        HighmemAssist = 6, "XENFEAT_highmem_assist";
        /// A grant map can set software bits of the PTE.
        GnttabMapAvailBits = 7, "XENFEAT_gnttab_map_avail_bits";
        HvmCallbackVector = 8, "XENFEAT_hvm_callback_vector";
        HvmSafePvclock = 9, "XENFEAT_hvm_safe_pvclock";
        HvmPirqs = 10, "XENFEAT_hvm_pirqs";
        /// The domain is dom0.
        Dom0 = 11, "XENFEAT_dom0";
        MemoryOpVnodeSupported = 13, "XENFEAT_memory_op_vnode_supported";
        ArmSmcccSupported = 14, "XENFEAT_ARM_SMCCC_supported";
        /// A PVH kernel may find the RSDP anywhere.
        LinuxRsdpUnrestricted = 15, "XENFEAT_linux_rsdp_unrestricted";
        NotDirectMapped = 16, "XENFEAT_not_direct_mapped";
        DirectMapped = 17, "XENFEAT_direct_mapped";
    }
}

impl Feature {
    /// The bit in submap 0.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self.raw()
    }
}

wire! {
    /// Result of [`XenVersionOp::CompileInfo`].
    #[doc(alias = "xen_compile_info")]
    pub struct XenCompileInfo {
        /// Compiler.
        pub compiler: [u8; 64],
        /// Who.
        pub compile_by: [u8; 16],
        /// Where.
        pub compile_domain: [u8; 32],
        /// When.
        pub compile_date: [u8; 32],
    }

    /// Result of [`XenVersionOp::PlatformParameters`].
    #[doc(alias = "xen_platform_parameters")]
    pub struct XenPlatformParameters {
        /// First address of the hypervisor's area.
        pub virt_start: u64,
    }

    /// Argument and result of [`XenVersionOp::GetFeatures`].
    #[doc(alias = "xen_feature_info")]
    pub struct XenFeatureInfo {
        /// Which 32 features (in).
        pub submap_idx: u32,
        /// Their bits (out).
        pub submap: u32,
    }

    /// Head of the argument of [`XenVersionOp::BuildId`]; the bytes follow.
    #[doc(alias = "xen_build_id")]
    pub struct XenBuildId {
        /// Room in bytes (in), length (result of the call).
        pub len: u32,
    }
}
