//! `vm_assist`: behaviours that a guest switches on.

abi_enum! {
    /// Commands.
    pub enum VmAssistCmd: u32 {
        Enable = 0, "VMASST_CMD_enable";
        Disable = 1, "VMASST_CMD_disable";
    }
}

abi_enum! {
    /// Types; also bit numbers of `vcpu_guest_context.vm_assist`.
    pub enum VmAssist: u32 {
        /// Emulate 4 GiB segments (32-bit guests only).
        FourGbSegments = 0, "VMASST_TYPE_4gb_segments";
        /// Tell about emulated 4 GiB segments (32-bit guests only).
        FourGbSegmentsNotify = 1, "VMASST_TYPE_4gb_segments_notify";
        /// Page tables may be written directly; the faults are emulated.
        WritablePagetables = 2, "VMASST_TYPE_writable_pagetables";
        /// CR3 above 4 GiB (32-bit guests only).
        PaeExtendedCr3 = 3, "VMASST_TYPE_pae_extended_cr3";
        /// IOPL as the architecture has it.
        ArchitecturalIopl = 4, "VMASST_TYPE_architectural_iopl";
        /// Mark the runstate area while it is updated.
        RunstateUpdateFlag = 5, "VMASST_TYPE_runstate_update_flag";
        /// No machine-to-physical table in user page tables.
        M2pStrict = 32, "VMASST_TYPE_m2p_strict";
    }
}
