//! `console_io`: the hypervisor's console.

abi_enum! {
    /// Sub-operations.
    pub enum ConsoleIoOp: u32 {
        /// Print bytes; returns 0.
        Write = 0, "CONSOLEIO_write";
        /// Read typed bytes; returns how many.
        Read = 1, "CONSOLEIO_read";
    }
}
