//! Descriptors: what a guest may put into its GDT and LDT.
//!
//! Invariant I11: every descriptor of a descriptor page has been through [`checked`]. Code and data segments get DPL 3;
//! of the system types only the harmless null type passes. Call gates are refused, unlike Xen: nothing uses them.

use alloc::vec::Vec;

use pv_abi::ids::Mfn;

/// Descriptor bit: present.
const PRESENT: u64 = 1 << 47;
/// Descriptor bit: code or data rather than system.
const CODE_OR_DATA: u64 = 1 << 44;
/// Descriptor field: privilege level.
const DPL: u64 = 3 << 45;
/// Descriptor field: type.
const TYPE: u64 = 0xf << 40;

/// The descriptor as it may stand in a guest's table, or `None` where it may not.
#[must_use]
pub const fn checked(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & CODE_OR_DATA != 0 || descriptor & TYPE == 0 {
        return Some(descriptor | DPL);
    }
    None
}

/// The descriptor tables of a vcpu.
#[derive(Debug, Default)]
pub struct DescriptorTables {
    /// Frames of the GDT.
    pub gdt: Vec<Mfn>,
    /// Entries of the GDT.
    pub gdt_entries: u32,
    /// Frames of the LDT.
    pub ldt: Vec<Mfn>,
    /// Where the guest has its LDT.
    pub ldt_base: u64,
    /// Entries of the LDT.
    pub ldt_entries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_get_ring_3() {
        let flat_code_ring0 = 0x00af_9b00_0000_ffff;
        assert_eq!(checked(flat_code_ring0), Some(0x00af_fb00_0000_ffff));
    }

    #[test]
    fn gates_and_task_states_are_refused() {
        for system_type in 1..16_u64 {
            assert_eq!(checked(PRESENT | system_type << 40), None, "type {system_type}");
        }
    }

    #[test]
    fn absent_descriptors_stay_as_they_are() {
        assert_eq!(checked(0x1234), Some(0x1234));
    }
}
