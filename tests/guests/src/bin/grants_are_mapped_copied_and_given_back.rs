//! A domain grants frames to itself, maps them at an address and in an entry, copies from and to them, and gets them back.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::DomId;
use pv_guest_kernel::Context;
use pv_guest_kernel::grant::{self, Access, GrantedPages};
use pv_guest_kernel::memory::Pages;
use pv_guest_kernel::memory::vmap::Range;
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(grants_are_mapped_copied_and_given_back);

const PAGES: usize = 40;

fn grants_are_mapped_copied_and_given_back(_: &'static Context) -> Claim {
    let me = test_guests::own_domain()?;
    let mut granted = GrantedPages::new(me, PAGES, Access::ReadWrite)?;
    // More than one batch of unmaps, twice, so that handles come back.
    for round in 1..3_u8 {
        let mapping = grant::map(me, granted.references(), Access::ReadWrite)?;
        for page in 0..PAGES {
            mapping.area().write(page * 4096 + 100, &[round, u8::try_from(page).unwrap_or(0)]);
        }
        ensure_eq!(granted.try_end(), false, "grants in use stay");
        drop(mapping);
        for page in 0..PAGES {
            let mut seen = [0; 2];
            granted.area().read(page * 4096 + 100, &mut seen);
            ensure_eq!(seen, [round, u8::try_from(page).unwrap_or(0)], "page {page}");
        }
    }
    by_entry(me, &granted)?;
    copies(me, &granted)?;
    ensure_eq!(granted.try_end(), true, "all come back");
    Ok(())
}

/// The entry itself is named, and gets software bits.
fn by_entry(me: DomId, granted: &GrantedPages) -> Claim {
    let range = Range::reserve(1)?;
    let flags = GntmapFlags::HOST_MAP | GntmapFlags::CONTAINS_PTE | GntmapFlags::READONLY;
    let mut map = GnttabMapGrantRef {
        host_addr: range.entry(0)?.raw(),
        flags: flags.bits() | 1 << 17,
        gref: granted.references()[0].raw(),
        dom: me.raw(),
        ..GnttabMapGrantRef::default()
    };
    let call_one = |op: GnttabOp, at: u64| call::call(Hypercall::GrantTableOp, [u64::from(op.raw()), at, 1]);
    call::granted("map", call_one(GnttabOp::MapGrantRef, call::address_mut(&mut map)))?;
    ensure_eq!(map.status, 0, "the map by entry");
    granted.area().write(8, &0x1122_3344_5566_7788_u64.to_ne_bytes());
    ensure_eq!(call::load(range.page(0) + 8), 0x1122_3344_5566_7788, "seen through the entry");
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: map.host_addr,
        handle: map.handle,
        ..GnttabUnmapGrantRef::default()
    };
    call::granted("unmap", call_one(GnttabOp::UnmapGrantRef, call::address_mut(&mut unmap)))?;
    ensure_eq!(unmap.status, 0, "the unmap by entry");
    Ok(())
}

fn copies(me: DomId, granted: &GrantedPages) -> Claim {
    let mut own = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    for (byte, value) in own.as_mut_slice().iter_mut().zip((0..=255_u8).cycle()) {
        *byte = value;
    }
    let mine = own.mfn(0).ok_or(Trouble::error("no frame"))?;
    let near = |offset| GnttabCopyPtr { u: mine.raw(), domid: DomId::SELF.raw(), offset, _pad: 0 };
    let far = |n: usize, offset| GnttabCopyPtr {
        u: u64::from(granted.references()[n].raw()),
        domid: me.raw(),
        offset,
        _pad: 0,
    };
    let (from, to) = (GntcopyFlags::SOURCE_GREF.bits(), GntcopyFlags::DEST_GREF.bits());
    let copy = |source, dest, len, flags| GnttabCopy { source, dest, len, flags, ..GnttabCopy::default() };
    let mut list = [
        copy(near(5), far(1, 4000), 96, to),
        copy(far(1, 4000), far(2, 0), 96, from | to),
        copy(far(2, 1), near(4001), 95, from),
    ];
    let at = call::address_mut(&mut list[..]);
    let args = [u64::from(GnttabOp::Copy.raw()), at, list.len() as u64];
    call::granted("copy", call::call(Hypercall::GrantTableOp, args))?;
    ensure_eq!(list.map(|op| op.status), [0; 3], "the copies");
    let end: [u8; 3] = [own.as_slice()[4001], own.as_slice()[4095], own.as_slice()[4000]];
    ensure_eq!(end, [6, 100, 160], "what went around");
    Ok(())
}
