//! The xenstore wire: message header, types, and the ring page.

use core::sync::atomic::{AtomicU8, AtomicU32};

use super::byte_ring::ByteRing;

/// Bytes of each ring.
#[doc(alias = "XENSTORE_RING_SIZE")]
pub const RING_SIZE: usize = 1024;
/// Most bytes of a message behind its header.
#[doc(alias = "XENSTORE_PAYLOAD_MAX")]
pub const PAYLOAD_MAX: usize = 4096;
/// Most bytes of an absolute path.
#[doc(alias = "XENSTORE_ABS_PATH_MAX")]
pub const ABS_PATH_MAX: usize = 3072;
/// Most bytes of a relative path.
#[doc(alias = "XENSTORE_REL_PATH_MAX")]
pub const REL_PATH_MAX: usize = 2048;
/// `server_features`: a connection can be taken up again.
#[doc(alias = "XENSTORE_SERVER_FEATURE_RECONNECTION")]
pub const SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `server_features`: `error` is used.
#[doc(alias = "XENSTORE_SERVER_FEATURE_ERROR")]
pub const SERVER_FEATURE_ERROR: u32 = 2;

abi_enum! {
    /// Message types.
    pub enum XsType: u32 {
        Control = 0, "XS_CONTROL";
        Directory = 1, "XS_DIRECTORY";
        Read = 2, "XS_READ";
        GetPerms = 3, "XS_GET_PERMS";
        Watch = 4, "XS_WATCH";
        Unwatch = 5, "XS_UNWATCH";
        TransactionStart = 6, "XS_TRANSACTION_START";
        TransactionEnd = 7, "XS_TRANSACTION_END";
        Introduce = 8, "XS_INTRODUCE";
        Release = 9, "XS_RELEASE";
        GetDomainPath = 10, "XS_GET_DOMAIN_PATH";
        Write = 11, "XS_WRITE";
        Mkdir = 12, "XS_MKDIR";
        Rm = 13, "XS_RM";
        SetPerms = 14, "XS_SET_PERMS";
        WatchEvent = 15, "XS_WATCH_EVENT";
        Error = 16, "XS_ERROR";
        IsDomainIntroduced = 17, "XS_IS_DOMAIN_INTRODUCED";
        Resume = 18, "XS_RESUME";
        SetTarget = 19, "XS_SET_TARGET";
        ResetWatches = 21, "XS_RESET_WATCHES";
        DirectoryPart = 22, "XS_DIRECTORY_PART";
    }
}

abi_enum! {
    /// `connection`.
    pub enum ConnectionState: u32 {
        Connected = 0, "XENSTORE_CONNECTED";
        Reconnect = 1, "XENSTORE_RECONNECT";
    }
}

abi_enum! {
    /// `error`.
    pub enum RingFault: u32 {
        None = 0, "XENSTORE_ERROR_NONE";
        Comm = 1, "XENSTORE_ERROR_COMM";
        RingIdx = 2, "XENSTORE_ERROR_RINGIDX";
        Proto = 3, "XENSTORE_ERROR_PROTO";
    }
}

wire! {
    /// Header of a message; `len` bytes follow.
    #[doc(alias = "xsd_sockmsg")]
    pub struct XsdSockmsg {
        /// [`XsType`] (the ABI's `type`).
        pub kind: u32,
        /// Chosen by the client, repeated in the answer.
        pub req_id: u32,
        /// Transaction, 0 for none.
        pub tx_id: u32,
        /// Bytes that follow.
        pub len: u32,
    }
}

/// The xenstore page. Requests flow from the guest to the store, answers and watch events back.
#[derive(Debug)]
#[repr(C)]
#[doc(alias = "xenstore_domain_interface")]
pub struct XenstoreDomainInterface {
    /// Requests, written by the guest.
    pub req: [AtomicU8; RING_SIZE],
    /// Answers and watch events, written by the store.
    pub rsp: [AtomicU8; RING_SIZE],
    /// Index of the store.
    pub req_cons: AtomicU32,
    /// Index of the guest.
    pub req_prod: AtomicU32,
    /// Index of the guest.
    pub rsp_cons: AtomicU32,
    /// Index of the store.
    pub rsp_prod: AtomicU32,
    /// What the store can do beyond the basics.
    pub server_features: AtomicU32,
    /// [`ConnectionState`].
    pub connection: AtomicU32,
    /// [`RingFault`].
    pub error: AtomicU32,
}

impl XenstoreDomainInterface {
    /// The requests.
    #[must_use]
    pub const fn request_ring(&self) -> ByteRing<'_> {
        ByteRing::new(&self.req, &self.req_cons, &self.req_prod)
    }

    /// The answers.
    #[must_use]
    pub const fn response_ring(&self) -> ByteRing<'_> {
        ByteRing::new(&self.rsp, &self.rsp_cons, &self.rsp_prod)
    }
}

impl Default for XenstoreDomainInterface {
    fn default() -> Self {
        Self {
            req: [const { AtomicU8::new(0) }; RING_SIZE],
            rsp: [const { AtomicU8::new(0) }; RING_SIZE],
            req_cons: AtomicU32::new(0),
            req_prod: AtomicU32::new(0),
            rsp_cons: AtomicU32::new(0),
            rsp_prod: AtomicU32::new(0),
            server_features: AtomicU32::new(0),
            connection: AtomicU32::new(0),
            error: AtomicU32::new(0),
        }
    }
}
