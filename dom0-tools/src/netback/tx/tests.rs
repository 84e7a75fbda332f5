use super::*;
use alloc::collections::VecDeque;
use alloc::vec;
use core::sync::atomic::{AtomicU32, Ordering};
use proptest::prelude::*;
use pv_abi::io::netif::NetifTx;
use pv_abi::io::ring::{BackRing, FrontRing, REQ_PROD};

fn request(id: u16, offset: u16, size: u16, flags: NetTxFlags) -> NetifTxRequest {
    NetifTxRequest { gref: u32::from(id) + 100, offset, flags: flags.bits(), id, size }
}

fn gso_slot(kind: u8, size: u16, more: bool) -> NetifTxRequest {
    let mut info = NetifExtraInfo::gso(NetGsoType::TcpV4, size);
    info.data[2] = kind;
    info.flags = u8::from(more);
    info.to_tx_slot()
}

fn take(slots: &[NetifTxRequest]) -> (Batch, Result<bool, TxFault>, usize) {
    let mut queue: VecDeque<NetifTxRequest> = slots.iter().copied().collect();
    let mut batch = Batch::new();
    let taken = batch.take(&mut || Ok(queue.pop_front()));
    (batch, taken, queue.len())
}

fn one(slots: &[NetifTxRequest]) -> (Batch, Packet) {
    let (batch, taken, left) = take(slots);
    assert_eq!((taken, left), (Ok(true), 0));
    let packet = batch.packets()[0].clone();
    (batch, packet)
}

fn statuses(batch: &Batch, packet: &Packet) -> Vec<(u16, i16)> {
    batch.answers(packet).map(|answer| (answer.id, answer.status)).collect()
}

const MORE: NetTxFlags = NetTxFlags::MORE_DATA;
const LAST: NetTxFlags = NetTxFlags::empty();

#[test]
fn a_packet_of_one_slot() {
    let (batch, packet) = one(&[request(7, 96, 60, NetTxFlags::CSUM_BLANK)]);
    assert!(packet.is_good);
    assert_eq!((packet.len, packet.meta), (60, Meta { checksum: Checksum::Blank, gso: None }));
    assert_eq!(batch.slots(&packet), [Slot { gref: GrantRef::new(107), offset: 96, len: 60, id: 7 }]);
    assert_eq!(statuses(&batch, &packet), [(7, 0)]);
}

#[test]
fn a_large_packet_with_segmentation() {
    let flags = MORE | NetTxFlags::EXTRA_INFO | NetTxFlags::DATA_VALIDATED;
    let (batch, packet) = one(&[
        request(1, 0, 8258, flags),
        gso_slot(1, 1448, false),
        request(2, 0, 4096, MORE),
        request(3, 0, 4096, LAST),
    ]);
    assert!(packet.is_good);
    let gso = Some(Gso { v6: false, size: 1448 });
    assert_eq!(packet.meta, Meta { checksum: Checksum::Blank, gso });
    let lens: Vec<u16> = batch.slots(&packet).iter().map(|slot| slot.len).collect();
    assert_eq!(lens, [66, 4096, 4096]);
    assert_eq!(statuses(&batch, &packet), [(1, 0), (1, 1), (2, 0), (3, 0)]);
}

#[test]
fn what_cannot_be_is_answered_with_an_error() {
    let bad: [&[NetifTxRequest]; 10] = [
        // Shorter than a header, beyond its page.
        &[request(1, 0, 13, LAST)],
        &[request(1, 4000, 97, LAST)],
        &[request(1, 65535, 65535, LAST)],
        // The parts are more than the whole, or the whole is in no part.
        &[request(1, 0, 100, MORE), request(2, 0, 101, LAST)],
        &[request(1, 0, 100, MORE), request(2, 0, 100, LAST)],
        &[request(1, 0, 65535, MORE), request(2, 0, 1, LAST)],
        &[request(1, 0, 100, MORE), request(2, 0, 0, LAST)],
        // Segmentation of no kind, of no size; what is not offered.
        &[request(1, 0, 100, NetTxFlags::EXTRA_INFO), gso_slot(3, 1448, false)],
        &[request(1, 0, 100, NetTxFlags::EXTRA_INFO), gso_slot(1, 0, false)],
        &[
            request(1, 0, 100, NetTxFlags::EXTRA_INFO),
            NetifExtraInfo { kind: 2, flags: 0, data: [1; 6] }.to_tx_slot(),
        ],
    ];
    for slots in bad {
        let (batch, packet) = one(slots);
        assert!(!packet.is_good, "{slots:?}");
        let answers = statuses(&batch, &packet);
        assert_eq!(answers.len(), slots.len());
        assert!(answers.iter().all(|(_, status)| [-1, 1].contains(status)), "{slots:?}");
    }
}

#[test]
fn what_has_no_meaning_ends_the_ring() {
    let fault = |slots: &[NetifTxRequest]| take(slots).1.unwrap_err();
    assert_eq!(fault(&[request(1, 0, 100, MORE)]), TxFault::MissingSlots);
    assert_eq!(fault(&[request(1, 0, 100, NetTxFlags::EXTRA_INFO)]), TxFault::MissingSlots);
    assert_eq!(
        fault(&[request(1, 0, 100, NetTxFlags::EXTRA_INFO), gso_slot(1, 1, true)]),
        TxFault::MissingSlots
    );
    assert_eq!(fault(&vec![request(1, 0, 100, MORE); MAX_SLOTS + 1]), TxFault::TooManySlots);
    let mut extras = vec![request(1, 0, 100, NetTxFlags::EXTRA_INFO)];
    extras.extend(vec![gso_slot(1, 1448, true); MAX_EXTRAS + 1]);
    assert_eq!(fault(&extras), TxFault::TooManySlots);
    for kind in [0, 5, 255] {
        let info = NetifExtraInfo { kind, flags: 0, data: [0; 6] };
        let slots = [request(1, 0, 100, NetTxFlags::EXTRA_INFO), info.to_tx_slot()];
        assert_eq!(fault(&slots), TxFault::UnknownExtra(kind));
    }
}

proptest! {
    /// A ring full of anything: what is accepted fits, and every slot that was taken is answered once.
    #[test]
    fn any_ring_is_survived(
        raw in proptest::collection::vec((any::<u32>(), 0..5000_u16, 0..16_u16, any::<u16>(), 0..9000_u16), 1..256),
        jump in prop_oneof![3 => Just(0_u32), 1 => any::<u32>()],
    ) {
        let words: Vec<AtomicU32> = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut front = FrontRing::<NetifTx>::init(&words).unwrap();
        for (gref, offset, flags, id, size) in &raw {
            front.put_request(&words, &NetifTxRequest { gref: *gref, offset: *offset, flags: *flags, id: *id, size: *size }).unwrap();
        }
        front.push(&words).unwrap();
        words[REQ_PROD].fetch_add(jump, Ordering::Relaxed);
        let mut back = BackRing::<NetifTx>::attach(&words).unwrap();
        let mut batch = Batch::new();
        let fault = loop {
            match batch.take(&mut || back.take_request(&words)) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(fault) => break Some(fault),
            }
        };
        for packet in batch.packets() {
            if packet.is_good {
                let slots = batch.slots(packet);
                prop_assert_eq!(slots.iter().map(|slot| usize::from(slot.len)).sum::<usize>(), packet.len);
                prop_assert!(slots.len() <= MAX_SLOTS && packet.len >= ETH_HEADER);
                prop_assert!(slots.iter().all(|slot| usize::from(slot.offset) + usize::from(slot.len) <= PAGE_SIZE));
                prop_assert!(packet.meta.gso.is_none_or(|gso| gso.size != 0));
            }
        }
        let answers: u32 = batch.packets().iter().map(|packet| u32::try_from(batch.answers(packet).count()).unwrap()).sum();
        if fault.is_none() {
            prop_assert_eq!(answers, back.in_hand());
        } else {
            prop_assert!(answers <= back.in_hand());
        }
        if jump > 256 {
            prop_assert!(fault.is_some() || answers == 0 || raw.len() as u64 + u64::from(jump) > u64::from(u32::MAX));
        }
    }
}
