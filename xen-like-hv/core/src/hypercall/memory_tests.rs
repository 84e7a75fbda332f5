//! Tests of `memory_op`, each named as its claim.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;
use pv_abi::memory::{
    E820Entry, E820Type, MemoryOp, XenForeignMemoryMap, XenMemAcquireResource, XenMemoryDomain,
    XenMemoryExchange, XenMemoryMap, XenMemoryReservation,
};
use zerocopy::{Immutable, IntoBytes};

use super::{GuestPtr, memory};
use crate::access::Privilege;
use crate::mm::testing::{ARGS, RW, World, pte};
use crate::port::Frames;

const SELF: u16 = 0x7ff0;
/// Where lists lie; the argument is at [`ARGS`].
const LIST: u64 = ARGS + 0x100;
const OUT: u64 = ARGS + 0x1000;

impl World {
    fn memory_as<T: IntoBytes + Immutable>(&self, g: usize, op: MemoryOp, arg: &T) -> Result<u64, Errno> {
        self.put_args(arg.as_bytes());
        self.call(g, [u64::from(op.raw()), ARGS, 0, 0, 0, 0], memory::memory_op)
    }

    fn put_list(&self, at: u64, values: &[u64]) {
        let list = GuestPtr::<u64>::array(at, u64::try_from(values.len()).unwrap()).unwrap();
        list.write_slice(self.m(), 0, values).unwrap();
    }

    fn list(&self, at: u64, n: usize) -> Vec<u64> {
        let mut values = alloc::vec![0; n];
        let list = GuestPtr::<u64>::array(at, u64::try_from(n).unwrap()).unwrap();
        list.read_slice(self.m(), 0, &mut values).unwrap();
        values
    }

    fn tot(&self) -> u64 {
        self.guests[0].dom.mem.tot_pages()
    }
}

fn reservation(nr_extents: u64, extent_order: u32) -> XenMemoryReservation {
    XenMemoryReservation { extent_start: LIST, nr_extents, extent_order, domid: SELF, ..Default::default() }
}

/// A world whose first domain may have 16 frames more than it has.
fn roomy() -> World {
    let w = World::new(&[Privilege::Unprivileged, Privilege::Control], 32);
    w.guests[0].dom.mem.set_max_pages(48);
    w
}

#[test]
fn populate_gives_zeroed_frames_with_their_names() {
    let w = roomy();
    w.put_list(LIST, &[0x700, 0x710]);
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &reservation(2, 2)), Ok(2));
    for (mfn, pfn) in w.list(LIST, 2).into_iter().zip([0x700, 0x710]) {
        for k in 0..4 {
            assert_eq!(w.m().m2p(Mfn::new(mfn + k)), pfn + k);
            assert!(w.m().words(Mfn::new(mfn + k)).iter().all(|x| x.load(Relaxed) == 0));
        }
    }
    assert_eq!(w.tot(), 40);
    w.assert_sound();
}

#[test]
fn xsa_385_populate_stops_at_the_limit() {
    let w = roomy();
    w.put_list(LIST, &(0..20).collect::<Vec<_>>());
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &reservation(20, 0)), Ok(16));
    assert_eq!(w.tot(), 48);
    assert_eq!(w.memory_as(0, MemoryOp::IncreaseReservation, &reservation(1, 0)), Ok(0));
    w.assert_sound();
}

#[test]
fn a_preempted_call_goes_on_where_it_was() {
    let w = roomy();
    w.put_list(LIST, &(0x40..0x50).collect::<Vec<_>>());
    w.m().preempt_after.store(0, Relaxed);
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &reservation(16, 0)), Ok(16));
    let mut mfns = w.list(LIST, 16);
    mfns.sort_unstable();
    mfns.dedup();
    assert_eq!((mfns.len(), w.tot()), (16, 48));
    w.assert_sound();
}

#[test]
fn xsa_31_large_orders_and_xsa_231_other_nodes_get_nothing() {
    let w = roomy();
    for order in [10, 18, 31, 32, 63, u32::MAX] {
        assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &reservation(1, order)), Ok(0), "{order}");
    }
    for flags in [255 << 8, 2 << 8, 1 << 16, 1 << 18, 12, 5] {
        let r = XenMemoryReservation { mem_flags: flags, ..reservation(1, 0) };
        assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &r), Ok(0), "{flags:#x}");
    }
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &reservation(u64::MAX, 0)), Ok(0));
    assert_eq!(w.tot(), 32);
}

#[test]
fn decrease_gives_frames_back_and_spares_what_is_mapped() {
    let w = roomy();
    w.boot();
    let free = w.w.hv.frames.free_frames();
    let (mapped, idle) = (w.mfn(8), w.mfn(20));
    w.put_list(LIST, &[idle.raw(), mapped.raw()]);
    assert_eq!(w.memory_as(0, MemoryOp::DecreaseReservation, &reservation(2, 0)), Ok(2));
    assert_eq!((w.w.hv.frames.free_frames(), w.tot()), (free + 1, 31));
    w.assert_sound();
    w.set(w.mfn(3), 0, 0).unwrap();
    assert_eq!((w.w.hv.frames.free_frames(), w.tot()), (free + 2, 30));
    w.put_list(LIST, &[w.guests[1].mfns[0].raw(), 0, u64::MAX, w.guests[0].dom.shared_info.raw()]);
    for i in 0..4 {
        let r = XenMemoryReservation { extent_start: LIST + i * 8, ..reservation(1, 0) };
        assert_eq!(w.memory_as(0, MemoryOp::DecreaseReservation, &r), Ok(0), "entry {i}");
    }
    w.assert_sound();
}

#[test]
fn xsa_252_decrease_unpins_nothing() {
    let w = roomy();
    w.boot();
    w.put_list(LIST, &[w.mfn(0).raw()]);
    assert_eq!(w.memory_as(0, MemoryOp::DecreaseReservation, &reservation(1, 0)), Ok(1));
    assert!(w.use_of(w.mfn(0)).2, "still pinned");
    w.assert_sound();
}

#[test]
fn another_domains_memory_needs_privilege() {
    let w = roomy();
    w.put_list(LIST, &[7]);
    let r = |domid| XenMemoryReservation { domid, ..reservation(1, 0) };
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &r(2)), Err(Errno::Perm));
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &r(99)), Ok(0));
    assert_eq!(w.memory_as(1, MemoryOp::PopulatePhysmap, &r(1)), Ok(1));
    assert_eq!(w.tot(), 33);
    w.assert_sound();
}

fn exchange(nr_in: u64, in_order: u32, nr_out: u64, out_order: u32) -> XenMemoryExchange {
    XenMemoryExchange {
        in_: reservation(nr_in, in_order),
        out: XenMemoryReservation { extent_start: OUT, ..reservation(nr_out, out_order) },
        nr_exchanged: 0,
    }
}

#[test]
fn exchange_gives_contiguous_frames_for_single_ones() {
    let w = roomy();
    let given: Vec<_> = (16..24).map(|n| w.mfn(n).raw()).collect();
    w.put_list(LIST, &given);
    w.put_list(OUT, &[0x500]);
    let free = w.w.hv.frames.free_frames();
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(8, 0, 1, 3)), Ok(0));
    let got = w.list(OUT, 1)[0];
    assert_eq!(got % 8, 0);
    for k in 0..8 {
        assert_eq!(w.m().m2p(Mfn::new(got + k)), 0x500 + k);
        assert_eq!(w.w.hv.frames.owner(Mfn::new(got + k)), Some(w.guests[0].dom.id));
    }
    assert_eq!((w.tot(), w.w.hv.frames.free_frames()), (32, free));
    let done = GuestPtr::<XenMemoryExchange>::new(ARGS).unwrap().read(w.m()).unwrap().nr_exchanged;
    assert_eq!(done, 8);
    w.assert_sound();
}

#[test]
fn exchange_back_to_single_frames_survives_preemption() {
    let w = roomy();
    w.put_list(LIST, &[16, 17, 18, 19].map(|n| w.mfn(n).raw()));
    w.put_list(OUT, &[1, 2, 3, 4]);
    w.m().preempt_after.store(0, Relaxed);
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(4, 0, 4, 0)), Ok(0));
    let got = w.list(OUT, 4);
    assert!(got.iter().zip(1..).all(|(mfn, pfn)| w.m().m2p(Mfn::new(*mfn)) == pfn));
    w.assert_sound();
}

#[test]
fn xsa_159_an_exchange_that_fails_leaves_all_as_it_was() {
    let w = roomy();
    w.boot();
    let books = |w: &World| (w.tot(), w.w.hv.frames.free_frames());
    let before = books(&w);
    let bad =
        [w.mfn(8), w.guests[1].mfns[0], Mfn::new(0), Mfn::INVALID, w.guests[0].dom.shared_info, w.mfn(20)];
    for last in bad {
        w.put_list(LIST, &[w.mfn(20).raw(), w.mfn(21).raw(), w.mfn(22).raw(), last.raw()]);
        w.put_list(OUT, &[0x500]);
        assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(4, 0, 1, 2)), Err(Errno::Inval), "{last}");
        assert_eq!(books(&w), before);
        w.assert_sound();
    }
}

#[test]
fn xsa_212_exchange_lists_in_the_hypervisors_area_are_refused() {
    let w = roomy();
    w.put_list(LIST, &[w.mfn(20).raw()]);
    for at in [0xffff_8200_0000_0000, 0xffff_87ff_ffff_fff8, u64::MAX - 7, 1 << 47] {
        let mut x = exchange(1, 0, 1, 0);
        x.out.extent_start = at;
        assert_eq!(w.memory_as(0, MemoryOp::Exchange, &x), Err(Errno::Fault), "{at:#x}");
        let mut x = exchange(1, 0, 1, 0);
        x.in_.extent_start = at;
        assert_eq!(w.memory_as(0, MemoryOp::Exchange, &x), Err(Errno::Fault), "{at:#x}");
    }
    let mut x = exchange(1 << 61, 0, 1 << 61, 0);
    x.nr_exchanged = 1 << 60;
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &x), Err(Errno::Fault));
    w.assert_sound();
}

#[test]
fn exchange_sizes_must_match() {
    let w = roomy();
    for (a, b, c, d) in [(2, 0, 1, 0), (u64::MAX, 1, u64::MAX, 1), (1, 0, 1, 3)] {
        assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(a, b, c, d)), Err(Errno::Inval));
    }
    let mut x = exchange(1, 0, 1, 0);
    x.nr_exchanged = 2;
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &x), Err(Errno::Inval));
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(1, 20, 1, 20)), Err(Errno::Perm));
}

#[test]
fn maps_are_the_toolstacks_and_the_machines() {
    let w = roomy();
    let ask = XenMemoryMap { nr_entries: 4, buffer: LIST, ..Default::default() };
    assert_eq!(w.memory_as(0, MemoryOp::MemoryMap, &ask), Err(Errno::NoSys), "none was set");
    assert_eq!(w.memory_as(0, MemoryOp::MachineMemoryMap, &ask), Err(Errno::Perm));
    let ram = E820Entry::new(0, 0x800_0000, E820Type::Ram);
    GuestPtr::<E820Entry>::new(OUT).unwrap().write(w.m(), &ram).unwrap();
    let set = XenForeignMemoryMap {
        domid: 1,
        map: XenMemoryMap { nr_entries: 1, buffer: OUT, ..Default::default() },
        ..Default::default()
    };
    assert_eq!(w.memory_as(1, MemoryOp::SetMemoryMap, &set), Ok(0));
    assert_eq!(w.memory_as(0, MemoryOp::MemoryMap, &ask), Ok(0));
    let got = GuestPtr::<E820Entry>::new(LIST).unwrap().read(w.m()).unwrap();
    assert_eq!((got.addr(), got.size(), got.kind), (0, 0x800_0000, 1));
    let too_many = XenForeignMemoryMap { map: XenMemoryMap { nr_entries: 1025, ..set.map }, ..set };
    assert_eq!(w.memory_as(1, MemoryOp::SetMemoryMap, &too_many), Err(Errno::Inval));
}

#[test]
fn figures_are_told() {
    let w = roomy();
    let own = XenMemoryDomain { domid: SELF };
    assert_eq!(w.memory_as(0, MemoryOp::CurrentReservation, &own), Ok(32));
    assert_eq!(w.memory_as(0, MemoryOp::MaximumReservation, &own), Ok(48));
    assert_eq!(w.memory_as(0, MemoryOp::CurrentReservation, &XenMemoryDomain { domid: 2 }), Err(Errno::Perm));
    assert_eq!(w.memory_as(1, MemoryOp::CurrentReservation, &XenMemoryDomain { domid: 1 }), Ok(32));
    assert_eq!(w.memory_as(1, MemoryOp::CurrentReservation, &XenMemoryDomain { domid: 9 }), Err(Errno::Srch));
}

#[test]
fn claims_keep_memory_for_their_domain() {
    let w = World::new(&[Privilege::Unprivileged, Privilege::Control], 32);
    w.guests.iter().for_each(|g| g.dom.mem.set_max_pages(1000));
    let free = w.w.hv.frames.free_frames();
    let claim = |domid, n| XenMemoryReservation { nr_extents: n, domid, ..Default::default() };
    assert_eq!(w.memory_as(0, MemoryOp::ClaimPages, &claim(1, 40)), Err(Errno::Perm));
    assert_eq!(w.memory_as(1, MemoryOp::ClaimPages, &claim(1, 33 + free)), Err(Errno::NoMem));
    assert_eq!(w.memory_as(1, MemoryOp::ClaimPages, &claim(1, 32 + free)), Ok(0));
    w.put_list(LIST, &[1]);
    let mine = XenMemoryReservation { domid: SELF, ..reservation(1, 0) };
    assert_eq!(w.memory_as(1, MemoryOp::PopulatePhysmap, &mine), Ok(0), "all is claimed");
    assert_eq!(w.memory_as(0, MemoryOp::PopulatePhysmap, &mine), Ok(1));
    assert_eq!(w.memory_as(1, MemoryOp::ClaimPages, &claim(1, 0)), Ok(0));
    assert_eq!(w.memory_as(1, MemoryOp::PopulatePhysmap, &mine), Ok(1));
}

#[test]
fn grant_frames_are_named_to_a_control_domain() {
    let w = roomy();
    let ask =
        XenMemAcquireResource { domid: 1, kind: 1, nr_frames: 1, frame_list: LIST, ..Default::default() };
    assert_eq!(w.memory_as(0, MemoryOp::AcquireResource, &ask), Err(Errno::Perm));
    assert_eq!(w.memory_as(1, MemoryOp::AcquireResource, &ask), Ok(0));
    let mfn = Mfn::new(w.list(LIST, 1)[0]);
    assert_eq!(w.guests[0].dom.grants.frame(0), Some(mfn));
    assert!(w.w.hv.frames.is_special(mfn));
    for bad in [
        XenMemAcquireResource { pad: 1, ..ask },
        XenMemAcquireResource { frame: u64::MAX, ..ask },
        XenMemAcquireResource { frame: 1 << 30, ..ask },
    ] {
        assert_eq!(w.memory_as(1, MemoryOp::AcquireResource, &bad), Err(Errno::Inval));
    }
    assert_eq!(
        w.memory_as(1, MemoryOp::AcquireResource, &XenMemAcquireResource { kind: 0, ..ask }),
        Err(Errno::OpNotSupp)
    );
    w.assert_sound();
}

#[test]
fn a_mapped_frame_is_not_exchanged() {
    let w = roomy();
    w.boot();
    w.set(w.mfn(3), 9, pte(w.mfn(20), RW)).unwrap();
    w.put_list(LIST, &[w.mfn(20).raw()]);
    w.put_list(OUT, &[1]);
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(1, 0, 1, 0)), Err(Errno::Inval));
    w.set(w.mfn(3), 9, 0).unwrap();
    assert_eq!(w.memory_as(0, MemoryOp::Exchange, &exchange(1, 0, 1, 0)), Ok(0));
    w.assert_sound();
}
