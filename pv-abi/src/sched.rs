//! `sched_op`: giving up the pcpu, and ending.

abi_enum! {
    /// Sub-operations.
    pub enum SchedOp: u32 {
        /// Let others run.
        Yield = 0, "SCHEDOP_yield";
        /// Unmask events and sleep until one is pending.
        Block = 1, "SCHEDOP_block";
        /// End the domain.
        Shutdown = 2, "SCHEDOP_shutdown";
        /// Sleep until one of some ports is pending, or a time is reached.
        Poll = 3, "SCHEDOP_poll";
        /// Mark another domain as shut down.
        RemoteShutdown = 4, "SCHEDOP_remote_shutdown";
        /// Set the reason that a later shutdown reports.
        ShutdownCode = 5, "SCHEDOP_shutdown_code";
        /// Arm, poke or disarm a watchdog.
        Watchdog = 6, "SCHEDOP_watchdog";
        /// Pin the calling vcpu to a pcpu.
        PinOverride = 7, "SCHEDOP_pin_override";
    }
}

abi_enum! {
    /// Reasons of a shutdown.
    pub enum ShutdownReason: u32 {
        Poweroff = 0, "SHUTDOWN_poweroff";
        Reboot = 1, "SHUTDOWN_reboot";
        Suspend = 2, "SHUTDOWN_suspend";
        Crash = 3, "SHUTDOWN_crash";
        Watchdog = 4, "SHUTDOWN_watchdog";
        SoftReset = 5, "SHUTDOWN_soft_reset";
    }
}

/// The largest reason.
pub const SHUTDOWN_MAX: u32 = 5;
/// A shutdown code that was not set.
pub const SHUTDOWN_CODE_INVALID: u32 = u32::MAX;

wire! {
    /// Argument of [`SchedOp::Shutdown`] and [`SchedOp::ShutdownCode`].
    #[doc(alias = "sched_shutdown")]
    pub struct SchedShutdown {
        /// [`ShutdownReason`].
        pub reason: u32,
    }

    /// Argument of [`SchedOp::Poll`].
    #[doc(alias = "sched_poll")]
    pub struct SchedPoll {
        /// Handle of the ports (`u32` each).
        pub ports: u64,
        /// Number of ports.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
        /// Absolute system time in nanoseconds, 0 for none.
        pub timeout: u64,
    }

    /// Argument of [`SchedOp::RemoteShutdown`].
    #[doc(alias = "sched_remote_shutdown")]
    pub struct SchedRemoteShutdown {
        /// The domain.
        pub domain_id: u16,
        /// Padding.
        pub _pad: u16,
        /// [`ShutdownReason`].
        pub reason: u32,
    }

    /// Argument of [`SchedOp::Watchdog`].
    #[doc(alias = "sched_watchdog")]
    pub struct SchedWatchdog {
        /// 0 to allocate, else which.
        pub id: u32,
        /// Seconds; 0 disarms.
        pub timeout: u32,
    }

    /// Argument of [`SchedOp::PinOverride`].
    #[doc(alias = "sched_pin_override")]
    pub struct SchedPinOverride {
        /// The pcpu, or negative to end the override.
        pub pcpu: i32,
    }
}
