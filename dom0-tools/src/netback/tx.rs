//! Slots of the sending ring put together to packets.
//!
//! A packet is one slot or several, `MORE_DATA` telling that another follows. The first slot's size is that of the whole
//! packet; extra information takes slots of its own after the first. All slots of a packet are published together.
//!
//! | what is wrong | what follows |
//! |---|---|
//! | slots missing, more than [`MAX_SLOTS`], extra information of no known kind | the ring has lost its meaning: it is given up |
//! | a size, an offset, segmentation that cannot be, what is not offered | the packet is answered with an error |
//!
//! Every slot that was taken gets its answer, in the order of the ring.

use alloc::vec::Vec;
use core::ops::Range;

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::GrantRef;
use pv_abi::io::netif::{
    NetExtraFlags, NetExtraType, NetGsoType, NetTxFlags, NetifExtraInfo, NetifStatus, NetifTxRequest,
    NetifTxResponse,
};
use pv_abi::io::ring::RingError;

use crate::net::{Checksum, ETH_HEADER, Gso, Meta};

/// Most slots of data of one packet. The ABI asks for 18; front ends with larger packets than they should have exist.
pub const MAX_SLOTS: usize = 20;
/// Most slots of extra information of one packet: one of each kind.
const MAX_EXTRAS: usize = NetExtraType::ALL.len();

/// Why a ring is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxFault {
    /// Its indices are impossible.
    Ring(RingError),
    /// A packet lacks slots that its other slots promise.
    MissingSlots,
    /// A packet has more slots than any may have.
    TooManySlots,
    /// Extra information of a kind that is not in the ABI.
    UnknownExtra(u8),
}

impl From<RingError> for TxFault {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl core::fmt::Display for TxFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::MissingSlots => f.write_str("a packet lacks slots"),
            Self::TooManySlots => f.write_str("a packet has too many slots"),
            Self::UnknownExtra(kind) => write!(f, "extra information of unknown kind {kind}"),
        }
    }
}

/// A run of bytes in a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The page.
    pub gref: GrantRef,
    /// First byte.
    pub offset: u16,
    /// Bytes.
    pub len: u16,
    /// For the answer.
    id: u16,
}

/// A packet: which of the batch's slots it has and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    slots: Range<usize>,
    extras: usize,
    /// Bytes.
    pub len: usize,
    /// What the front end says about it.
    pub meta: Meta,
    /// Whether it can be sent.
    pub is_good: bool,
}

/// Packets taken off a ring together. Its memory is used again and again.
#[derive(Debug, Default)]
pub struct Batch {
    packets: Vec<Packet>,
    slots: Vec<Slot>,
}

/// Where slots come from: a ring, usually. `None` when there are no more.
pub type Source<'s> = &'s mut dyn FnMut() -> Result<Option<NetifTxRequest>, RingError>;

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { packets: Vec::new(), slots: Vec::new() }
    }

    /// Forgets its packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.slots.clear();
    }

    /// The packets.
    #[must_use]
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// How many slots of data there are.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// A packet's slots.
    #[must_use]
    pub fn slots(&self, packet: &Packet) -> &[Slot] {
        self.slots.get(packet.slots.clone()).unwrap_or_default()
    }

    /// The packet of this number cannot be sent after all.
    pub fn spoil(&mut self, number: usize) {
        if let Some(packet) = self.packets.get_mut(number) {
            packet.is_good = false;
        }
    }

    /// Takes the next packet; false if there is none.
    ///
    /// # Errors
    /// The ring has to be given up. What was taken before can still be answered.
    pub fn take(&mut self, source: Source<'_>) -> Result<bool, TxFault> {
        let Some(first) = source()? else { return Ok(false) };
        let start = self.slots.len();
        let flags = NetTxFlags::from_bits_retain(first.flags);
        let mut packet = Packet {
            slots: start..start,
            extras: 0,
            len: first.size.into(),
            meta: Meta::default(),
            is_good: true,
        };
        packet.meta.checksum = if flags.contains(NetTxFlags::CSUM_BLANK) {
            Checksum::Blank
        } else if flags.contains(NetTxFlags::DATA_VALIDATED) {
            Checksum::Good
        } else {
            Checksum::Unknown
        };
        if flags.contains(NetTxFlags::EXTRA_INFO) {
            take_extras(&mut packet, source)?;
        }
        self.slots.push(slot(&first));
        let mut more = flags.contains(NetTxFlags::MORE_DATA);
        while more {
            let next = source()?.ok_or(TxFault::MissingSlots)?;
            if self.slots.len() - start == MAX_SLOTS {
                return Err(TxFault::TooManySlots);
            }
            self.slots.push(slot(&next));
            more = NetTxFlags::from_bits_retain(next.flags).contains(NetTxFlags::MORE_DATA);
        }
        packet.slots = start..self.slots.len();
        packet.is_good &= check(packet.len, self.slots.get_mut(start..).unwrap_or_default());
        self.packets.push(packet);
        Ok(true)
    }

    /// The answers to a packet's slots.
    pub fn answers(&self, packet: &Packet) -> impl Iterator<Item = NetifTxResponse> + '_ {
        let status = if packet.is_good { NetifStatus::Okay } else { NetifStatus::Error };
        let answer = |slot: &Slot, status: NetifStatus| NetifTxResponse { id: slot.id, status: status.raw() };
        let slots = self.slots.get(packet.slots.clone()).unwrap_or_default();
        let (first, rest) = slots.split_at(slots.len().min(1));
        // Answers to extra information repeat the packet's id; nobody looks at it.
        let extras = first.iter().cycle().take(if first.is_empty() { 0 } else { packet.extras });
        first
            .iter()
            .map(move |slot| answer(slot, status))
            .chain(extras.map(move |slot| answer(slot, NetifStatus::Null)))
            .chain(rest.iter().map(move |slot| answer(slot, status)))
    }
}

fn slot(request: &NetifTxRequest) -> Slot {
    let NetifTxRequest { gref, offset, id, size, .. } = *request;
    Slot { gref: GrantRef::new(gref), offset, len: size, id }
}

/// Settles the first slot's own length and says whether the packet can be.
fn check(len: usize, slots: &mut [Slot]) -> bool {
    let Some((first, rest)) = slots.split_first_mut() else { return false };
    let others: usize = rest.iter().map(|slot| usize::from(slot.len)).sum();
    let Some(own) = len.checked_sub(others).and_then(|own| u16::try_from(own).ok()) else { return false };
    first.len = own;
    let fits = |slot: &Slot| slot.len != 0 && usize::from(slot.offset) + usize::from(slot.len) <= PAGE_SIZE;
    len >= ETH_HEADER && fits(first) && rest.iter().all(fits)
}

fn take_extras(packet: &mut Packet, source: Source<'_>) -> Result<(), TxFault> {
    loop {
        let raw = source()?.ok_or(TxFault::MissingSlots)?;
        let extra = NetifExtraInfo::from_tx_slot(&raw);
        if packet.extras == MAX_EXTRAS {
            return Err(TxFault::TooManySlots);
        }
        packet.extras += 1;
        match NetExtraType::from_raw(extra.kind) {
            Some(NetExtraType::Gso) => match gso(&extra) {
                // What is to be cut has no checksum yet, whatever its flags say.
                Some(gso) => packet.meta = Meta { checksum: Checksum::Blank, gso: Some(gso) },
                None => packet.is_good = false,
            },
            // Not offered.
            Some(NetExtraType::McastAdd | NetExtraType::McastDel | NetExtraType::Hash) => {
                packet.is_good = false
            }
            Some(NetExtraType::None) | None => return Err(TxFault::UnknownExtra(extra.kind)),
        }
        if !NetExtraFlags::from_bits_retain(extra.flags).contains(NetExtraFlags::MORE) {
            return Ok(());
        }
    }
}

fn gso(extra: &NetifExtraInfo) -> Option<Gso> {
    let (kind, size) = extra.as_gso();
    let v6 = match NetGsoType::from_raw(kind)? {
        NetGsoType::TcpV4 => false,
        NetGsoType::TcpV6 => true,
        NetGsoType::None => return None,
    };
    (size != 0).then_some(Gso { v6, size })
}

#[cfg(test)]
mod tests;
