//! A packet laid out over the slots of the receiving ring.
//!
//! A packet lies in pieces, one piece per page of ours; each slot is a page of the guest's. Where the pieces already fit
//! the guest's slots they keep their shape, so that one copy does for each; otherwise they are packed, slot after slot.
//! Answers come in the order of the requests, for front ends know their pages by the place in the ring.

use pv_abi::frame::PAGE_SIZE;
use pv_abi::io::netif::{NetGsoType, NetRxFlags, NetifExtraInfo, NetifRxResponse, NetifStatus};

use crate::net::{Checksum, Gso, Meta};

/// Most slots of data that every front end takes for one packet.
pub const MAX_SLOTS: usize = 17;
/// A first slot of at most so many bytes is copied away by front ends and does not count.
const SMALL_FIRST: usize = 256;

/// How a packet is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    slots: usize,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Each piece in a slot.
    Kept,
    /// Slots filled one after another.
    Packed,
}

/// A run of bytes from a piece to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which piece.
    pub piece: usize,
    /// First byte within the piece.
    pub from: usize,
    /// Which slot.
    pub slot: usize,
    /// First byte within the slot's page.
    pub to: usize,
    /// Bytes.
    pub len: usize,
}

impl Layout {
    /// Lays out a packet in pieces of these lengths. `None` if the front end cannot take it.
    #[must_use]
    pub fn of(pieces: &[usize], several_slots: bool) -> Option<Self> {
        let len: usize = pieces.iter().sum();
        let packed = len.div_ceil(PAGE_SIZE).max(1);
        if packed == 1 {
            return (len != 0).then_some(Self { shape: Shape::Packed, slots: 1, len });
        }
        if !several_slots || packed > MAX_SLOTS {
            return None;
        }
        let most = MAX_SLOTS + usize::from(pieces.first().is_some_and(|first| *first <= SMALL_FIRST));
        let fits = pieces.iter().all(|piece| (1..=PAGE_SIZE).contains(piece));
        // A slot more than needed is cheaper than two copies for each page.
        if fits && pieces.len() <= most.min(packed + 1) {
            return Some(Self { shape: Shape::Kept, slots: pieces.len(), len });
        }
        Some(Self { shape: Shape::Packed, slots: packed, len })
    }

    /// Slots of data.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Slots of the ring, with the one that extra information takes.
    #[must_use]
    pub fn ring_slots(&self, meta: Meta) -> usize {
        self.slots + usize::from(meta.gso.is_some())
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_len(&self, pieces: &[usize], slot: usize) -> usize {
        match self.shape {
            Shape::Kept => pieces.get(slot).copied().unwrap_or(0),
            Shape::Packed => PAGE_SIZE.min(self.len.saturating_sub(slot * PAGE_SIZE)),
        }
    }

    /// Calls `run` for every run of bytes, in order; the first error ends it.
    ///
    /// # Errors
    /// Whatever `run` says.
    pub fn runs<E>(&self, pieces: &[usize], run: &mut dyn FnMut(Run) -> Result<(), E>) -> Result<(), E> {
        let mut at = 0;
        for (piece, &len) in pieces.iter().enumerate() {
            if self.shape == Shape::Kept {
                run(Run { piece, from: 0, slot: piece, to: 0, len })?;
                continue;
            }
            let mut from = 0;
            while from < len {
                let (slot, to) = (at / PAGE_SIZE, at % PAGE_SIZE);
                let part = (len - from).min(PAGE_SIZE - to);
                run(Run { piece, from, slot, to, len: part })?;
                from += part;
                at += part;
            }
        }
        Ok(())
    }

    /// The answer of a data slot. `good` is false if a copy into it failed.
    #[must_use]
    pub fn answer(&self, pieces: &[usize], meta: Meta, slot: usize, id: u16, good: bool) -> NetifRxResponse {
        let mut flags = NetRxFlags::empty();
        if slot + 1 < self.slots {
            flags |= NetRxFlags::MORE_DATA;
        }
        if slot == 0 {
            flags |= match meta.checksum {
                Checksum::Unknown => NetRxFlags::empty(),
                Checksum::Blank => NetRxFlags::CSUM_BLANK | NetRxFlags::DATA_VALIDATED,
                Checksum::Good => NetRxFlags::DATA_VALIDATED,
            };
            if meta.gso.is_some() {
                flags |= NetRxFlags::EXTRA_INFO;
            }
        }
        let len = i16::try_from(self.slot_len(pieces, slot)).unwrap_or(NetifStatus::Error.raw());
        let status = if good { len } else { NetifStatus::Error.raw() };
        NetifRxResponse { id, offset: 0, flags: flags.bits(), status }
    }
}

/// The slot that tells of segmentation; it follows the first.
#[must_use]
pub fn gso_slot(gso: Gso) -> NetifRxResponse {
    let kind = if gso.v6 { NetGsoType::TcpV6 } else { NetGsoType::TcpV4 };
    NetifExtraInfo::gso(kind, gso.size).to_rx_slot()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn shapes_are_kept_where_they_fit() {
        let large = [&[66][..], &[4096; 15]].concat();
        let layout = Layout::of(&large, true).unwrap();
        assert_eq!((layout.shape, layout.slots()), (Shape::Kept, 16));
        // A packet in many small pieces, and one that goes into a page.
        assert_eq!(Layout::of(&[1000; 10], true).unwrap().slots(), 3);
        assert_eq!(Layout::of(&[54, 1460], false).unwrap().slots(), 1);
        assert_eq!(Layout::of(&large, false), None);
        assert_eq!(Layout::of(&[], true), None);
        // Eighteen pieces are one too many unless the first is small.
        let pieces = |first| [&[first][..], &[3000; 17]].concat();
        assert_eq!(Layout::of(&pieces(257), true).unwrap().shape, Shape::Packed);
    }

    #[test]
    fn answers_tell_what_the_packet_is() {
        let gso = Gso { v6: false, size: 1448 };
        let meta = Meta { checksum: Checksum::Blank, gso: Some(gso) };
        let pieces = [66, 4096, 4096];
        let layout = Layout::of(&pieces, true).unwrap();
        assert_eq!(layout.ring_slots(meta), 4);
        let first = layout.answer(&pieces, meta, 0, 5, true);
        assert_eq!((first.id, first.offset, first.flags, first.status), (5, 0, 0b1111, 66));
        assert_eq!(layout.answer(&pieces, meta, 1, 6, true).flags, NetRxFlags::MORE_DATA.bits());
        let last = layout.answer(&pieces, meta, 2, 7, false);
        assert_eq!((last.flags, last.status), (0, -1));
        assert_eq!(NetifExtraInfo::from_rx_slot(gso_slot(gso)).as_gso(), (1, 1448));
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(pieces in proptest::collection::vec(1..=4096_usize, 1..20)) {
            let len: usize = pieces.iter().sum();
            let Some(layout) = Layout::of(&pieces, true) else {
                prop_assert!(len > MAX_SLOTS * PAGE_SIZE);
                return Ok(());
            };
            prop_assert!(layout.slots() <= MAX_SLOTS + 1);
            let mut slots: Vec<Vec<(usize, usize)>> = vec![vec![]; layout.slots()];
            layout.runs::<()>(&pieces, &mut |run| {
                assert_eq!(run.to, slots[run.slot].len(), "no gaps");
                slots[run.slot].extend((run.from..run.from + run.len).map(|byte| (run.piece, byte)));
                Ok(())
            }).unwrap();
            for (number, slot) in slots.iter().enumerate() {
                prop_assert!((1..=PAGE_SIZE).contains(&slot.len()));
                prop_assert_eq!(slot.len(), layout.slot_len(&pieces, number));
            }
            let expected: Vec<(usize, usize)> =
                pieces.iter().enumerate().flat_map(|(piece, len)| (0..*len).map(move |byte| (piece, byte))).collect();
            prop_assert_eq!(slots.concat(), expected);
        }
    }
}
