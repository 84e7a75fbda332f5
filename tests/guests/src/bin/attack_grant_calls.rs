//! Grants with everything wrong that can be (class D7). The domain is granter and mapper at once.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::DomId;
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::memory::vmap::Range;
use test_guests::frames::{Frame, RO, RW};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claims! {
    attack_grant_calls:
    operations_of_version_two_do_not_exist [26, 50, 226, 255, 379, 382, 384, 411, 486, 501, 517],
    operations_that_move_or_flush_do_not_exist [18, 134, 214, 232, 284, 520],
    entries_at_addresses_that_are_not_aligned [227],
    host_and_device_parts_go_one_by_one [224, 230, 394],
    an_entry_that_changed_is_not_unmapped [234],
    failed_maps_leave_nothing [316, 361, 362],
    one_frame_mapped_many_times [380],
    copies_at_every_edge [523],
    a_long_list_of_copies_keeps_each_status [318, 500],
}

const HOST: u32 = GntmapFlags::HOST_MAP.bits();
const DEVICE: u32 = GntmapFlags::DEVICE_MAP.bits();
const OKAY: i16 = 0;

struct Side {
    me: u16,
    granted: GrantedPages,
    gref: u32,
    range: Range,
}

fn side(pages: usize) -> Claim<Side> {
    let me = test_guests::own_domain()?;
    let granted = GrantedPages::new(me, 1, Access::ReadWrite)?;
    let gref = granted.references()[0].raw();
    let range = Range::reserve(pages)?;
    for page in 0..pages {
        range.entry(page)?;
    }
    Ok(Side { me: me.raw(), granted, gref, range })
}

fn op<T>(op: GnttabOp, list: &mut [T]) -> i64 {
    call::call(H::GrantTableOp, [u64::from(op.raw()), call::address_mut(list), list.len() as u64])
}

impl Side {
    fn map_at(&self, host_addr: u64, flags: u32) -> Claim<GnttabMapGrantRef> {
        let mut list = [GnttabMapGrantRef {
            host_addr,
            flags,
            gref: self.gref,
            dom: self.me,
            ..GnttabMapGrantRef::default()
        }];
        call::granted("map", op(GnttabOp::MapGrantRef, &mut list))?;
        Ok(list[0])
    }

    fn frame(&self) -> Claim<u64> {
        let at = self.granted.area().address(0, 8).ok_or(Trouble::error("an empty grant"))?;
        pv_guest_kernel::memory::va_to_mfn(at).map(pv_abi::ids::Mfn::raw).ok_or(Trouble::error("no frame"))
    }

    fn end(mut self) -> Claim {
        ensure!(self.granted.try_end(), "the grant is still in use");
        Ok(())
    }
}

fn unmap(host_addr: u64, dev_bus_addr: u64, handle: u32) -> Claim<i16> {
    let mut list =
        [GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..GnttabUnmapGrantRef::default() }];
    call::granted("unmap", op(GnttabOp::UnmapGrantRef, &mut list))?;
    Ok(list[0].status)
}

fn operations_of_version_two_do_not_exist(_: &'static Context) -> Claim {
    for version in [0, 2, 3, u32::MAX] {
        for _ in 0..200 {
            let mut list = [version];
            call::refused_somehow("another version", op(GnttabOp::SetVersion, &mut list))?;
        }
    }
    for (dom, nr_frames) in [(0x7ff0_u64, 1_u64), (0x7ff0, 0xffff_ffff), (0, 64), (0x7123, 1)] {
        let mut words = [nr_frames | dom << 32, 0xffff_8300_0000_0000, 0, 0];
        let answer = op(GnttabOp::GetStatusFrames, &mut words[..1]);
        // Refused as a whole, or by the status in the structure, which is behind the domain's number.
        let status = words[0] >> 48;
        ensure!(answer < 0 || status != 0, "status frames were given");
    }
    Ok(())
}

fn operations_that_move_or_flush_do_not_exist(_: &'static Context) -> Claim {
    let side = side(1)?;
    for number in [4_u64, 7, 11, 12, 13, 14, 64, 1 << 31, u64::MAX] {
        let mut words = [0_u64, u64::from(side.gref), side.frame()?, 0x7ff0, 4096, 1, 0, 0];
        let answer = call::call(H::GrantTableOp, [number, call::address_mut(&mut words[..]), 1]);
        // unmap_and_replace exists where it does: with a handle that nobody has it says so in its status.
        ensure!(
            answer < 0 || (number == 7 && words[3] & 0xffff != 0),
            "operation {number} answered {answer}"
        );
    }
    side.end()
}

fn entries_at_addresses_that_are_not_aligned(_: &'static Context) -> Claim {
    let side = side(1)?;
    let entry = side.range.entry(0)?.raw();
    for offset in 1..8 {
        let map = side.map_at(entry + offset, HOST | GntmapFlags::CONTAINS_PTE.bits())?;
        ensure!(map.status != OKAY, "an entry at {offset} bytes past its place was made");
    }
    for wrong in [0, 1 << 51, !7, side.frame()? << 12] {
        let map = side.map_at(wrong, HOST | GntmapFlags::CONTAINS_PTE.bits())?;
        ensure!(map.status != OKAY, "an entry at {wrong:#x} was made");
    }
    side.end()
}

fn host_and_device_parts_go_one_by_one(_: &'static Context) -> Claim {
    let side = side(2)?;
    let bus = side.frame()? << 12;
    let at = side.range.page(0);
    for order in 0..4 {
        let map = side.map_at(at, HOST | DEVICE)?;
        ensure_eq!(map.status, OKAY, "mapping for both");
        ensure!(unmap(side.range.page(1), 0, map.handle)? != OKAY, "an unmap elsewhere");
        ensure!(unmap(0, bus + 4096, map.handle)? != OKAY, "an unmap of another bus address");
        ensure!(unmap(at, bus, map.handle ^ 1)? != OKAY, "an unmap by another handle");
        let parts: &[(u64, u64)] = match order {
            0 => &[(at, bus)],
            1 => &[(at, 0), (0, bus)],
            2 => &[(0, bus), (at, 0)],
            _ => &[(0, 0), (at, 0), (0, 0), (0, bus)],
        };
        for (host, device) in parts {
            ensure_eq!(unmap(*host, *device, map.handle)?, OKAY, "a part, order {order}");
        }
        ensure!(unmap(at, bus, map.handle)? != OKAY, "an unmap of what is gone");
    }
    side.end()
}

fn an_entry_that_changed_is_not_unmapped(_: &'static Context) -> Claim {
    let side = side(1)?;
    let at = side.range.page(0);
    let map = side.map_at(at, HOST)?;
    ensure_eq!(map.status, OKAY, "mapping");
    let other = Frame::new()?;
    let set = |raw: u64| call::update_va_mapping(at, Pte::from_raw(raw), UvmFlags::INVLPG | UvmFlags::ALL);
    for raw in [0, other.entry(RW), other.entry(RO), side.frame()? << 12 | RO] {
        ensure_eq!(set(raw), 0, "another entry");
        ensure!(unmap(at, 0, map.handle)? != OKAY, "an unmap of {raw:#x}");
    }
    ensure_eq!(set(side.frame()? << 12 | RW), 0, "the entry as it was");
    ensure_eq!(unmap(at, 0, map.handle)?, OKAY, "the unmap");
    side.end()
}

fn failed_maps_leave_nothing(_: &'static Context) -> Claim {
    let side = side(1)?;
    for round in 0..2000_u32 {
        let bad = [
            GnttabMapGrantRef {
                host_addr: 0x7000_0000_0000,
                flags: HOST,
                gref: side.gref,
                dom: side.me,
                ..Default::default()
            },
            GnttabMapGrantRef {
                host_addr: side.range.page(0),
                flags: HOST,
                gref: 1 << 20,
                dom: side.me,
                ..Default::default()
            },
            GnttabMapGrantRef {
                host_addr: side.range.page(0),
                flags: 0,
                gref: side.gref,
                dom: side.me,
                ..Default::default()
            },
            GnttabMapGrantRef {
                host_addr: !0xfff,
                flags: HOST,
                gref: side.gref,
                dom: 0x7123,
                ..Default::default()
            },
            GnttabMapGrantRef {
                host_addr: 0xffff_8300_0000_0000,
                flags: HOST | DEVICE,
                gref: side.gref,
                dom: side.me,
                ..Default::default()
            },
        ];
        let mut list = bad;
        call::granted("maps", op(GnttabOp::MapGrantRef, &mut list))?;
        for (n, map) in list.iter().enumerate() {
            ensure!(map.status < OKAY, "map {n} in round {round} answered {}", map.status);
        }
    }
    side.end()
}

fn one_frame_mapped_many_times(_: &'static Context) -> Claim {
    const TIMES: usize = 4000;
    let side = side(1)?;
    let mut handles: Vec<u32> = Vec::new();
    for _ in 0..TIMES {
        let map = side.map_at(0, DEVICE)?;
        if map.status != OKAY {
            break;
        }
        handles.push(map.handle);
    }
    ensure!(handles.len() > 1000, "{} mappings could be made", handles.len());
    let bus = side.frame()? << 12;
    for handle in handles {
        ensure_eq!(unmap(0, bus, handle)?, OKAY, "unmapping");
    }
    side.end()
}

fn copies_at_every_edge(_: &'static Context) -> Claim {
    let side = side(1)?;
    let neighbours = [Frame::new()?, Frame::new()?, Frame::new()?];
    let mark = |n: usize| 0x1234_5678_0000_0000 + n as u64;
    for frame in &neighbours {
        (0..512).for_each(|n| frame.set_word(n, mark(7)));
    }
    let target = &neighbours[1];
    for source_offset in [0_u16, 1, 8, 4088, 4095, 4096, 4097, u16::MAX] {
        for dest_offset in [0_u16, 1, 8, 4088, 4095, 4096, 4097, u16::MAX] {
            for len in [0_u16, 1, 8, 4088, 4095, 4096, 4097, u16::MAX] {
                let end = |u: u64, offset: u16, domid: u16| GnttabCopyPtr { u, domid, offset, _pad: 0 };
                let mut list = [GnttabCopy {
                    source: end(u64::from(side.gref), source_offset, side.me),
                    dest: end(target.mfn().raw(), dest_offset, DomId::SELF.raw()),
                    len,
                    flags: GntcopyFlags::SOURCE_GREF.bits(),
                    ..GnttabCopy::default()
                }];
                call::granted("copy", op(GnttabOp::Copy, &mut list))?;
                let fits = |offset: u16| usize::from(offset) + usize::from(len) <= 4096 && offset < 4096;
                let good = fits(source_offset) && fits(dest_offset);
                let status = list[0].status;
                ensure!(good || status != OKAY || len == 0, "{source_offset} {dest_offset} {len}: {status}");
            }
        }
    }
    for frame in [&neighbours[0], &neighbours[2]] {
        ensure!((0..512).all(|n| frame.word(n) == mark(7)), "a copy left its page");
    }
    side.end()
}

fn a_long_list_of_copies_keeps_each_status(_: &'static Context) -> Claim {
    const COUNT: usize = 1500;
    let side = side(1)?;
    let target = Frame::new()?;
    let end = |u: u64, domid: u16| GnttabCopyPtr { u, domid, offset: 0, _pad: 0 };
    let mut list: Vec<GnttabCopy> = vec![GnttabCopy::default(); COUNT];
    for (n, copy) in list.iter_mut().enumerate() {
        let gref = if n % 7 == 3 { u64::from(u32::MAX) } else { u64::from(side.gref) };
        copy.source = end(gref, side.me);
        copy.dest = end(target.mfn().raw(), DomId::SELF.raw());
        (copy.len, copy.flags, copy.status) = (64, GntcopyFlags::SOURCE_GREF.bits(), 99);
    }
    call::granted("a long list", op(GnttabOp::Copy, &mut list))?;
    for (n, copy) in list.iter().enumerate() {
        ensure_eq!(copy.status == OKAY, n % 7 != 3, "the status of copy {n}");
        ensure!(copy.status != 99, "copy {n} has no status");
    }
    side.end()
}
