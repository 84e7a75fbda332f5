//! `memory_op`: reservations, maps and exchanges.

abi_enum! {
    /// Sub-operations. The low six bits of the command; the rest is a restarted call's progress.
    pub enum MemoryOp: u32 {
        IncreaseReservation = 0, "XENMEM_increase_reservation";
        DecreaseReservation = 1, "XENMEM_decrease_reservation";
        MaximumRamPage = 2, "XENMEM_maximum_ram_page";
        CurrentReservation = 3, "XENMEM_current_reservation";
        MaximumReservation = 4, "XENMEM_maximum_reservation";
        MachphysMfnList = 5, "XENMEM_machphys_mfn_list";
        PopulatePhysmap = 6, "XENMEM_populate_physmap";
        AddToPhysmap = 7, "XENMEM_add_to_physmap";
        MemoryMap = 9, "XENMEM_memory_map";
        MachineMemoryMap = 10, "XENMEM_machine_memory_map";
        Exchange = 11, "XENMEM_exchange";
        MachphysMapping = 12, "XENMEM_machphys_mapping";
        SetMemoryMap = 13, "XENMEM_set_memory_map";
        MaximumGpfn = 14, "XENMEM_maximum_gpfn";
        RemoveFromPhysmap = 15, "XENMEM_remove_from_physmap";
        SetPodTarget = 16, "XENMEM_set_pod_target";
        GetPodTarget = 17, "XENMEM_get_pod_target";
        GetSharingFreedPages = 18, "XENMEM_get_sharing_freed_pages";
        GetSharingSharedPages = 19, "XENMEM_get_sharing_shared_pages";
        PagingOp = 20, "XENMEM_paging_op";
        AccessOp = 21, "XENMEM_access_op";
        SharingOp = 22, "XENMEM_sharing_op";
        AddToPhysmapBatch = 23, "XENMEM_add_to_physmap_batch";
        ClaimPages = 24, "XENMEM_claim_pages";
        MachphysCompatMfnList = 25, "XENMEM_machphys_compat_mfn_list";
        GetVnumainfo = 26, "XENMEM_get_vnumainfo";
        ReservedDeviceMemoryMap = 27, "XENMEM_reserved_device_memory_map";
        AcquireResource = 28, "XENMEM_acquire_resource";
    }
}

/// Bits of the command that name the sub-operation.
pub const MEMOP_CMD_MASK: u64 = 0x3f;
/// Where a restarted call keeps the extents done so far.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;

bitflags::bitflags! {
    /// `xen_memory_reservation.mem_flags`; the low eight bits hold an address width, the next eight a node + 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MemFlags: u32 {
        /// Most address bits the frames may have, 0 for no limit.
        #[doc(alias = "XENMEMF_address_bits")]
        const ADDRESS_BITS = 0xff;
        /// NUMA node + 1, 0 for any.
        #[doc(alias = "XENMEMF_node")]
        const NODE = 0xff << 8;
        /// Not for PV.
        #[doc(alias = "XENMEMF_populate_on_demand")]
        const POPULATE_ON_DEMAND = 1 << 16;
        /// From that node or not at all.
        #[doc(alias = "XENMEMF_exact_node_request")]
        const EXACT_NODE_REQUEST = 1 << 17;
        /// The node is a virtual one.
        #[doc(alias = "XENMEMF_vnode")]
        const VNODE = 1 << 18;
    }
}

abi_enum! {
    /// Kinds of an e820 range.
    pub enum E820Type: u32 {
        Ram = 1, "E820_RAM";
        Reserved = 2, "E820_RESERVED";
        Acpi = 3, "E820_ACPI";
        Nvs = 4, "E820_NVS";
        Unusable = 5, "E820_UNUSABLE";
    }
}

/// Bytes of an e820 entry on the wire (packed: address, size, type).
pub const E820_ENTRY_SIZE: usize = 20;
/// Most entries of a domain's memory map.
#[doc(alias = "E820MAX")]
pub const E820_MAX: u32 = 1024;

abi_enum! {
    /// `xen_mem_acquire_resource.type`.
    pub enum MemResource: u16 {
        IoreqServer = 0, "XENMEM_resource_ioreq_server";
        GrantTable = 1, "XENMEM_resource_grant_table";
        VmtraceBuf = 2, "XENMEM_resource_vmtrace_buf";
    }
}

/// `id` of a grant-table resource: the shared entries.
#[doc(alias = "XENMEM_resource_grant_table_id_shared")]
pub const RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// `id` of a grant-table resource: the status frames (version 2).
#[doc(alias = "XENMEM_resource_grant_table_id_status")]
pub const RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;

wire! {
    /// Argument of the reservation calls.
    #[doc(alias = "xen_memory_reservation")]
    pub struct XenMemoryReservation {
        /// Handle of the frame numbers (`u64` each).
        pub extent_start: u64,
        /// How many.
        pub nr_extents: u64,
        /// Binary logarithm of the frames of one extent.
        pub extent_order: u32,
        /// [`MemFlags`].
        pub mem_flags: u32,
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
    }

    /// Argument of [`MemoryOp::Exchange`].
    #[doc(alias = "xen_memory_exchange")]
    pub struct XenMemoryExchange {
        /// What is given.
        pub in_: XenMemoryReservation,
        /// What is wanted (the ABI's `out`).
        pub out: XenMemoryReservation,
        /// Extents of `in_` done so far (in and out).
        pub nr_exchanged: u64,
    }

    /// A domain, where that is the whole argument.
    #[doc(alias = "xen_memory_domain")]
    pub struct XenMemoryDomain {
        /// Whose.
        pub domid: u16,
    }

    /// Argument of [`MemoryOp::MachphysMfnList`].
    #[doc(alias = "xen_machphys_mfn_list")]
    pub struct XenMachphysMfnList {
        /// Room.
        pub max_extents: u32,
        /// Padding.
        pub _pad0: u32,
        /// Handle of the frame numbers (`u64` each, out).
        pub extent_start: u64,
        /// How many were written (out).
        pub nr_extents: u32,
        /// Padding.
        pub _pad1: u32,
    }

    /// Result of [`MemoryOp::MachphysMapping`].
    #[doc(alias = "xen_machphys_mapping")]
    pub struct XenMachphysMapping {
        /// First address.
        pub v_start: u64,
        /// End.
        pub v_end: u64,
        /// Largest frame number.
        pub max_mfn: u64,
    }

    /// Argument of [`MemoryOp::AddToPhysmap`].
    #[doc(alias = "xen_add_to_physmap")]
    pub struct XenAddToPhysmap {
        /// Whose.
        pub domid: u16,
        /// Frames of a range.
        pub size: u16,
        /// Name space of `idx`.
        pub space: u32,
        /// What.
        pub idx: u64,
        /// Where.
        pub gpfn: u64,
    }

    /// Argument of [`MemoryOp::RemoveFromPhysmap`].
    #[doc(alias = "xen_remove_from_physmap")]
    pub struct XenRemoveFromPhysmap {
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
        /// Where.
        pub gpfn: u64,
    }

    /// Argument of [`MemoryOp::MemoryMap`] and [`MemoryOp::MachineMemoryMap`].
    #[doc(alias = "xen_memory_map")]
    pub struct XenMemoryMap {
        /// Room (in), then entries (out).
        pub nr_entries: u32,
        /// Padding.
        pub _pad: u32,
        /// Handle of [`E820Entry`]s.
        pub buffer: u64,
    }

    /// Argument of [`MemoryOp::SetMemoryMap`].
    #[doc(alias = "xen_foreign_memory_map")]
    pub struct XenForeignMemoryMap {
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
        /// The map.
        pub map: XenMemoryMap,
    }

    /// A range of a memory map, 20 bytes as on the wire: the words are little-endian halves.
    #[doc(alias = "e820entry")]
    pub struct E820Entry {
        /// First byte, low then high half.
        pub addr: [u32; 2],
        /// Bytes, low then high half.
        pub size: [u32; 2],
        /// [`E820Type`] (the ABI's `type`).
        pub kind: u32,
    }

    /// Argument of [`MemoryOp::AcquireResource`].
    #[doc(alias = "xen_mem_acquire_resource")]
    pub struct XenMemAcquireResource {
        /// Whose.
        pub domid: u16,
        /// [`MemResource`] (the ABI's `type`).
        pub kind: u16,
        /// Which of that kind.
        pub id: u32,
        /// Frames wanted (in), or how many there are if 0 was asked for (out).
        pub nr_frames: u32,
        /// Zero.
        pub pad: u32,
        /// First frame of the resource.
        pub frame: u64,
        /// Handle of the frame numbers (`u64` each, out).
        pub frame_list: u64,
    }

    /// A range of a virtual NUMA node.
    #[doc(alias = "xen_vmemrange")]
    pub struct XenVmemrange {
        /// First address.
        pub start: u64,
        /// End.
        pub end: u64,
        /// Zero.
        pub flags: u32,
        /// Node.
        pub nid: u32,
    }

    /// Argument of [`MemoryOp::GetVnumainfo`].
    #[doc(alias = "xen_vnuma_topology_info")]
    pub struct XenVnumaTopologyInfo {
        /// Whose.
        pub domid: u16,
        /// Zero.
        pub pad: u16,
        /// Nodes.
        pub nr_vnodes: u32,
        /// Vcpus.
        pub nr_vcpus: u32,
        /// Ranges.
        pub nr_vmemranges: u32,
        /// Handle of the distances.
        pub vdistance: u64,
        /// Handle of the nodes of the vcpus.
        pub vcpu_to_vnode: u64,
        /// Handle of the ranges.
        pub vmemrange: u64,
    }
}

/// Joins two little-endian halves.
const fn join(halves: [u32; 2]) -> u64 {
    (halves[0] as u64) | ((halves[1] as u64) << 32)
}

/// Splits into two little-endian halves.
#[expect(clippy::cast_possible_truncation, reason = "the value is taken apart")]
const fn split(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

impl E820Entry {
    /// A range of `size` bytes from `addr`.
    #[must_use]
    pub const fn new(addr: u64, size: u64, kind: E820Type) -> Self {
        Self { addr: split(addr), size: split(size), kind: kind.raw() }
    }

    /// First byte.
    #[must_use]
    pub const fn addr(&self) -> u64 {
        join(self.addr)
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        join(self.size)
    }
}
