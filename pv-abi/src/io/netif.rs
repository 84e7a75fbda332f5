//! Network interfaces: one ring for what the guest sends, one for what it receives.

use zerocopy::{FromBytes, IntoBytes};

use super::ring::Protocol;

/// Names of the nodes by which the two ends tell what they can do; 1 is yes, and absent is no unless the text says
/// otherwise.
pub mod feature {
    /// Back end: it copies into granted pages. Front end: it asks for that (`request-rx-copy`).
    pub const RX_COPY: &str = "feature-rx-copy";
    /// What a front end writes so that the back end copies; the only way there is today.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Either end: it takes packets of several slots.
    pub const SG: &str = "feature-sg";
    /// Either end: it takes TCP over IPv4 that is still to be cut into segments.
    pub const GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Either end: the same over IPv6.
    pub const GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Either end: it does *not* take blank checksums of TCP and UDP over IPv4. Absent means that it takes them.
    pub const NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Either end: it takes blank checksums of TCP and UDP over IPv6.
    pub const IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Back end: a channel for each direction may be had.
    pub const SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Front end: it notifies the back end of new receive requests.
    pub const RX_NOTIFY: &str = "feature-rx-notify";
    /// Back end: most pairs of rings.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
}

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

impl NetifExtraInfo {
    /// Segmentation: `size` bytes of payload in each segment.
    #[must_use]
    pub const fn gso(kind: NetGsoType, size: u16) -> Self {
        let [low, high] = size.to_le_bytes();
        let data = [low, high, kind.raw(), 0, 0, 0];
        Self { kind: NetExtraType::Gso.raw(), flags: 0, data }
    }

    /// What it says about segmentation: the raw [`NetGsoType`] and the bytes of payload in each segment.
    #[must_use]
    pub const fn as_gso(&self) -> (u8, u16) {
        let [low, high, kind, ..] = self.data;
        (kind, u16::from_le_bytes([low, high]))
    }

    /// The extra information in a slot of the sending ring.
    #[must_use]
    pub fn from_tx_slot(slot: &NetifTxRequest) -> Self {
        // The slot is longer: its first bytes are the structure.
        Self::read_from_prefix(slot.as_bytes()).map_or(Self::default(), |(info, _)| info)
    }

    /// A slot of the sending ring that holds this.
    #[must_use]
    pub fn to_tx_slot(self) -> NetifTxRequest {
        let mut slot = NetifTxRequest::default();
        for (to, from) in slot.as_mut_bytes().iter_mut().zip(self.as_bytes()) {
            *to = *from;
        }
        slot
    }

    /// The extra information in a response of the receiving ring.
    #[must_use]
    pub const fn from_rx_slot(slot: NetifRxResponse) -> Self {
        zerocopy::transmute!(slot)
    }

    /// A response of the receiving ring that holds this.
    #[must_use]
    pub const fn to_rx_slot(self) -> NetifRxResponse {
        zerocopy::transmute!(self)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_travels_in_slots_of_either_ring() {
        let info = NetifExtraInfo::gso(NetGsoType::TcpV6, 1440);
        assert_eq!(info.as_bytes(), [1, 0, 0xa0, 0x05, 2, 0, 0, 0]);
        assert_eq!(info.as_gso(), (2, 1440));
        assert_eq!(NetifExtraInfo::from_tx_slot(&info.to_tx_slot()), info);
        assert_eq!(NetifExtraInfo::from_rx_slot(info.to_rx_slot()), info);
    }
}
