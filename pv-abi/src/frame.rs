//! Page size and the constants of the address space that a PV guest sees.

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a page, for address arithmetic.
pub const PAGE_SIZE_U64: u64 = 1 << PAGE_SHIFT;
/// Binary logarithm of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// The bits of an address that name its page.
pub const PAGE_MASK: u64 = !(PAGE_SIZE_U64 - 1);

/// First address that belongs to the hypervisor in every guest address space.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// First address above the hypervisor's area.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// Start of the machine-to-physical table, readable by guests.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// End of the area of the machine-to-physical table.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// Entries that the area of the machine-to-physical table has room for.
pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3;
/// Value of a machine-to-physical entry without a pseudo-physical frame.
pub const INVALID_M2P_ENTRY: u64 = u64::MAX;
/// Value of a machine-to-physical entry of a frame that is shared.
pub const SHARED_M2P_ENTRY: u64 = u64::MAX - 1;
/// First of the L4 slots that belong to the hypervisor.
#[doc(alias = "ROOT_PAGETABLE_FIRST_XEN_SLOT")]
pub const FIRST_HYPERVISOR_L4_SLOT: usize = 256;
/// Last of the L4 slots that belong to the hypervisor.
#[doc(alias = "ROOT_PAGETABLE_LAST_XEN_SLOT")]
pub const LAST_HYPERVISOR_L4_SLOT: usize = 271;
/// A p2m entry without a frame, as guests and tools write it.
pub const INVALID_P2M_ENTRY: u64 = u64::MAX;
/// Virtual CPUs whose information lies in the shared-info page.
#[doc(alias = "XEN_LEGACY_MAX_VCPUS")]
pub const LEGACY_MAX_VCPUS: usize = 32;
