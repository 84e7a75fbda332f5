//! `platform_op`: the machine as dom0's drivers see it.
//!
//! One argument, a [`PlatformOp`]: a header and a union, which [`PlatformOp::payload`] and
//! [`PlatformOp::set_payload`] read and write.

use zerocopy::{FromZeros, Immutable, IntoBytes};

/// The version a caller must state.
#[doc(alias = "XENPF_INTERFACE_VERSION")]
pub const INTERFACE_VERSION: u32 = 0x0300_0001;
/// `xenpf_pcpuinfo.flags`: the pcpu works.
#[doc(alias = "XEN_PCPU_FLAGS_ONLINE")]
pub const PCPU_ONLINE: u32 = 1;
/// `xenpf_pcpuinfo.flags`: there is no pcpu of that number.
#[doc(alias = "XEN_PCPU_FLAGS_INVALID")]
pub const PCPU_INVALID: u32 = 2;
/// Bytes of the union.
pub const PAYLOAD_SIZE: usize = 128;

abi_enum! {
    /// Commands.
    pub enum PlatformCmd: u32 {
        SetTime32 = 17, "XENPF_settime32";
        AddMemtype = 31, "XENPF_add_memtype";
        DelMemtype = 32, "XENPF_del_memtype";
        ReadMemtype = 33, "XENPF_read_memtype";
        MicrocodeUpdate = 35, "XENPF_microcode_update";
        PlatformQuirk = 39, "XENPF_platform_quirk";
        GetCpuVersion = 48, "XENPF_get_cpu_version";
        EfiRuntimeCall = 49, "XENPF_efi_runtime_call";
        FirmwareInfo = 50, "XENPF_firmware_info";
        EnterAcpiSleep = 51, "XENPF_enter_acpi_sleep";
        ChangeFreq = 52, "XENPF_change_freq";
        GetIdleTime = 53, "XENPF_getidletime";
        SetProcessorPminfo = 54, "XENPF_set_processor_pminfo";
        GetCpuInfo = 55, "XENPF_get_cpuinfo";
        CpuOnline = 56, "XENPF_cpu_online";
        CpuOffline = 57, "XENPF_cpu_offline";
        CpuHotadd = 58, "XENPF_cpu_hotadd";
        MemHotadd = 59, "XENPF_mem_hotadd";
        CoreParking = 60, "XENPF_core_parking";
        ResourceOp = 61, "XENPF_resource_op";
        SetTime64 = 62, "XENPF_settime64";
        GetSymbol = 63, "XENPF_get_symbol";
    }
}

abi_enum! {
    /// `firmware_info.type`.
    pub enum FirmwareInfoType: u32 {
        DiskInfo = 1, "XEN_FW_DISK_INFO";
        DiskMbrSignature = 2, "XEN_FW_DISK_MBR_SIGNATURE";
        VbeddcInfo = 3, "XEN_FW_VBEDDC_INFO";
        EfiInfo = 4, "XEN_FW_EFI_INFO";
        KbdShiftFlags = 5, "XEN_FW_KBD_SHIFT_FLAGS";
    }
}

wire! {
    /// Of [`PlatformCmd::SetTime32`].
    #[doc(alias = "xenpf_settime32")]
    pub struct XenpfSettime32 {
        /// Wall-clock seconds.
        pub secs: u32,
        /// Wall-clock nanoseconds.
        pub nsecs: u32,
        /// The system time at which the clock showed this.
        pub system_time: u64,
    }

    /// Of [`PlatformCmd::SetTime64`].
    #[doc(alias = "xenpf_settime64")]
    pub struct XenpfSettime64 {
        /// Wall-clock seconds.
        pub secs: u64,
        /// Wall-clock nanoseconds.
        pub nsecs: u32,
        /// Zero.
        pub mbz: u32,
        /// The system time at which the clock showed this.
        pub system_time: u64,
    }

    /// Head of [`PlatformCmd::FirmwareInfo`]; what follows depends on the type.
    #[doc(alias = "xenpf_firmware_info")]
    pub struct XenpfFirmwareInfo {
        /// [`FirmwareInfoType`] (the ABI's `type`).
        pub kind: u32,
        /// Which.
        pub index: u32,
        /// By type.
        pub u: [u64; 4],
    }

    /// Of [`PlatformCmd::GetCpuInfo`].
    #[doc(alias = "xenpf_pcpuinfo")]
    pub struct XenpfPcpuinfo {
        /// Pcpu.
        pub xen_cpuid: u32,
        /// Largest present pcpu (out).
        pub max_present: u32,
        /// 1 online, 2 invalid (out).
        pub flags: u32,
        /// (out)
        pub apic_id: u32,
        /// (out)
        pub acpi_id: u32,
    }

    /// Of [`PlatformCmd::GetCpuVersion`].
    #[doc(alias = "xenpf_pcpu_version")]
    pub struct XenpfPcpuVersion {
        /// Pcpu.
        pub xen_cpuid: u32,
        /// Largest present pcpu (out).
        pub max_present: u32,
        /// Vendor (out).
        pub vendor_id: [u8; 12],
        /// (out)
        pub family: u32,
        /// (out)
        pub model: u32,
        /// (out)
        pub stepping: u32,
    }

    /// Of [`PlatformCmd::CpuOnline`] and [`PlatformCmd::CpuOffline`].
    #[doc(alias = "xenpf_cpu_ol")]
    pub struct XenpfCpuOl {
        /// Pcpu.
        pub cpuid: u32,
    }

    /// Of [`PlatformCmd::EnterAcpiSleep`].
    #[doc(alias = "xenpf_enter_acpi_sleep")]
    pub struct XenpfEnterAcpiSleep {
        /// Value for the first control register.
        pub val_a: u16,
        /// Value for the second control register.
        pub val_b: u16,
        /// State.
        pub sleep_state: u32,
        /// Bit 0: the values are those of the extended registers.
        pub flags: u32,
    }

    /// The argument of `platform_op`.
    #[doc(alias = "xen_platform_op")]
    pub struct PlatformOp {
        /// [`PlatformCmd`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The union `u`.
        pub u: [u8; PAYLOAD_SIZE],
    }
}

impl PlatformOp {
    /// A command with a payload.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: PlatformCmd, payload: &T) -> Self {
        let mut op = Self { cmd: cmd.raw(), interface_version: INTERFACE_VERSION, ..Self::new_zeroed() };
        op.set_payload(payload);
        op
    }
}

union_payload!(PlatformOp);
