//! `callback_op`: entry points that are not exceptions.

abi_enum! {
    /// Sub-operations.
    pub enum CallbackOp: u32 {
        Register = 0, "CALLBACKOP_register";
        Unregister = 1, "CALLBACKOP_unregister";
    }
}

abi_enum! {
    /// Kinds of callback.
    pub enum CallbackType: u16 {
        /// An event is pending.
        Event = 0, "CALLBACKTYPE_event";
        /// A return to the guest faulted.
        Failsafe = 1, "CALLBACKTYPE_failsafe";
        /// `SYSCALL` from 64-bit user mode.
        Syscall = 2, "CALLBACKTYPE_syscall";
        /// `SYSENTER` from user mode, in its older meaning.
        SysenterDeprecated = 3, "CALLBACKTYPE_sysenter_deprecated";
        Nmi = 4, "CALLBACKTYPE_nmi";
        /// `SYSENTER` from user mode.
        Sysenter = 5, "CALLBACKTYPE_sysenter";
        /// `SYSCALL` from 32-bit user mode.
        Syscall32 = 7, "CALLBACKTYPE_syscall32";
    }
}

bitflags::bitflags! {
    /// `callback_register.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CallbackFlags: u16 {
        /// Mask events on entry.
        #[doc(alias = "CALLBACKF_mask_events")]
        const MASK_EVENTS = 1 << 0;
    }
}

wire! {
    /// Argument of [`CallbackOp::Register`].
    #[doc(alias = "callback_register")]
    pub struct CallbackRegister {
        /// [`CallbackType`] (the ABI's `type`).
        pub kind: u16,
        /// [`CallbackFlags`].
        pub flags: u16,
        /// Padding.
        pub _pad: u32,
        /// Entry point.
        pub address: u64,
    }

    /// Argument of [`CallbackOp::Unregister`].
    #[doc(alias = "callback_unregister")]
    pub struct CallbackUnregister {
        /// [`CallbackType`] (the ABI's `type`).
        pub kind: u16,
        /// Not used.
        pub _unused: u16,
    }
}
