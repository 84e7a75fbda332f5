//! Traps, registers and the full context of a vcpu.

abi_enum! {
    /// Segment bases that `set_segment_base` sets.
    pub enum SegmentBase: u32 {
        /// FS base.
        Fs = 0, "SEGBASE_FS";
        /// GS base of guest user mode (the one `swapgs` brings in).
        GsUser = 1, "SEGBASE_GS_USER";
        /// GS base of the guest's kernel.
        GsKernel = 2, "SEGBASE_GS_KERNEL";
        /// User GS selector, loaded with its descriptor's base.
        GsUserSel = 3, "SEGBASE_GS_USER_SEL";
    }
}

/// Descriptor-table page from which on the entries are the hypervisor's.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// First byte of the reserved part of the GDT.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
/// First descriptor of the reserved part of the GDT.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;
/// Flat 32-bit code at ring 3.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Flat 32-bit data and stack at ring 3.
pub const FLAT_RING3_SS32: u16 = 0xe02b;
/// Flat 64-bit code at ring 3: a guest's kernel and its processes.
#[doc(alias = "FLAT_KERNEL_CS64")]
#[doc(alias = "FLAT_USER_CS64")]
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Flat 64-bit data: the null selector.
pub const FLAT_RING3_DS64: u16 = 0;
/// Flat stack of 64-bit code at ring 3.
#[doc(alias = "FLAT_KERNEL_SS64")]
#[doc(alias = "FLAT_USER_SS64")]
pub const FLAT_RING3_SS64: u16 = 0xe02b;
/// In front of an instruction: have the hypervisor emulate it.
#[doc(alias = "XEN_EMULATE_PREFIX")]
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

bitflags::bitflags! {
    /// `trap_info.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct TrapFlags: u8 {
        /// The lowest privilege that may raise the vector by `int` (two bits).
        #[doc(alias = "TI_GET_DPL")]
        const DPL_MASK = 3;
        /// Mask event delivery on entry.
        #[doc(alias = "TI_GET_IF")]
        const MASK_EVENTS = 1 << 2;
    }

    /// `vcpu_guest_context.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VgcfFlags: u64 {
        /// `fpu_ctxt` is valid.
        #[doc(alias = "VGCF_I387_VALID")]
        const I387_VALID = 1 << 0;
        /// The vcpu runs in its kernel.
        #[doc(alias = "VGCF_IN_KERNEL")]
        const IN_KERNEL = 1 << 2;
        /// The failsafe callback masks events.
        #[doc(alias = "VGCF_failsafe_disables_events")]
        const FAILSAFE_DISABLES_EVENTS = 1 << 3;
        /// The system-call callback masks events.
        #[doc(alias = "VGCF_syscall_disables_events")]
        const SYSCALL_DISABLES_EVENTS = 1 << 4;
        /// The vcpu is up.
        #[doc(alias = "VGCF_online")]
        const ONLINE = 1 << 5;
    }

    /// `iret_context.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct IretFlags: u64 {
        /// The return is from a system call: RCX and R11 need not be restored.
        #[doc(alias = "VGCF_in_syscall")]
        const IN_SYSCALL = 1 << 8;
    }
}

/// Entries of the trap table.
pub const NR_TRAPS: usize = 256;

wire! {
    /// An entry of the trap table; `address` 0 ends a list.
    #[doc(alias = "trap_info")]
    pub struct TrapInfo {
        /// Exception vector.
        pub vector: u8,
        /// [`TrapFlags`].
        pub flags: u8,
        /// Code selector.
        pub cs: u16,
        /// Padding.
        pub _pad: u32,
        /// Code offset.
        pub address: u64,
    }

    /// What lies on the guest's kernel stack when it issues the `iret` hypercall, from RSP upwards.
    #[doc(alias = "iret_context")]
    pub struct IretFrame {
        /// RAX to restore.
        pub rax: u64,
        /// R11 to restore.
        pub r11: u64,
        /// RCX to restore.
        pub rcx: u64,
        /// [`IretFlags`].
        pub flags: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector; ring 3 in its low bits means guest user mode, anything less the guest's kernel.
        pub cs: u64,
        /// Flags register.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u64,
    }

    /// The general registers, as they lie in a context.
    #[doc(alias = "cpu_user_regs")]
    pub struct UserRegs {
        /// R15.
        pub r15: u64,
        /// R14.
        pub r14: u64,
        /// R13.
        pub r13: u64,
        /// R12.
        pub r12: u64,
        /// RBP.
        pub rbp: u64,
        /// RBX.
        pub rbx: u64,
        /// R11.
        pub r11: u64,
        /// R10.
        pub r10: u64,
        /// R9.
        pub r9: u64,
        /// R8.
        pub r8: u64,
        /// RAX.
        pub rax: u64,
        /// RCX.
        pub rcx: u64,
        /// RDX.
        pub rdx: u64,
        /// RSI.
        pub rsi: u64,
        /// RDI.
        pub rdi: u64,
        /// Error code of the entry (private to the hypervisor).
        pub error_code: u32,
        /// Vector of the entry (private to the hypervisor).
        pub entry_vector: u32,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector.
        pub cs: u16,
        /// Padding.
        pub _pad0: u16,
        /// The event mask at the time of the entry.
        pub saved_upcall_mask: u8,
        /// Padding.
        pub _pad1: [u8; 3],
        /// Flags register.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u16,
        /// Padding.
        pub _pad2: [u16; 3],
        /// ES.
        pub es: u16,
        /// Padding.
        pub _pad3: [u16; 3],
        /// DS.
        pub ds: u16,
        /// Padding.
        pub _pad4: [u16; 3],
        /// FS.
        pub fs: u16,
        /// Padding.
        pub _pad5: [u16; 3],
        /// GS.
        pub gs: u16,
        /// Padding.
        pub _pad6: [u16; 3],
    }

    /// The whole state of a vcpu, as `VCPUOP_initialise` and the vcpu-context domctls pass it.
    #[doc(alias = "vcpu_guest_context")]
    pub struct VcpuGuestContext {
        /// FXSAVE image.
        pub fpu_ctxt: [u8; 512],
        /// [`VgcfFlags`].
        pub flags: u64,
        /// General registers.
        pub user_regs: UserRegs,
        /// Trap table.
        pub trap_ctxt: [TrapInfo; NR_TRAPS],
        /// Virtual address of the LDT.
        pub ldt_base: u64,
        /// Descriptors of the LDT.
        pub ldt_ents: u64,
        /// Frames of the GDT.
        pub gdt_frames: [u64; 16],
        /// Descriptors of the GDT.
        pub gdt_ents: u64,
        /// Stack selector on entry to the kernel.
        pub kernel_ss: u64,
        /// Stack pointer on entry to the kernel.
        pub kernel_sp: u64,
        /// CR0 to CR7; CR3 is the kernel's root, CR1 the user root (frame + 1 if valid, as a CR3 value).
        pub ctrlreg: [u64; 8],
        /// DR0 to DR7.
        pub debugreg: [u64; 8],
        /// Entry of the event callback.
        pub event_callback_eip: u64,
        /// Entry of the failsafe callback.
        pub failsafe_callback_eip: u64,
        /// Entry of the system-call callback.
        pub syscall_callback_eip: u64,
        /// Bitmap of [`crate::vm_assist::VmAssist`].
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base of the kernel.
        pub gs_base_kernel: u64,
        /// GS base of user mode.
        pub gs_base_user: u64,
    }
}

impl TrapInfo {
    /// The flags as bits.
    #[must_use]
    pub const fn trap_flags(&self) -> TrapFlags {
        TrapFlags::from_bits_retain(self.flags)
    }

    /// The lowest privilege that may raise the vector by `int`.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        self.flags & TrapFlags::DPL_MASK.bits()
    }
}

/// A CR3 value for a frame.
#[doc(alias = "xen_pfn_to_cr3")]
#[must_use]
pub const fn mfn_to_cr3(mfn: crate::ids::Mfn) -> u64 {
    mfn.raw() << crate::frame::PAGE_SHIFT
}

/// The frame of a CR3 value.
#[doc(alias = "xen_cr3_to_pfn")]
#[must_use]
pub const fn cr3_to_mfn(cr3: u64) -> crate::ids::Mfn {
    crate::ids::Mfn::new(cr3 >> crate::frame::PAGE_SHIFT)
}
