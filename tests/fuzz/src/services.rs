//! dom0's services: the store's wire, block and network requests, configurations.

use dom0_tools::blkback::request::{Action, Decoded, Geometry, Work, decode};
use dom0_tools::cfg::parse_config;
use dom0_tools::netback::tx::{Batch, MAX_SLOTS};
use dom0_tools::toolstack::Store as _;
use dom0_tools::xenstore::{Access, ConnId, Quota, Xenstore, wire};
use pv_abi::ids::DomId;
use pv_abi::io::blkif::BlkifRequest;
use pv_abi::io::netif::NetifTxRequest;
use zerocopy::{FromZeros, IntoBytes};

use crate::bytes::Bytes;

/// Takes what a connection has to say.
fn drain(xs: &mut Xenstore, conn: ConnId) {
    loop {
        let len = xs.output(conn).len();
        if len == 0 {
            return;
        }
        xs.consume(conn, len);
    }
}

/// See the crate.
pub(crate) fn xenstore(input: &[u8]) {
    let mut xs = Xenstore::new(Quota::default());
    let mut conns = vec![xs.connect_local()];
    for id in [1, 2] {
        let home = format!("/local/domain/{id}");
        let made =
            xs.write(&home, b"").and_then(|()| xs.set_perms(&home, (DomId::new(id), Access::None), &[]));
        assert_eq!(made, Ok(()));
        conns.extend(xs.introduce(DomId::new(id)));
    }
    let mut b = Bytes::new(input);
    let mut req = 0;
    while !b.is_empty() {
        let conn = b.pick(&conns);
        req += 1;
        match b.byte() % 16 {
            0 => {
                // Bytes as they come: headers that lie about their lengths.
                let len = usize::from(b.byte());
                let _taken = xs.input(conn, b.slice(len));
            }
            1 => drain(&mut xs, conn),
            2 => while xs.take_effect().is_some() {},
            _ => {
                let (op, tx) = (u32::from(b.byte() % 24), u32::from(b.byte() % 4));
                let len = usize::from(b.byte());
                if let Some(message) = wire::message(op, req, tx, b.slice(len)) {
                    let _taken = xs.input(conn, &message);
                }
            }
        }
        assert_eq!(xs.audit(), Ok(()));
    }
}

fn check(work: &Work, disk: Geometry) {
    let mut bytes = 0_u64;
    for segment in &work.segments {
        let (offset, len) = (u64::from(segment.offset), u64::from(segment.len));
        assert!(len != 0 && len % 512 == 0 && offset % 512 == 0, "{segment:?}");
        assert!(offset + len <= 4096, "{segment:?}");
        bytes += len;
    }
    let end = work.sector.checked_add(bytes / 512);
    assert!(
        end.is_some_and(|end| end <= disk.sectors) || work.action == Action::Flush,
        "{work:?} on {disk:?}"
    );
    assert!(!(disk.read_only && work.action == Action::Write), "{work:?} on {disk:?}");
}

/// See the crate.
pub(crate) fn blkif(input: &[u8]) {
    let mut b = Bytes::new(input);
    let disk = Geometry {
        sectors: u64::from(b.byte()) << (b.byte() % 56),
        read_only: b.byte() & 1 != 0,
        discard: b.byte() & 1 != 0,
    };
    while !b.is_empty() {
        let mut request = BlkifRequest::new_zeroed();
        let size = size_of::<BlkifRequest>();
        let bytes = b.slice(size);
        request.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        match decode(&request, disk) {
            Decoded::Run(work) => check(&work, disk),
            Decoded::Fetch(indirect) => {
                assert!(indirect.bytes() <= 4096, "{indirect:?}");
                if let Decoded::Run(work) = indirect.decode(b.slice(indirect.bytes()), disk) {
                    check(&work, disk);
                }
            }
            Decoded::Answer(answer) => assert_eq!(answer.id, request.id),
        }
    }
}

/// See the crate.
pub(crate) fn cfg(input: &[u8]) {
    let Ok(text) = core::str::from_utf8(input) else { return };
    if let Ok((config, _warnings)) = parse_config("input", text, &[]) {
        assert!(!config.name.is_empty(), "{config:?}");
    }
}

/// Network requests as slots come off a ring; frames as a front end may send them.
pub(crate) fn netif(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut taken = 0_usize;
    let mut source = || {
        if b.is_empty() {
            return Ok(None);
        }
        taken += 1;
        let mut request = NetifTxRequest::new_zeroed();
        let bytes = b.slice(size_of::<NetifTxRequest>());
        request.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Ok(Some(request))
    };
    let mut batch = Batch::new();
    let whole = loop {
        match batch.take(&mut source) {
            Ok(true) => {}
            Ok(false) => break true,
            Err(_) => break false,
        }
    };
    let mut answers = 0;
    for packet in batch.packets() {
        answers += batch.answers(packet).count();
        if !packet.is_good {
            continue;
        }
        let slots = batch.slots(packet);
        let bytes: usize = slots.iter().map(|slot| usize::from(slot.len)).sum();
        assert_eq!(bytes, packet.len, "{packet:?}");
        assert!(slots.len() <= MAX_SLOTS, "{packet:?}");
        assert!(slots.iter().all(|s| usize::from(s.offset) + usize::from(s.len) <= 4096), "{packet:?}");
    }
    assert!(if whole { answers == taken } else { answers <= taken }, "{answers} answers to {taken} slots");
}
