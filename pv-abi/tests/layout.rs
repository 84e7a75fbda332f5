//! Golden sizes, offsets and numbers of the ABI.
//!
//! The literals were read out of the ABI's own C headers (4.17) by a compiler; they must never follow the Rust
//! definitions.
#![expect(clippy::too_many_lines, reason = "tables")]

/// Checks size and field offsets of a structure.
macro_rules! layout {
    ($name:path, $size:literal, $($field:ident $offset:literal),* $(,)?) => {{
        use $name as Checked;
        assert_eq!(size_of::<Checked>(), $size, "size of {}", stringify!($name));
        $(assert_eq!(
            core::mem::offset_of!(Checked, $field), $offset,
            "offset of {} in {}", stringify!($field), stringify!($name)
        );)*
    }};
}

/// Checks numbers of an enumeration, both ways.
macro_rules! numbers {
    ($name:path, $($variant:ident $value:literal),* $(,)?) => {{
        use $name as Checked;
        $(
            assert_eq!(i128::from(Checked::$variant.raw()), $value, "{}", stringify!($variant));
            assert_eq!(Checked::from_raw($value).unwrap(), Checked::$variant);
        )*
    }};
}

/// Checks bits.
macro_rules! flags {
    ($name:path, $($flag:ident $value:literal),* $(,)?) => {{
        use $name as Checked;
        $(assert_eq!(Checked::$flag.bits(), $value, "{}", stringify!($flag));)*
    }};
}

/// Checks constants of a module.
macro_rules! constants {
    ($module:path, $($constant:ident $value:literal),* $(,)?) => {{
        use $module as checked;
        $(assert_eq!(i128::try_from(checked::$constant).unwrap(), $value, "{}", stringify!($constant));)*
    }};
}

#[path = "layout/control.rs"]
mod control;
#[path = "layout/guest.rs"]
mod guest;
#[path = "layout/io.rs"]
mod io;
#[path = "layout/numbers.rs"]
mod numbers;

/// What no header of the ABI spells as a structure or a named constant.
#[test]
fn the_rest() {
    use pv_abi::ids::DomId;
    assert_eq!(size_of::<pv_abi::memory::E820Entry>(), 20);
    assert_eq!(size_of::<pv_abi::start_info::StartInfo>(), 0x490);
    assert_eq!(size_of::<pv_abi::shared_info::SharedInfo>(), pv_abi::shared_info::SHARED_INFO_SIZE);
    let reserved = [DomId::SELF, DomId::IO, DomId::XEN, DomId::COW, DomId::INVALID, DomId::IDLE];
    assert_eq!(reserved.map(DomId::raw), [0x7ff0, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7fff]);
    assert_eq!(pv_abi::frame::HYPERVISOR_VIRT_START, 0xffff_8000_0000_0000);
    assert_eq!(pv_abi::frame::HYPERVISOR_VIRT_END, 0xffff_8800_0000_0000);
    assert_eq!(pv_abi::frame::MACH2PHYS_NR_ENTRIES, 0x8_0000_0000);
    assert_eq!(pv_abi::errno::Errno::Intr.raw(), 4);
    assert_eq!(pv_abi::errno::Errno::Restart.raw(), 85);
}

/// The offsets that shared-page accessors use are those of the structures.
#[test]
fn shared_page_offsets() {
    use core::mem::offset_of;

    use pv_abi::shared_info::*;
    assert_eq!(size_of::<VcpuInfo>(), VCPU_INFO_SIZE);
    assert_eq!(offset_of!(VcpuInfo, evtchn_upcall_pending), VCPU_INFO_UPCALL_PENDING);
    assert_eq!(offset_of!(VcpuInfo, evtchn_upcall_mask), VCPU_INFO_UPCALL_MASK);
    assert_eq!(offset_of!(VcpuInfo, evtchn_pending_sel), VCPU_INFO_PENDING_SEL);
    assert_eq!(offset_of!(VcpuInfo, arch), VCPU_INFO_CR2);
    assert_eq!(offset_of!(VcpuInfo, time), VCPU_INFO_TIME);
    assert_eq!(offset_of!(SharedInfo, evtchn_pending), SHARED_INFO_EVTCHN_PENDING);
    assert_eq!(offset_of!(SharedInfo, evtchn_mask), SHARED_INFO_EVTCHN_MASK);
    assert_eq!(offset_of!(SharedInfo, wc_version), SHARED_INFO_WC_VERSION);
    assert_eq!(offset_of!(SharedInfo, wc_sec), SHARED_INFO_WC_SEC);
    assert_eq!(offset_of!(SharedInfo, wc_nsec), SHARED_INFO_WC_NSEC);
    assert_eq!(offset_of!(SharedInfo, wc_sec_hi), SHARED_INFO_WC_SEC_HI);
    assert_eq!(offset_of!(SharedInfo, arch), SHARED_INFO_ARCH);
    assert_eq!(size_of::<VcpuTimeInfo>(), TIME_INFO_SIZE);
    assert_eq!(offset_of!(VcpuTimeInfo, version), TIME_INFO_VERSION);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_timestamp), TIME_INFO_TSC_TIMESTAMP);
    assert_eq!(offset_of!(VcpuTimeInfo, system_time), TIME_INFO_SYSTEM_TIME);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_to_system_mul), TIME_INFO_TSC_TO_SYSTEM_MUL);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_shift), TIME_INFO_TSC_SHIFT);
    assert_eq!(offset_of!(VcpuTimeInfo, flags), TIME_INFO_FLAGS);
}

/// Errors travel as negative results, and nothing else does.
#[test]
fn errno_round_trip() {
    use pv_abi::errno::Errno;
    for &errno in Errno::ALL {
        assert_eq!(Errno::from_ret(errno.to_ret()), Some(errno));
    }
    assert_eq!(Errno::Inval.to_ret(), -22);
    assert_eq!(Errno::Inval.name(), "EINVAL");
    assert_eq!([0, 22, i64::MIN, i64::MAX, -65558, -4095].map(Errno::from_ret), [None; 6]);
}

/// Entries and addresses come apart and go together.
#[test]
fn ptes() {
    use pv_abi::ids::{GuestVa, Mfn};
    use pv_abi::pte::{Level, Pte, PteFlags};
    let pte = Pte::new(Mfn::new(0x12_3456), PteFlags::PRESENT | PteFlags::RW | PteFlags::NX);
    assert_eq!(pte.raw(), 0x8000_0001_2345_6003);
    assert_eq!(pte.mfn().raw(), 0x12_3456);
    assert_eq!(pte.flags(), PteFlags::PRESENT | PteFlags::RW | PteFlags::NX);
    assert_eq!(PteFlags::GUEST_KERNEL.bits(), 1 << 52);
    let va = GuestVa::new(0xffff_8880_1234_5678);
    assert_eq!(Level::ALL.map(|level| level.index(va)), [0x145, 0x91, 0, 0x111]);
    assert!(va.is_canonical() && !GuestVa::new(0x8000_0000_0000).is_canonical());
    assert_eq!((Level::L1.below(), Level::L4.above()), (None, None));
}
