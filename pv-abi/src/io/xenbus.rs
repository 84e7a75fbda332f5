//! The states through which a front end and a back end meet and part.

abi_enum! {
    /// Value of a device's `state` node.
    pub enum XenbusState: u32 {
        Unknown = 0, "XenbusStateUnknown";
        Initialising = 1, "XenbusStateInitialising";
        /// Ready, waiting for the other end.
        InitWait = 2, "XenbusStateInitWait";
        /// Ready, its details published.
        Initialised = 3, "XenbusStateInitialised";
        Connected = 4, "XenbusStateConnected";
        /// Going away.
        Closing = 5, "XenbusStateClosing";
        Closed = 6, "XenbusStateClosed";
        Reconfiguring = 7, "XenbusStateReconfiguring";
        Reconfigured = 8, "XenbusStateReconfigured";
    }
}
