//! Network interfaces: one ring for what the guest sends, one for what it receives.

use super::ring::Protocol;

/// Slots that a back end must accept for one packet.
#[doc(alias = "XEN_NETIF_NR_SLOTS_MIN")]
pub const NR_SLOTS_MIN: usize = 18;
/// Most bytes of a packet.
#[doc(alias = "XEN_NETIF_MAX_TX_SIZE")]
pub const MAX_TX_SIZE: usize = 0xffff;

bitflags::bitflags! {
    /// `netif_tx_request.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct NetTxFlags: u16 {
        /// The protocol checksum is blank.
        #[doc(alias = "NETTXF_csum_blank")]
        const CSUM_BLANK = 1 << 0;
        /// The contents have been checked.
        #[doc(alias = "NETTXF_data_validated")]
        const DATA_VALIDATED = 1 << 1;
        /// The packet goes on in the next request.
        #[doc(alias = "NETTXF_more_data")]
        const MORE_DATA = 1 << 2;
        /// Extra information follows.
        #[doc(alias = "NETTXF_extra_info")]
        const EXTRA_INFO = 1 << 3;
    }

    /// `netif_rx_response.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct NetRxFlags: u16 {
        /// The contents have been checked.
        #[doc(alias = "NETRXF_data_validated")]
        const DATA_VALIDATED = 1 << 0;
        /// The protocol checksum is blank.
        #[doc(alias = "NETRXF_csum_blank")]
        const CSUM_BLANK = 1 << 1;
        /// The packet goes on in the next response.
        #[doc(alias = "NETRXF_more_data")]
        const MORE_DATA = 1 << 2;
        /// Extra information follows.
        #[doc(alias = "NETRXF_extra_info")]
        const EXTRA_INFO = 1 << 3;
        /// A segmentation prefix.
        #[doc(alias = "NETRXF_gso_prefix")]
        const GSO_PREFIX = 1 << 4;
    }

    /// `netif_extra_info.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct NetExtraFlags: u8 {
        /// Another one follows.
        #[doc(alias = "XEN_NETIF_EXTRA_FLAG_MORE")]
        const MORE = 1 << 0;
    }
}

abi_enum! {
    /// Kinds of extra information.
    pub enum NetExtraType: u8 {
        None = 0, "XEN_NETIF_EXTRA_TYPE_NONE";
        Gso = 1, "XEN_NETIF_EXTRA_TYPE_GSO";
        McastAdd = 2, "XEN_NETIF_EXTRA_TYPE_MCAST_ADD";
        McastDel = 3, "XEN_NETIF_EXTRA_TYPE_MCAST_DEL";
        Hash = 4, "XEN_NETIF_EXTRA_TYPE_HASH";
    }
}

abi_enum! {
    /// Kinds of segmentation.
    pub enum NetGsoType: u8 {
        None = 0, "XEN_NETIF_GSO_TYPE_NONE";
        TcpV4 = 1, "XEN_NETIF_GSO_TYPE_TCPV4";
        TcpV6 = 2, "XEN_NETIF_GSO_TYPE_TCPV6";
    }
}

abi_enum! {
    /// Status of a response; a positive status of a receive response is a length.
    pub enum NetifStatus: i16 {
        Null = 1, "NETIF_RSP_NULL";
        Okay = 0, "NETIF_RSP_OKAY";
        Error = -1, "NETIF_RSP_ERROR";
        Dropped = -2, "NETIF_RSP_DROPPED";
    }
}

wire! {
    /// A part of a packet to send; the first one's `size` is that of the whole packet.
    #[doc(alias = "netif_tx_request")]
    pub struct NetifTxRequest {
        /// The page.
        pub gref: u32,
        /// Offset within it.
        pub offset: u16,
        /// [`NetTxFlags`].
        pub flags: u16,
        /// Chosen by the front end, repeated in the response.
        pub id: u16,
        /// Bytes.
        pub size: u16,
    }

    /// The answer to a part.
    #[doc(alias = "netif_tx_response")]
    pub struct NetifTxResponse {
        /// Of the request.
        pub id: u16,
        /// [`NetifStatus`].
        pub status: i16,
    }

    /// A page to receive into.
    #[doc(alias = "netif_rx_request")]
    pub struct NetifRxRequest {
        /// Chosen by the front end, repeated in the response.
        pub id: u16,
        /// Padding.
        pub pad: u16,
        /// The page.
        pub gref: u32,
    }

    /// A part of a packet received.
    #[doc(alias = "netif_rx_response")]
    pub struct NetifRxResponse {
        /// Of the request.
        pub id: u16,
        /// Offset within the page.
        pub offset: u16,
        /// [`NetRxFlags`].
        pub flags: u16,
        /// Bytes, or a negative [`NetifStatus`].
        pub status: i16,
    }

    /// Extra information; it takes a slot of its own, of which it uses eight bytes.
    #[doc(alias = "netif_extra_info")]
    pub struct NetifExtraInfo {
        /// [`NetExtraType`] (the ABI's `type`).
        pub kind: u8,
        /// [`NetExtraFlags`].
        pub flags: u8,
        /// By kind: segmentation (size u16, [`NetGsoType`] u8, pad u8, features u16), multicast address, or hash
        /// (type u8, algorithm u8, four bytes).
        pub data: [u8; 6],
    }
}

/// The sending ring.
#[derive(Clone, Copy, Debug)]
pub enum NetifTx {}

impl Protocol for NetifTx {
    type Request = NetifTxRequest;
    type Response = NetifTxResponse;
}

/// The receiving ring.
#[derive(Clone, Copy, Debug)]
pub enum NetifRx {}

impl Protocol for NetifRx {
    type Request = NetifRxRequest;
    type Response = NetifRxResponse;
}
