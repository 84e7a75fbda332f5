//! `vcpu_op`: bringing vcpus up and down, their timers and registered areas.

abi_enum! {
    /// Sub-operations.
    pub enum VcpuOp: u32 {
        /// Give a vcpu its first context ([`crate::trap::VcpuGuestContext`]).
        Initialise = 0, "VCPUOP_initialise";
        Up = 1, "VCPUOP_up";
        Down = 2, "VCPUOP_down";
        /// 1 if up, 0 if down.
        IsUp = 3, "VCPUOP_is_up";
        GetRunstateInfo = 4, "VCPUOP_get_runstate_info";
        RegisterRunstateMemoryArea = 5, "VCPUOP_register_runstate_memory_area";
        SetPeriodicTimer = 6, "VCPUOP_set_periodic_timer";
        StopPeriodicTimer = 7, "VCPUOP_stop_periodic_timer";
        SetSingleshotTimer = 8, "VCPUOP_set_singleshot_timer";
        StopSingleshotTimer = 9, "VCPUOP_stop_singleshot_timer";
        RegisterVcpuInfo = 10, "VCPUOP_register_vcpu_info";
        SendNmi = 11, "VCPUOP_send_nmi";
        GetPhysid = 12, "VCPUOP_get_physid";
        RegisterVcpuTimeMemoryArea = 13, "VCPUOP_register_vcpu_time_memory_area";
    }
}

abi_enum! {
    /// What a vcpu does.
    pub enum Runstate: u32 {
        Running = 0, "RUNSTATE_running";
        Runnable = 1, "RUNSTATE_runnable";
        Blocked = 2, "RUNSTATE_blocked";
        Offline = 3, "RUNSTATE_offline";
    }
}

/// Bit of `state_entry_time` that is set while the area is updated (if the guest asked for it).
#[doc(alias = "XEN_RUNSTATE_UPDATE")]
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

bitflags::bitflags! {
    /// `vcpu_set_singleshot_timer.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct SingleshotFlags: u32 {
        /// Fail with `-ETIME` if the time has passed already.
        #[doc(alias = "VCPU_SSHOTTMR_future")]
        const FUTURE = 1 << 0;
    }
}

wire! {
    /// How long a vcpu has been in which state.
    #[doc(alias = "vcpu_runstate_info")]
    pub struct VcpuRunstateInfo {
        /// [`Runstate`].
        pub state: u32,
        /// Padding.
        pub _pad: u32,
        /// System time of the last change, with [`RUNSTATE_UPDATE`].
        pub state_entry_time: u64,
        /// Nanoseconds in each state.
        pub time: [u64; 4],
    }

    /// Argument of [`VcpuOp::RegisterRunstateMemoryArea`].
    #[doc(alias = "vcpu_register_runstate_memory_area")]
    pub struct VcpuRegisterRunstateMemoryArea {
        /// Virtual address of a [`VcpuRunstateInfo`].
        pub addr: u64,
    }

    /// Argument of [`VcpuOp::SetPeriodicTimer`].
    #[doc(alias = "vcpu_set_periodic_timer")]
    pub struct VcpuSetPeriodicTimer {
        /// Nanoseconds.
        pub period_ns: u64,
    }

    /// Argument of [`VcpuOp::SetSingleshotTimer`].
    #[doc(alias = "vcpu_set_singleshot_timer")]
    pub struct VcpuSetSingleshotTimer {
        /// Absolute system time.
        pub timeout_abs_ns: u64,
        /// [`SingleshotFlags`].
        pub flags: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// Argument of [`VcpuOp::RegisterVcpuInfo`].
    #[doc(alias = "vcpu_register_vcpu_info")]
    pub struct VcpuRegisterVcpuInfo {
        /// Frame of the area.
        pub mfn: u64,
        /// Offset within it.
        pub offset: u32,
        /// Reserved.
        pub rsvd: u32,
    }

    /// Result of [`VcpuOp::GetPhysid`].
    #[doc(alias = "vcpu_get_physid")]
    pub struct VcpuGetPhysid {
        /// APIC id in the low half, ACPI id in the high half.
        pub phys_id: u64,
    }

    /// Argument of [`VcpuOp::RegisterVcpuTimeMemoryArea`].
    #[doc(alias = "vcpu_register_time_memory_area")]
    pub struct VcpuRegisterTimeMemoryArea {
        /// Virtual address of a vcpu_time_info.
        pub addr: u64,
    }
}
