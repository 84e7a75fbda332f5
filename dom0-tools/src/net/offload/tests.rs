use super::*;
use crate::net::testing::Plain;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A TCP packet with this much payload, checksum blank.
fn tcp(v6: bool, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(20 + payload).unwrap().to_be_bytes());
        frame.extend([6, 64]);
        frame.extend([0xfe; 16]);
        frame.extend([0xfd; 16]);
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(40 + payload).unwrap().to_be_bytes());
        frame.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 16]);
    }
    // Ports, sequence, acknowledgement, header length, flags CWR ACK PSH FIN, window, checksum, urgent.
    frame.extend([0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0xab, 0xcd, 0, 0]);
    frame.extend((0..payload).map(|n| u8::try_from(n % 251).unwrap()));
    frame
}

/// The sum, the slow way of the book.
fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

proptest! {
    #[test]
    fn sums_are_those_of_the_book(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut sum = Sum::default();
        sum.add(&bytes);
        prop_assert_eq!(u16::from_be_bytes(sum.finish()), plain_sum(&bytes));
    }

    #[test]
    fn any_frame_is_survived(mut frame in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..4, size in any::<u16>()) {
        if frame.len() > 24 {
            match kind {
                0 => frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]),
                1 => frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                2 => frame[12..19].copy_from_slice(&[0x81, 0, 0, 1, 8, 0, 0x45]),
                _ => {}
            }
            frame[if kind == 1 { 20 } else { 23 }] = 6;
        }
        let plain = Plain::new(&frame);
        let _ = is_right(&plain);
        for v6 in [false, true] {
            if let Ok(segments) = Segments::of(&plain, Gso { v6, size }) {
                prop_assert!(segments.count() <= 2);
                let mut out = [0; MAX_WIRE_FRAME];
                prop_assert!(segments.build(0, &mut out).is_some());
            }
        }
        if complete(&plain).is_ok() {
            prop_assert!(is_right(&plain));
        }
        prop_assert_eq!(plain.frame_len(), frame.len());
    }

    #[test]
    fn segments_carry_every_byte_once(v6 in any::<bool>(), payload in 0_usize..9000, size in MIN_SEGMENT..1440) {
        let whole = tcp(v6, payload);
        let plain = Plain::new(&whole);
        let segments = Segments::of(&plain, Gso { v6, size }).unwrap();
        let header = whole.len() - payload;
        let mut joined = Vec::new();
        let mut out = [0; MAX_WIRE_FRAME];
        for number in 0..segments.count() {
            let len = segments.build(number, &mut out).unwrap();
            let segment = Plain::new(&out[..len]);
            prop_assert!(is_right(&segment));
            let head = Head::of(&segment);
            prop_assert_eq!(head.headers().unwrap().end, len);
            if !v6 {
                prop_assert_eq!(plain_sum(&out[14..34]), 0);
            }
            let tcp = header - 20;
            let sequence = u32::from_be_bytes(out[tcp + 4..tcp + 8].try_into().unwrap());
            prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(u32::try_from(joined.len()).unwrap()));
            let last = number + 1 == segments.count();
            prop_assert_eq!(out[tcp + 13] & 0x09, if last { 0x09 } else { 0 });
            prop_assert_eq!(out[tcp + 13] & 0x80, if number == 0 { 0x80 } else { 0 });
            joined.extend_from_slice(&out[header..len]);
        }
        prop_assert_eq!(segments.build(segments.count(), &mut out), None);
        prop_assert_eq!(&joined[..], &whole[header..]);
    }
}

#[test]
fn a_blank_checksum_is_completed_whatever_stood_there() {
    for v6 in [false, true] {
        let plain = Plain::new(&tcp(v6, 333));
        assert!(!is_right(&plain));
        complete(&plain).unwrap();
        assert!(is_right(&plain));
    }
}

#[test]
fn padding_is_not_summed() {
    let mut frame = tcp(false, 1);
    frame.resize(60, 0x55);
    let plain = Plain::new(&frame);
    complete(&plain).unwrap();
    assert!(is_right(&plain));
}

#[test]
fn udp_never_writes_a_zero() {
    // A payload chosen so that the sum comes out as zero.
    let mut frame = tcp(false, 0);
    frame[23] = 17;
    let length = u16::try_from(frame.len() - 34).unwrap();
    frame[38..40].copy_from_slice(&length.to_be_bytes());
    let plain = Plain::new(&frame);
    complete(&plain).unwrap();
    let mut sum = [0; 2];
    plain.read(40, &mut sum);
    plain.write(44, &{
        let old = u32::from(u16::from_be_bytes([frame[44], frame[45]]));
        let new = (old + u32::from(u16::from_be_bytes(sum))) % 0xffff;
        u16::try_from(new).unwrap().to_be_bytes()
    });
    complete(&plain).unwrap();
    plain.read(40, &mut sum);
    assert_eq!(sum, [0xff, 0xff]);
    assert!(is_right(&plain));
}

#[test]
fn nonsense_is_refused() {
    let refused = |frame: &[u8], gso| Segments::of(&Plain::new(frame), gso).err();
    let good = tcp(false, 3000);
    let v4 = |size| Gso { v6: false, size };
    assert_eq!(refused(&good, v4(0)), Some(OffloadError::SegmentSize));
    assert_eq!(refused(&good, v4(MIN_SEGMENT - 1)), Some(OffloadError::SegmentSize));
    assert_eq!(refused(&good, v4(1600)), Some(OffloadError::SegmentSize));
    assert_eq!(refused(&good, Gso { v6: true, size: 1000 }), Some(OffloadError::NotTransport));
    assert_eq!(
        refused(&good[..200], v4(1000)),
        Some(OffloadError::NotTransport),
        "the IP header tells of more"
    );
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    assert_eq!(refused(&fragment, v4(1000)), Some(OffloadError::NotTransport));
    let mut udp = good;
    udp[23] = 17;
    assert_eq!(refused(&udp, v4(1000)), Some(OffloadError::NotTransport));
    assert_eq!(complete(&Plain::new(&[0; 60])), Err(OffloadError::NotTransport));
}

#[test]
fn a_receiver_gets_what_it_takes() {
    let frame = Plain::new(&tcp(false, 10));
    let blank = Meta { checksum: Checksum::Blank, gso: None };
    let large = Meta { checksum: Checksum::Blank, gso: Some(Gso { v6: false, size: 1448 }) };
    let all = Takes { blank_v4: true, blank_v6: true, gso_v4: true, gso_v6: true, several_pages: true };
    assert_eq!(need(&frame, blank, all), Need::Nothing);
    assert_eq!(need(&frame, large, all), Need::Nothing);
    assert_eq!(need(&frame, blank, Takes::default()), Need::Complete);
    assert_eq!(need(&frame, Meta::default(), Takes::default()), Need::Nothing);
    assert_eq!(need(&frame, large, Takes { gso_v4: false, ..all }), Need::Cut(Gso { v6: false, size: 1448 }));
    assert_eq!(
        need(&frame, large, Takes { several_pages: false, ..all }),
        Need::Cut(Gso { v6: false, size: 1448 })
    );
    assert_eq!(need(&Plain::new(&tcp(true, 0)), blank, Takes { blank_v6: false, ..all }), Need::Complete);
}
