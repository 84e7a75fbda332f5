//! ELF notes by which a guest kernel describes itself (owner name `Xen`).

/// Owner name of the notes, without its NUL.
pub const NOTE_NAME: &[u8] = b"Xen";

abi_enum! {
    /// Note types.
    pub enum ElfNote: u32 {
        /// Marks the notes of an info section.
        Info = 0, "XEN_ELFNOTE_INFO";
        /// Virtual address of the entry point.
        Entry = 1, "XEN_ELFNOTE_ENTRY";
        /// Virtual address of the page that the hypervisor fills with hypercall stubs.
        HypercallPage = 2, "XEN_ELFNOTE_HYPERCALL_PAGE";
        /// Virtual address at which pseudo-physical address 0 is mapped.
        VirtBase = 3, "XEN_ELFNOTE_VIRT_BASE";
        /// What to subtract from ELF physical addresses.
        PaddrOffset = 4, "XEN_ELFNOTE_PADDR_OFFSET";
        /// Text: `xen-3.0`.
        XenVersion = 5, "XEN_ELFNOTE_XEN_VERSION";
        /// Text: the guest's name.
        GuestOs = 6, "XEN_ELFNOTE_GUEST_OS";
        /// Text: the guest's version.
        GuestVersion = 7, "XEN_ELFNOTE_GUEST_VERSION";
        /// Text: the loader, `generic`.
        Loader = 8, "XEN_ELFNOTE_LOADER";
        /// Text: whether a 32-bit kernel uses PAE.
        PaeMode = 9, "XEN_ELFNOTE_PAE_MODE";
        /// Text: features, separated by `|`, `!` in front of required ones.
        Features = 10, "XEN_ELFNOTE_FEATURES";
        /// Text: whether the symbol table is wanted.
        BsdSymtab = 11, "XEN_ELFNOTE_BSD_SYMTAB";
        /// Lowest address the hypervisor may use.
        HvStartLow = 12, "XEN_ELFNOTE_HV_START_LOW";
        /// Mask and value pairs by which a valid L1 entry is known.
        L1MfnValid = 13, "XEN_ELFNOTE_L1_MFN_VALID";
        /// A suspend can be cancelled.
        SuspendCancel = 14, "XEN_ELFNOTE_SUSPEND_CANCEL";
        /// Virtual address at which the initial p2m is wanted.
        InitP2m = 15, "XEN_ELFNOTE_INIT_P2M";
        /// The module may be handed over unmapped, by pfn.
        ModStartPfn = 16, "XEN_ELFNOTE_MOD_START_PFN";
        /// Bitmap of supported features.
        SupportedFeatures = 17, "XEN_ELFNOTE_SUPPORTED_FEATURES";
        /// Physical entry point of a PVH kernel.
        Phys32Entry = 18, "XEN_ELFNOTE_PHYS32_ENTRY";
    }
}
