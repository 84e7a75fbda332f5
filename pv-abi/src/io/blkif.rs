//! Block devices: the 64-bit native protocol.
//!
//! Every request occupies one slot of 112 bytes; which of the structures it is, its first byte says. Sectors are 512
//! bytes, whatever the device's own are.

use zerocopy::{FromBytes, IntoBytes};

use super::ring::Protocol;

/// Segments of a direct request.
#[doc(alias = "BLKIF_MAX_SEGMENTS_PER_REQUEST")]
pub const MAX_SEGMENTS: usize = 11;
/// Pages of segments of an indirect request.
#[doc(alias = "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST")]
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments that a page of an indirect request holds.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = 512;
/// Bytes of a sector of the protocol.
pub const SECTOR_SIZE: usize = 512;
/// Sectors of a page.
pub const SECTORS_PER_PAGE: u8 = 8;

abi_enum! {
    /// Operations.
    pub enum BlkifOp: u8 {
        Read = 0, "BLKIF_OP_READ";
        Write = 1, "BLKIF_OP_WRITE";
        WriteBarrier = 2, "BLKIF_OP_WRITE_BARRIER";
        FlushDiskcache = 3, "BLKIF_OP_FLUSH_DISKCACHE";
        Discard = 5, "BLKIF_OP_DISCARD";
        Indirect = 6, "BLKIF_OP_INDIRECT";
    }
}

abi_enum! {
    /// Status of a response.
    pub enum BlkifStatus: i16 {
        Okay = 0, "BLKIF_RSP_OKAY";
        Error = -1, "BLKIF_RSP_ERROR";
        OpNotSupp = -2, "BLKIF_RSP_EOPNOTSUPP";
    }
}

bitflags::bitflags! {
    /// The `info` node of a virtual disk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VdiskFlags: u32 {
        /// A CD-ROM.
        #[doc(alias = "VDISK_CDROM")]
        const CDROM = 1;
        /// Removable.
        #[doc(alias = "VDISK_REMOVABLE")]
        const REMOVABLE = 2;
        /// Read only.
        #[doc(alias = "VDISK_READONLY")]
        const READONLY = 4;
    }

    /// `blkif_request_discard.flag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct DiscardFlags: u8 {
        /// Make the old contents unreadable.
        #[doc(alias = "BLKIF_DISCARD_SECURE")]
        const SECURE = 1;
    }
}

wire! {
    /// A part of a page.
    #[doc(alias = "blkif_request_segment")]
    pub struct BlkifRequestSegment {
        /// The page.
        pub gref: u32,
        /// First sector within it.
        pub first_sect: u8,
        /// Last sector within it.
        pub last_sect: u8,
        /// Padding.
        pub _pad: u16,
    }

    /// Read, write, barrier, flush; also the shape of a slot.
    #[doc(alias = "blkif_request")]
    pub struct BlkifRequest {
        /// [`BlkifOp`].
        pub operation: u8,
        /// How many of `seg` are used.
        pub nr_segments: u8,
        /// Device handle.
        pub handle: u16,
        /// Padding.
        pub _pad: u32,
        /// Chosen by the front end, repeated in the response.
        pub id: u64,
        /// First sector on the device.
        pub sector_number: u64,
        /// Segments.
        pub seg: [BlkifRequestSegment; MAX_SEGMENTS],
    }

    /// [`BlkifOp::Discard`].
    #[doc(alias = "blkif_request_discard")]
    pub struct BlkifRequestDiscard {
        /// [`BlkifOp`].
        pub operation: u8,
        /// [`DiscardFlags`].
        pub flag: u8,
        /// Device handle.
        pub handle: u16,
        /// Padding.
        pub _pad: u32,
        /// Chosen by the front end, repeated in the response.
        pub id: u64,
        /// First sector on the device.
        pub sector_number: u64,
        /// Sectors.
        pub nr_sectors: u64,
        /// The rest of the slot.
        pub _rest: [u8; 80],
    }

    /// [`BlkifOp::Indirect`].
    #[doc(alias = "blkif_request_indirect")]
    pub struct BlkifRequestIndirect {
        /// [`BlkifOp::Indirect`].
        pub operation: u8,
        /// What to do: read or write.
        pub indirect_op: u8,
        /// Segments in the pages.
        pub nr_segments: u16,
        /// Padding.
        pub _pad0: u32,
        /// Chosen by the front end, repeated in the response.
        pub id: u64,
        /// First sector on the device.
        pub sector_number: u64,
        /// Device handle.
        pub handle: u16,
        /// Padding.
        pub _pad1: u16,
        /// Pages of [`BlkifRequestSegment`]s.
        pub indirect_grefs: [u32; MAX_INDIRECT_PAGES],
        /// The rest of the slot.
        pub _rest: [u8; 52],
    }

    /// A response.
    #[doc(alias = "blkif_response")]
    pub struct BlkifResponse {
        /// Of the request.
        pub id: u64,
        /// Of the request.
        pub operation: u8,
        /// Padding.
        pub _pad0: u8,
        /// [`BlkifStatus`].
        pub status: i16,
        /// Padding.
        pub _pad1: u32,
    }
}

/// The block protocol.
#[derive(Clone, Copy, Debug)]
pub enum Blkif {}

impl Protocol for Blkif {
    type Request = BlkifRequest;
    type Response = BlkifResponse;
}

impl BlkifRequest {
    /// The slot seen as a discard.
    #[must_use]
    pub fn as_discard(&self) -> BlkifRequestDiscard {
        BlkifRequestDiscard::read_from_bytes(self.as_bytes()).unwrap_or_default()
    }

    /// The slot seen as an indirect request.
    #[must_use]
    pub fn as_indirect(&self) -> BlkifRequestIndirect {
        BlkifRequestIndirect::read_from_bytes(self.as_bytes()).unwrap_or_default()
    }
}

impl From<BlkifRequestDiscard> for BlkifRequest {
    fn from(request: BlkifRequestDiscard) -> Self {
        Self::read_from_bytes(request.as_bytes()).unwrap_or_default()
    }
}

impl From<BlkifRequestIndirect> for BlkifRequest {
    fn from(request: BlkifRequestIndirect) -> Self {
        Self::read_from_bytes(request.as_bytes()).unwrap_or_default()
    }
}

static_assertions::assert_eq_size!(BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect, [u8; 112]);
