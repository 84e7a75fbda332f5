//! `nmi_op` and the reasons of a non-maskable interrupt.

abi_enum! {
    /// Sub-operations.
    pub enum NmiOp: u32 {
        RegisterCallback = 0, "XENNMI_register_callback";
        UnregisterCallback = 1, "XENNMI_unregister_callback";
    }
}

bitflags::bitflags! {
    /// `arch_shared_info.nmi_reason`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct NmiReason: u64 {
        /// I/O check.
        #[doc(alias = "XEN_NMIREASON_io_error")]
        const IO_ERROR = 1 << 0;
        /// PCI system error.
        #[doc(alias = "XEN_NMIREASON_pci_serr")]
        const PCI_SERR = 1 << 1;
        /// None of the others.
        #[doc(alias = "XEN_NMIREASON_unknown")]
        const UNKNOWN = 1 << 2;
    }
}

wire! {
    /// Argument of [`NmiOp::RegisterCallback`].
    #[doc(alias = "xennmi_callback")]
    pub struct XennmiCallback {
        /// Entry of the handler.
        pub handler_address: u64,
        /// Not used.
        pub pad: u64,
    }
}
