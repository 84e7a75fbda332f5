//! Ring requests: decoded once, checked against the disk, and answered.
//!
//! A request is a private copy of what the front end wrote, so what is checked here is what is carried out. A
//! request that is wrong in itself is answered with an error; it never stops the ring.

use alloc::vec::Vec;

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::GrantRef;
use pv_abi::io::blkif::{
    BlkifOp, BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse,
    BlkifStatus, DiscardFlags, MAX_SEGMENTS, SECTOR_SIZE, SECTORS_PER_PAGE,
};
use zerocopy::FromBytes;

/// Segments of an indirect request that are offered to front ends. They fit one page of segments, and with
/// room to spare one request of the disk's driver.
pub const MAX_INDIRECT_SEGMENTS: usize = 64;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Disk to guest.
    Read,
    /// Guest to disk.
    Write,
    /// What was written reaches stable storage.
    Flush,
    /// The contents of so many sectors are needed no more.
    Discard(u64),
}

/// A run of bytes in a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: GrantRef,
    /// First byte; a multiple of the sector size.
    pub offset: u16,
    /// Bytes, whole sectors within the page; not zero.
    pub len: u16,
}

/// The disk as far as requests must fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// No writes.
    pub read_only: bool,
    /// Whether discards are offered.
    pub discard: bool,
}

/// Who asked, for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    id: u64,
    operation: u8,
}

/// A request that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// For the answer.
    pub ticket: Ticket,
    /// What to do.
    pub action: Action,
    /// First sector.
    pub sector: u64,
    /// The guest's memory, in order.
    pub segments: Vec<Segment>,
}

/// An indirect request whose segments are still in the guest's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    ticket: Ticket,
    action: Action,
    sector: u64,
    count: usize,
    /// The page that holds the segments.
    pub page: GrantRef,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Carry it out.
    Run(Work),
    /// Fetch its page of segments and go on with [`Indirect::decode`].
    Fetch(Indirect),
    /// It is over already.
    Answer(BlkifResponse),
}

impl Ticket {
    /// The answer.
    #[must_use]
    pub fn answer(self, status: BlkifStatus) -> BlkifResponse {
        let status = status.raw();
        BlkifResponse { id: self.id, operation: self.operation, status, ..BlkifResponse::default() }
    }
}

impl Indirect {
    /// Bytes of the page that are needed.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.count * size_of::<BlkifRequestSegment>()
    }

    /// For the answer when the page cannot be had.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Goes on with a copy of the page's first [`Indirect::bytes`] bytes.
    #[must_use]
    pub fn decode(&self, page: &[u8], disk: Geometry) -> Decoded {
        let raw: Vec<BlkifRequestSegment> = page
            .chunks_exact(size_of::<BlkifRequestSegment>())
            .take(self.count)
            .filter_map(|bytes| BlkifRequestSegment::read_from_bytes(bytes).ok())
            .collect();
        if raw.len() != self.count {
            return Decoded::Answer(self.ticket.answer(BlkifStatus::Error));
        }
        transfer(self.ticket, self.action, self.sector, &raw, disk)
    }
}

/// Looks at a request.
#[must_use]
pub fn decode(request: &BlkifRequest, disk: Geometry) -> Decoded {
    let ticket = Ticket { id: request.id, operation: request.operation };
    let count = usize::from(request.nr_segments);
    let segments = request.seg.get(..count);
    match (BlkifOp::from_raw(request.operation), segments) {
        (Some(BlkifOp::Read), Some(segments)) => {
            transfer(ticket, Action::Read, request.sector_number, segments, disk)
        }
        (Some(BlkifOp::Write), Some(segments)) => {
            transfer(ticket, Action::Write, request.sector_number, segments, disk)
        }
        // A flush that carries data is not offered; to take it for an empty one would lose the data.
        (Some(BlkifOp::FlushDiskcache), _) if count != 0 => {
            Decoded::Answer(ticket.answer(BlkifStatus::Error))
        }
        (Some(BlkifOp::FlushDiskcache), _) => {
            Decoded::Run(Work { ticket, action: Action::Flush, sector: 0, segments: Vec::new() })
        }
        (Some(BlkifOp::Discard), _) if disk.discard => discard(&request.as_discard(), disk),
        (Some(BlkifOp::Indirect), _) => indirect(&request.as_indirect()),
        (Some(BlkifOp::Read | BlkifOp::Write), None) => Decoded::Answer(ticket.answer(BlkifStatus::Error)),
        // Barriers are not offered, nor are discards where the disk has none.
        _ => Decoded::Answer(ticket.answer(BlkifStatus::OpNotSupp)),
    }
}

/// Discards that make the old contents unreadable are not offered: a disk may leave them where they are.
fn discard(request: &BlkifRequestDiscard, disk: Geometry) -> Decoded {
    let ticket = Ticket { id: request.id, operation: request.operation };
    if DiscardFlags::from_bits_retain(request.flag).contains(DiscardFlags::SECURE) {
        return Decoded::Answer(ticket.answer(BlkifStatus::OpNotSupp));
    }
    let (sector, count) = (request.sector_number, request.nr_sectors);
    let fits = sector.checked_add(count).is_some_and(|end| end <= disk.sectors);
    if count == 0 || disk.read_only || !fits {
        return Decoded::Answer(ticket.answer(BlkifStatus::Error));
    }
    Decoded::Run(Work { ticket, action: Action::Discard(count), sector, segments: Vec::new() })
}

fn indirect(request: &BlkifRequestIndirect) -> Decoded {
    // The answer names the operation inside.
    let ticket = Ticket { id: request.id, operation: request.indirect_op };
    let action = match BlkifOp::from_raw(request.indirect_op) {
        Some(BlkifOp::Read) => Action::Read,
        Some(BlkifOp::Write) => Action::Write,
        _ => return Decoded::Answer(ticket.answer(BlkifStatus::OpNotSupp)),
    };
    let count = usize::from(request.nr_segments);
    if count == 0 || count > MAX_INDIRECT_SEGMENTS {
        return Decoded::Answer(ticket.answer(BlkifStatus::Error));
    }
    let [first, ..] = request.indirect_grefs;
    let sector = request.sector_number;
    Decoded::Fetch(Indirect { ticket, action, sector, count, page: GrantRef::new(first) })
}

fn transfer(
    ticket: Ticket,
    action: Action,
    sector: u64,
    raw: &[BlkifRequestSegment],
    disk: Geometry,
) -> Decoded {
    match check(action, sector, raw, disk) {
        Some(segments) => Decoded::Run(Work { ticket, action, sector, segments }),
        None => Decoded::Answer(ticket.answer(BlkifStatus::Error)),
    }
}

fn check(action: Action, sector: u64, raw: &[BlkifRequestSegment], disk: Geometry) -> Option<Vec<Segment>> {
    if raw.is_empty() || (action == Action::Write && disk.read_only) {
        return None;
    }
    let segments: Vec<Segment> = raw.iter().map(segment).collect::<Option<_>>()?;
    let bytes: usize = segments.iter().map(|segment| usize::from(segment.len)).sum();
    let sectors = u64::try_from(bytes / SECTOR_SIZE).ok()?;
    (sector.checked_add(sectors)? <= disk.sectors).then_some(segments)
}

fn segment(raw: &BlkifRequestSegment) -> Option<Segment> {
    let sector_bytes = u16::try_from(SECTOR_SIZE).ok()?;
    if raw.first_sect > raw.last_sect || raw.last_sect >= SECTORS_PER_PAGE {
        return None;
    }
    let count = u16::from(raw.last_sect) - u16::from(raw.first_sect) + 1;
    let (offset, len) = (u16::from(raw.first_sect) * sector_bytes, count * sector_bytes);
    Some(Segment { gref: GrantRef::new(raw.gref), offset, len })
}

// A page's sectors fit the page, and a direct request fits the ring's slot.
const _: () = assert!(SECTORS_PER_PAGE as usize * SECTOR_SIZE == PAGE_SIZE);
const _: () = assert!(MAX_SEGMENTS <= MAX_INDIRECT_SEGMENTS);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    const DISK: Geometry = Geometry { sectors: 100, read_only: false, discard: true };

    fn request(op: BlkifOp, sector: u64, segments: &[(u32, u8, u8)]) -> BlkifRequest {
        let mut request = BlkifRequest {
            operation: op.raw(),
            nr_segments: u8::try_from(segments.len()).expect("few"),
            id: 77,
            sector_number: sector,
            ..BlkifRequest::default()
        };
        for (slot, &(gref, first_sect, last_sect)) in request.seg.iter_mut().zip(segments) {
            *slot = BlkifRequestSegment { gref, first_sect, last_sect, _pad: 0 };
        }
        request
    }

    fn discarding(sector_number: u64, nr_sectors: u64) -> BlkifRequest {
        let operation = BlkifOp::Discard.raw();
        BlkifRequestDiscard { operation, id: 5, sector_number, nr_sectors, ..Default::default() }.into()
    }

    #[test]
    fn a_discard_stays_on_the_disk() {
        let Decoded::Run(work) = decode(&discarding(90, 10), DISK) else { panic!("refused") };
        assert_eq!((work.action, work.sector, work.segments.len()), (Action::Discard(10), 90, 0));
        let error = Some(BlkifStatus::Error.raw());
        for (sector, count) in [(90, 11), (0, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(status(decode(&discarding(sector, count), DISK)), error, "{sector} {count}");
        }
        let read_only = Geometry { read_only: true, ..DISK };
        assert_eq!(status(decode(&discarding(0, 1), read_only)), error);
    }

    fn status(decoded: Decoded) -> Option<i16> {
        match decoded {
            Decoded::Answer(answer) => Some(answer.status),
            _ => None,
        }
    }

    #[test]
    fn a_good_request_is_taken_apart() {
        let Decoded::Run(work) = decode(&request(BlkifOp::Write, 88, &[(5, 0, 7), (6, 2, 5)]), DISK) else {
            panic!("refused");
        };
        assert_eq!(work.action, Action::Write);
        let expected = vec![
            Segment { gref: GrantRef::new(5), offset: 0, len: 4096 },
            Segment { gref: GrantRef::new(6), offset: 1024, len: 2048 },
        ];
        assert_eq!((work.sector, work.segments), (88, expected));
        let answer = work.ticket.answer(BlkifStatus::Okay);
        assert_eq!((answer.id, answer.operation, answer.status), (77, BlkifOp::Write.raw(), 0));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let error = Some(BlkifStatus::Error.raw());
        for bad in [
            request(BlkifOp::Read, 93, &[(1, 0, 7)]),
            request(BlkifOp::Read, u64::MAX, &[(1, 0, 7)]),
            request(BlkifOp::Read, 0, &[(1, 5, 4)]),
            request(BlkifOp::Read, 0, &[(1, 0, 8)]),
            request(BlkifOp::Read, 0, &[]),
            BlkifRequest { nr_segments: 12, ..request(BlkifOp::Read, 0, &[(1, 0, 7)]) },
            request(BlkifOp::FlushDiskcache, 0, &[(1, 0, 7)]),
        ] {
            assert_eq!(status(decode(&bad, DISK)), error, "{bad:?}");
        }
        let read_only = Geometry { read_only: true, ..DISK };
        assert_eq!(status(decode(&request(BlkifOp::Write, 0, &[(1, 0, 0)]), read_only)), error);
        assert_eq!(status(decode(&request(BlkifOp::Read, 92, &[(1, 0, 7)]), DISK)), None);
    }

    #[test]
    fn what_is_not_offered_is_not_supported() {
        let not_supported = Some(BlkifStatus::OpNotSupp.raw());
        assert_eq!(status(decode(&request(BlkifOp::WriteBarrier, 0, &[(1, 0, 0)]), DISK)), not_supported);
        let without = Geometry { discard: false, ..DISK };
        assert_eq!(status(decode(&discarding(0, 1), without)), not_supported);
        let secure = BlkifRequestDiscard { flag: 1, ..discarding(0, 1).as_discard() };
        assert_eq!(status(decode(&secure.into(), DISK)), not_supported);
        let unknown = BlkifRequest { operation: 200, ..BlkifRequest::default() };
        assert_eq!(status(decode(&unknown, DISK)), not_supported);
    }

    #[test]
    fn indirect_segments_come_from_the_page() {
        let head = BlkifRequestIndirect {
            operation: BlkifOp::Indirect.raw(),
            indirect_op: BlkifOp::Read.raw(),
            nr_segments: 12,
            id: 9,
            indirect_grefs: [33; 8],
            ..BlkifRequestIndirect::default()
        };
        let Decoded::Fetch(indirect) = decode(&head.into(), DISK) else { panic!("refused") };
        assert_eq!((indirect.page, indirect.bytes()), (GrantRef::new(33), 96));
        let segment = BlkifRequestSegment { gref: 4, first_sect: 0, last_sect: 7, _pad: 0 };
        let page: Vec<u8> = (0..12).flat_map(|_| segment.as_bytes().to_vec()).collect();
        let Decoded::Run(work) = indirect.decode(&page, DISK) else { panic!("refused") };
        assert_eq!(work.segments.len(), 12);
        assert!(status(indirect.decode(&page[..95], DISK)).is_some());
        for count in [0, 65, u16::MAX] {
            let bad = BlkifRequestIndirect { nr_segments: count, ..head };
            assert!(status(decode(&bad.into(), DISK)).is_some(), "{count}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_runs_leaves_disk_or_page(bytes in prop::collection::vec(any::<u8>(), 112), op in 0_u8..8) {
            let mut request = BlkifRequest::read_from_bytes(&bytes).expect("size");
            request.operation = op;
            request.sector_number %= 200;
            if let Decoded::Run(work) = decode(&request, DISK) {
                let mut bytes: u64 = work.segments.iter().map(|segment| u64::from(segment.len)).sum();
                if let Action::Discard(sectors) = work.action {
                    bytes = sectors * 512;
                }
                prop_assert!(work.sector + bytes / 512 <= DISK.sectors);
                for segment in &work.segments {
                    prop_assert!(segment.len != 0 && segment.offset % 512 == 0);
                    prop_assert!(usize::from(segment.offset) + usize::from(segment.len) <= PAGE_SIZE);
                }
            }
        }
    }
}
