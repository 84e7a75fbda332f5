//! The shared-info page and what lies in it: written by both sides at any time, hence atomics only.
//!
//! Who writes what: `evtchn_pending`, `evtchn_pending_sel` and `evtchn_upcall_pending` are set by the hypervisor and
//! cleared by the guest; `evtchn_mask` and `evtchn_upcall_mask` belong to the guest (the hypervisor sets the latter when
//! it enters a handler that masks events); times and the wall clock are the hypervisor's; `arch.max_pfn` and the p2m
//! fields are the guest's.

use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64};

use crate::frame::LEGACY_MAX_VCPUS;

/// Words of the two-level pending and mask bitmaps.
pub const EVTCHN_2L_WORDS: usize = 64;
/// Ports of the two-level ABI.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;

/// Bytes of a [`VcpuInfo`].
pub const VCPU_INFO_SIZE: usize = 64;
/// Offset of `evtchn_upcall_pending` in a vcpu_info.
pub const VCPU_INFO_UPCALL_PENDING: usize = 0;
/// Offset of `evtchn_upcall_mask` in a vcpu_info.
pub const VCPU_INFO_UPCALL_MASK: usize = 1;
/// Offset of `evtchn_pending_sel` in a vcpu_info.
pub const VCPU_INFO_PENDING_SEL: usize = 8;
/// Offset of `arch.cr2` in a vcpu_info.
pub const VCPU_INFO_CR2: usize = 16;
/// Offset of `time` in a vcpu_info.
pub const VCPU_INFO_TIME: usize = 32;
/// Offset of `evtchn_pending` in the shared-info page.
pub const SHARED_INFO_EVTCHN_PENDING: usize = 0x800;
/// Offset of `evtchn_mask` in the shared-info page.
pub const SHARED_INFO_EVTCHN_MASK: usize = 0xa00;
/// Offset of `wc_version` in the shared-info page.
pub const SHARED_INFO_WC_VERSION: usize = 0xc00;
/// Offset of `wc_sec` in the shared-info page.
pub const SHARED_INFO_WC_SEC: usize = 0xc04;
/// Offset of `wc_nsec` in the shared-info page.
pub const SHARED_INFO_WC_NSEC: usize = 0xc08;
/// Offset of `wc_sec_hi` in the shared-info page.
pub const SHARED_INFO_WC_SEC_HI: usize = 0xc0c;
/// Offset of `arch` in the shared-info page.
pub const SHARED_INFO_ARCH: usize = 0xc10;
/// Bytes of the shared-info structure.
pub const SHARED_INFO_SIZE: usize = 0xc40;

/// Offset of the version in a vcpu_time_info.
pub const TIME_INFO_VERSION: usize = 0;
/// Offset of `tsc_timestamp` in a vcpu_time_info.
pub const TIME_INFO_TSC_TIMESTAMP: usize = 8;
/// Offset of `system_time` in a vcpu_time_info.
pub const TIME_INFO_SYSTEM_TIME: usize = 16;
/// Offset of `tsc_to_system_mul` in a vcpu_time_info.
pub const TIME_INFO_TSC_TO_SYSTEM_MUL: usize = 24;
/// Offset of `tsc_shift` in a vcpu_time_info.
pub const TIME_INFO_TSC_SHIFT: usize = 28;
/// Offset of `flags` in a vcpu_time_info.
pub const TIME_INFO_FLAGS: usize = 29;
/// Bytes of a vcpu_time_info.
pub const TIME_INFO_SIZE: usize = 32;

bitflags::bitflags! {
    /// `vcpu_time_info.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PvclockFlags: u8 {
        /// The times of all vcpus agree; no monotonicity guard is needed.
        #[doc(alias = "XEN_PVCLOCK_TSC_STABLE_BIT")]
        const TSC_STABLE = 1 << 0;
        /// The guest was stopped by its host.
        #[doc(alias = "XEN_PVCLOCK_GUEST_STOPPED")]
        const GUEST_STOPPED = 1 << 1;
    }
}

/// A vcpu's system time: `system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul) >> 32`,
/// valid while `version` is even and unchanged.
#[derive(Debug, Default)]
#[repr(C)]
#[doc(alias = "vcpu_time_info")]
pub struct VcpuTimeInfo {
    /// Odd while the hypervisor writes.
    pub version: AtomicU32,
    /// Padding.
    pub pad0: AtomicU32,
    /// Time stamp counter at the last update.
    pub tsc_timestamp: AtomicU64,
    /// Nanoseconds since boot at the last update.
    pub system_time: AtomicU64,
    /// Nanoseconds per shifted tick, as a 32-bit fraction.
    pub tsc_to_system_mul: AtomicU32,
    /// Left shift of the tick difference (right if negative).
    pub tsc_shift: AtomicI8,
    /// [`PvclockFlags`].
    pub flags: AtomicU8,
    /// Padding.
    pub pad1: [AtomicU8; 2],
}

/// `vcpu_info.arch`.
#[derive(Debug, Default)]
#[repr(C)]
#[doc(alias = "arch_vcpu_info")]
pub struct ArchVcpuInfo {
    /// Faulting address of the last page fault handed to the guest.
    pub cr2: AtomicU64,
    /// Padding.
    pub pad: AtomicU64,
}

/// What a vcpu shares with the hypervisor.
#[derive(Debug, Default)]
#[repr(C)]
#[doc(alias = "vcpu_info")]
pub struct VcpuInfo {
    /// Non-zero: an event waits.
    pub evtchn_upcall_pending: AtomicU8,
    /// Non-zero: no upcall wanted.
    pub evtchn_upcall_mask: AtomicU8,
    /// Padding.
    pub _pad: [AtomicU8; 6],
    /// One bit per word of `evtchn_pending` that has a bit of this vcpu.
    pub evtchn_pending_sel: AtomicU64,
    /// Architecture's part.
    pub arch: ArchVcpuInfo,
    /// System time.
    pub time: VcpuTimeInfo,
}

/// `shared_info.arch`.
#[derive(Debug, Default)]
#[repr(C)]
#[doc(alias = "arch_shared_info")]
pub struct ArchSharedInfo {
    /// One above the last pfn in the p2m.
    pub max_pfn: AtomicU64,
    /// Frame of the root of the three-level p2m, for tools.
    pub pfn_to_mfn_frame_list_list: AtomicU64,
    /// Reasons of an NMI, see [`crate::nmi`].
    pub nmi_reason: AtomicU64,
    /// CR3 with which the virtual p2m is mapped.
    pub p2m_cr3: AtomicU64,
    /// Virtual address of the p2m.
    pub p2m_vaddr: AtomicU64,
    /// Incremented around changes of the p2m.
    pub p2m_generation: AtomicU64,
}

/// The shared-info page.
#[derive(Debug)]
#[repr(C)]
#[doc(alias = "shared_info")]
pub struct SharedInfo {
    /// The vcpus that have not registered an area of their own.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// One bit per port: an event has arrived.
    pub evtchn_pending: [AtomicU64; EVTCHN_2L_WORDS],
    /// One bit per port: no upcall for it.
    pub evtchn_mask: [AtomicU64; EVTCHN_2L_WORDS],
    /// Odd while the wall clock is written.
    pub wc_version: AtomicU32,
    /// Wall-clock seconds at system time zero, low half.
    pub wc_sec: AtomicU32,
    /// Wall-clock nanoseconds.
    pub wc_nsec: AtomicU32,
    /// Wall-clock seconds, high half.
    pub wc_sec_hi: AtomicU32,
    /// Architecture's part.
    pub arch: ArchSharedInfo,
}

impl Default for SharedInfo {
    fn default() -> Self {
        Self {
            vcpu_info: Default::default(),
            evtchn_pending: [const { AtomicU64::new(0) }; EVTCHN_2L_WORDS],
            evtchn_mask: [const { AtomicU64::new(0) }; EVTCHN_2L_WORDS],
            wc_version: AtomicU32::new(0),
            wc_sec: AtomicU32::new(0),
            wc_nsec: AtomicU32::new(0),
            wc_sec_hi: AtomicU32::new(0),
            arch: ArchSharedInfo::default(),
        }
    }
}
