//! Grant tables: `grant_table_op` and the shared entries.

abi_enum! {
    /// Sub-operations.
    pub enum GnttabOp: u32 {
        MapGrantRef = 0, "GNTTABOP_map_grant_ref";
        UnmapGrantRef = 1, "GNTTABOP_unmap_grant_ref";
        SetupTable = 2, "GNTTABOP_setup_table";
        DumpTable = 3, "GNTTABOP_dump_table";
        Transfer = 4, "GNTTABOP_transfer";
        Copy = 5, "GNTTABOP_copy";
        QuerySize = 6, "GNTTABOP_query_size";
        UnmapAndReplace = 7, "GNTTABOP_unmap_and_replace";
        SetVersion = 8, "GNTTABOP_set_version";
        GetStatusFrames = 9, "GNTTABOP_get_status_frames";
        GetVersion = 10, "GNTTABOP_get_version";
        SwapGrantRef = 11, "GNTTABOP_swap_grant_ref";
        CacheFlush = 12, "GNTTABOP_cache_flush";
    }
}

abi_enum! {
    /// Status of one grant operation.
    pub enum GrantStatus: i16 {
        Okay = 0, "GNTST_okay";
        GeneralError = -1, "GNTST_general_error";
        BadDomain = -2, "GNTST_bad_domain";
        BadGntref = -3, "GNTST_bad_gntref";
        BadHandle = -4, "GNTST_bad_handle";
        BadVirtAddr = -5, "GNTST_bad_virt_addr";
        BadDevAddr = -6, "GNTST_bad_dev_addr";
        NoDeviceSpace = -7, "GNTST_no_device_space";
        PermissionDenied = -8, "GNTST_permission_denied";
        BadPage = -9, "GNTST_bad_page";
        BadCopyArg = -10, "GNTST_bad_copy_arg";
        AddressTooBig = -11, "GNTST_address_too_big";
        Eagain = -12, "GNTST_eagain";
        NoSpace = -13, "GNTST_no_space";
    }
}

/// Entries at the start of a table that the toolstack fills.
#[doc(alias = "GNTTAB_NR_RESERVED_ENTRIES")]
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// The toolstack's grant of the console ring.
#[doc(alias = "GNTTAB_RESERVED_CONSOLE")]
pub const RESERVED_CONSOLE: u32 = 0;
/// The toolstack's grant of the xenstore ring.
#[doc(alias = "GNTTAB_RESERVED_XENSTORE")]
pub const RESERVED_XENSTORE: u32 = 1;
/// Version 1 entries of a frame.
pub const V1_ENTRIES_PER_FRAME: u32 = 512;

bitflags::bitflags! {
    /// `grant_entry.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct GrantFlags: u16 {
        /// The type: 0 invalid, 1 access, 2 transfer, 3 transitive.
        #[doc(alias = "GTF_type_mask")]
        const TYPE_MASK = 3;
        /// The domain named may use the frame.
        #[doc(alias = "GTF_permit_access")]
        const PERMIT_ACCESS = 1;
        /// The domain named may hand us a frame.
        #[doc(alias = "GTF_accept_transfer")]
        const ACCEPT_TRANSFER = 2;
        /// Read only.
        #[doc(alias = "GTF_readonly")]
        const READONLY = 1 << 2;
        /// In use for reading (set by the hypervisor).
        #[doc(alias = "GTF_reading")]
        const READING = 1 << 3;
        /// In use for writing (set by the hypervisor).
        #[doc(alias = "GTF_writing")]
        const WRITING = 1 << 4;
        /// Cache attribute.
        #[doc(alias = "GTF_PWT")]
        const PWT = 1 << 5;
        /// Cache attribute.
        #[doc(alias = "GTF_PCD")]
        const PCD = 1 << 6;
        /// Cache attribute.
        #[doc(alias = "GTF_PAT")]
        const PAT = 1 << 7;
        /// Part of a page (version 2).
        #[doc(alias = "GTF_sub_page")]
        const SUB_PAGE = 1 << 8;
    }

    /// Flags of a map.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct GntmapFlags: u32 {
        /// For devices: the bus address is wanted.
        #[doc(alias = "GNTMAP_device_map")]
        const DEVICE_MAP = 1 << 0;
        /// Into the address space of the caller.
        #[doc(alias = "GNTMAP_host_map")]
        const HOST_MAP = 1 << 1;
        /// Read only.
        #[doc(alias = "GNTMAP_readonly")]
        const READONLY = 1 << 2;
        /// User mode may use the mapping too.
        #[doc(alias = "GNTMAP_application_map")]
        const APPLICATION_MAP = 1 << 3;
        /// `host_addr` is the machine address of a page-table entry.
        #[doc(alias = "GNTMAP_contains_pte")]
        const CONTAINS_PTE = 1 << 4;
        /// Software bits for the page-table entry, shifted by [`GNTMAP_GUEST_AVAIL_SHIFT`].
        #[doc(alias = "GNTMAP_guest_avail_mask")]
        const GUEST_AVAIL_MASK = 0xffff << GNTMAP_GUEST_AVAIL_SHIFT;
    }

    /// Flags of a copy.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct GntcopyFlags: u16 {
        /// The source is a grant reference, else a frame.
        #[doc(alias = "GNTCOPY_source_gref")]
        const SOURCE_GREF = 1 << 0;
        /// The destination is a grant reference, else a frame.
        #[doc(alias = "GNTCOPY_dest_gref")]
        const DEST_GREF = 1 << 1;
    }
}

/// Lowest of the map flags that become software bits of the entry.
#[doc(alias = "_GNTMAP_guest_avail0")]
pub const GNTMAP_GUEST_AVAIL_SHIFT: u32 = 16;

wire! {
    /// A version 1 entry. In a live table it is one 8-byte word that both sides change by compare-and-exchange.
    #[doc(alias = "grant_entry_v1")]
    pub struct GrantEntryV1 {
        /// [`GrantFlags`].
        pub flags: u16,
        /// Whom the entry serves.
        pub domid: u16,
        /// The frame.
        pub frame: u32,
    }

    /// Entry of [`GnttabOp::MapGrantRef`].
    #[doc(alias = "gnttab_map_grant_ref")]
    pub struct GnttabMapGrantRef {
        /// Where: a virtual address, or the machine address of a page-table entry.
        pub host_addr: u64,
        /// [`GntmapFlags`].
        pub flags: u32,
        /// The reference (the ABI's `ref`).
        pub gref: u32,
        /// The granter.
        pub dom: u16,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// (out)
        pub handle: u32,
        /// (out)
        pub dev_bus_addr: u64,
    }

    /// Entry of [`GnttabOp::UnmapGrantRef`].
    #[doc(alias = "gnttab_unmap_grant_ref")]
    pub struct GnttabUnmapGrantRef {
        /// As for the map; 0 leaves that mapping alone.
        pub host_addr: u64,
        /// As returned by the map; 0 leaves that mapping alone.
        pub dev_bus_addr: u64,
        /// What the map returned.
        pub handle: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }

    /// Argument of [`GnttabOp::SetupTable`].
    #[doc(alias = "gnttab_setup_table")]
    pub struct GnttabSetupTable {
        /// Whose table.
        pub dom: u16,
        /// Padding.
        pub _pad0: u16,
        /// Frames wanted.
        pub nr_frames: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
        /// Handle of the frame numbers (`u64` each, out).
        pub frame_list: u64,
    }

    /// Argument of [`GnttabOp::DumpTable`].
    #[doc(alias = "gnttab_dump_table")]
    pub struct GnttabDumpTable {
        /// Whose table.
        pub dom: u16,
        /// [`GrantStatus`] (out).
        pub status: i16,
    }

    /// Entry of [`GnttabOp::Transfer`].
    #[doc(alias = "gnttab_transfer")]
    pub struct GnttabTransfer {
        /// The frame.
        pub mfn: u64,
        /// To whom.
        pub domid: u16,
        /// Padding.
        pub _pad0: u16,
        /// The reference (the ABI's `ref`).
        pub gref: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
    }

    /// One end of a copy.
    #[doc(alias = "gnttab_copy_ptr")]
    pub struct GnttabCopyPtr {
        /// A reference (`ref`, low half) or a frame (`gmfn`).
        pub u: u64,
        /// Whose.
        pub domid: u16,
        /// Byte offset within the page.
        pub offset: u16,
        /// Padding.
        pub _pad: u32,
    }

    /// Entry of [`GnttabOp::Copy`].
    #[doc(alias = "gnttab_copy")]
    pub struct GnttabCopy {
        /// From where.
        pub source: GnttabCopyPtr,
        /// To where.
        pub dest: GnttabCopyPtr,
        /// Bytes.
        pub len: u16,
        /// [`GntcopyFlags`].
        pub flags: u16,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }

    /// Argument of [`GnttabOp::QuerySize`].
    #[doc(alias = "gnttab_query_size")]
    pub struct GnttabQuerySize {
        /// Whose table.
        pub dom: u16,
        /// Padding.
        pub _pad0: u16,
        /// Frames (out).
        pub nr_frames: u32,
        /// Most frames (out).
        pub max_nr_frames: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad1: u16,
    }

    /// Entry of [`GnttabOp::UnmapAndReplace`].
    #[doc(alias = "gnttab_unmap_and_replace")]
    pub struct GnttabUnmapAndReplace {
        /// The mapping to replace.
        pub host_addr: u64,
        /// The mapping that takes its place.
        pub new_addr: u64,
        /// What the map returned.
        pub handle: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }

    /// Argument of [`GnttabOp::SetVersion`].
    #[doc(alias = "gnttab_set_version")]
    pub struct GnttabSetVersion {
        /// Wanted (in), then in force (out).
        pub version: u32,
    }

    /// Argument of [`GnttabOp::GetStatusFrames`].
    #[doc(alias = "gnttab_get_status_frames")]
    pub struct GnttabGetStatusFrames {
        /// Frames wanted.
        pub nr_frames: u32,
        /// Whose table.
        pub dom: u16,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Handle of the frame numbers (`u64` each, out).
        pub frame_list: u64,
    }

    /// Argument of [`GnttabOp::GetVersion`].
    #[doc(alias = "gnttab_get_version")]
    pub struct GnttabGetVersion {
        /// Whose table.
        pub dom: u16,
        /// Padding.
        pub pad: u16,
        /// The version (out).
        pub version: u32,
    }

    /// Entry of [`GnttabOp::SwapGrantRef`].
    #[doc(alias = "gnttab_swap_grant_ref")]
    pub struct GnttabSwapGrantRef {
        /// One reference.
        pub ref_a: u32,
        /// The other.
        pub ref_b: u32,
        /// [`GrantStatus`] (out).
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }
}

impl GrantEntryV1 {
    /// The entry as the 8-byte word it is in a live table.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        // Lossless widenings (`From` is not const).
        (self.flags as u64) | ((self.domid as u64) << 16) | ((self.frame as u64) << 32)
    }

    /// The entry of a word read from a live table.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the word is taken apart")]
    pub const fn from_word(word: u64) -> Self {
        Self { flags: word as u16, domid: (word >> 16) as u16, frame: (word >> 32) as u32 }
    }
}
