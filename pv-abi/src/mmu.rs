//! `mmu_update`, `mmuext_op`, `update_va_mapping` and the batch call.

abi_enum! {
    /// What an `mmu_update` entry asks for: the low two bits of `ptr`.
    pub enum MmuUpdateCmd: u32 {
        /// Checked update of a page-table entry.
        NormalPtUpdate = 0, "MMU_NORMAL_PT_UPDATE";
        /// Update of a machine-to-physical entry.
        MachphysUpdate = 1, "MMU_MACHPHYS_UPDATE";
        /// Checked update that keeps the accessed and dirty bits set meanwhile.
        PtUpdatePreserveAd = 2, "MMU_PT_UPDATE_PRESERVE_AD";
        /// Checked update whose value is not translated.
        PtUpdateNoTranslate = 3, "MMU_PT_UPDATE_NO_TRANSLATE";
    }
}

/// The bits of `mmu_update.ptr` that hold the [`MmuUpdateCmd`].
pub const MMU_UPDATE_CMD_MASK: u64 = 3;
/// Bit of the count argument of `mmu_update` and `mmuext_op` that marks a restarted call.
pub const MMU_UPDATE_PREEMPTED: u32 = 1 << 31;

abi_enum! {
    /// Sub-operations of `mmuext_op`.
    pub enum MmuextCmd: u32 {
        PinL1Table = 0, "MMUEXT_PIN_L1_TABLE";
        PinL2Table = 1, "MMUEXT_PIN_L2_TABLE";
        PinL3Table = 2, "MMUEXT_PIN_L3_TABLE";
        PinL4Table = 3, "MMUEXT_PIN_L4_TABLE";
        UnpinTable = 4, "MMUEXT_UNPIN_TABLE";
        /// The kernel's root.
        NewBaseptr = 5, "MMUEXT_NEW_BASEPTR";
        TlbFlushLocal = 6, "MMUEXT_TLB_FLUSH_LOCAL";
        InvlpgLocal = 7, "MMUEXT_INVLPG_LOCAL";
        TlbFlushMulti = 8, "MMUEXT_TLB_FLUSH_MULTI";
        InvlpgMulti = 9, "MMUEXT_INVLPG_MULTI";
        TlbFlushAll = 10, "MMUEXT_TLB_FLUSH_ALL";
        InvlpgAll = 11, "MMUEXT_INVLPG_ALL";
        FlushCache = 12, "MMUEXT_FLUSH_CACHE";
        SetLdt = 13, "MMUEXT_SET_LDT";
        /// The root of user mode; 0 for none.
        NewUserBaseptr = 15, "MMUEXT_NEW_USER_BASEPTR";
        ClearPage = 16, "MMUEXT_CLEAR_PAGE";
        CopyPage = 17, "MMUEXT_COPY_PAGE";
        FlushCacheGlobal = 18, "MMUEXT_FLUSH_CACHE_GLOBAL";
        MarkSuper = 19, "MMUEXT_MARK_SUPER";
        UnmarkSuper = 20, "MMUEXT_UNMARK_SUPER";
    }
}

/// The flags of `update_va_mapping`: what to flush, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UvmFlags(u64);

impl UvmFlags {
    /// Nothing to flush.
    #[doc(alias = "UVMF_NONE")]
    pub const NONE: u64 = 0;
    /// Flush the whole TLB.
    #[doc(alias = "UVMF_TLB_FLUSH")]
    pub const TLB_FLUSH: u64 = 1;
    /// Flush one address.
    #[doc(alias = "UVMF_INVLPG")]
    pub const INVLPG: u64 = 2;
    /// The bits of the flush type.
    #[doc(alias = "UVMF_FLUSHTYPE_MASK")]
    pub const FLUSHTYPE_MASK: u64 = 3;
    /// On this vcpu only (no handle), or on those of a bitmap whose handle is in the remaining bits.
    #[doc(alias = "UVMF_LOCAL")]
    #[doc(alias = "UVMF_MULTI")]
    pub const LOCAL: u64 = 0;
    /// On all vcpus.
    #[doc(alias = "UVMF_ALL")]
    pub const ALL: u64 = 1 << 2;

    /// Takes the raw argument.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw argument.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The flush type: one of `NONE`, `TLB_FLUSH`, `INVLPG`, or 3, which is none of them.
    #[must_use]
    pub const fn flush_type(self) -> u64 {
        self.0 & Self::FLUSHTYPE_MASK
    }

    /// The target without the flush type: `LOCAL`, `ALL`, or the handle of a vcpu bitmap.
    #[must_use]
    pub const fn target(self) -> u64 {
        self.0 & !Self::FLUSHTYPE_MASK
    }
}

wire! {
    /// An entry of `mmu_update`.
    #[doc(alias = "mmu_update")]
    pub struct MmuUpdate {
        /// Machine address of the entry, with the command in its low bits.
        pub ptr: u64,
        /// The new value.
        pub val: u64,
    }

    /// An entry of `mmuext_op`.
    #[doc(alias = "mmuext_op")]
    pub struct MmuextOp {
        /// [`MmuextCmd`].
        pub cmd: u32,
        /// Padding.
        pub _pad: u32,
        /// A frame (`mfn`) or an address (`linear_addr`).
        pub arg1: u64,
        /// A count (`nr_ents`, low half), a handle (`vcpumask`) or a frame (`src_mfn`).
        pub arg2: u64,
    }

    /// An entry of `multicall`.
    #[doc(alias = "multicall_entry")]
    pub struct MulticallEntry {
        /// The hypercall's number.
        pub op: u64,
        /// Its result (out).
        pub result: u64,
        /// Its arguments; the sixth is not used.
        pub args: [u64; 6],
    }
}
