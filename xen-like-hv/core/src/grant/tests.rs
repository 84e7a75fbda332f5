//! Claims about grants, on a fake machine.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use pv_abi::errno::Errno;
use pv_abi::grant::{
    GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabGetVersion, GnttabMapGrantRef, GnttabOp, GnttabQuerySize,
    GnttabSetVersion, GnttabSetupTable, GnttabUnmapGrantRef, GrantEntryV1, GrantStatus,
};
use pv_abi::ids::{DomId, Mfn};
use pv_abi::mmu::{MmuextCmd, MmuextOp};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{audit, grant_table_op, grow, release_mappings, release_table};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::fake::{FakeMachine, FakeWorld};
use crate::hypercall::{GuestPtr, mmuext};
use crate::port::Frames;
use crate::regs::UserRegs;
use crate::vcpu::Vcpu;

const ARG: u64 = 0x10_0000;
const LIST: u64 = 0x20_0000;
const SELF: u16 = DomId::SELF.raw();
const PERMIT: u16 = 1;
const READONLY: u16 = 4;
const READING: u16 = 8;
const WRITING: u16 = 16;
const DEVICE: u32 = 1;
const HOST: u32 = 2;
const MAP_RO: u32 = 4;
const PTE: u32 = 16;
/// The granter, as an index into the test's guests and as a domain id.
const GRANTER: usize = 0;
const GRANTER_ID: u16 = 1;
const MAPPER: usize = 1;
const MAPPER_ID: u16 = 2;
/// Address of entry 5 of the mapper's L1, and its index.
const VA: u64 = 5 * 4096;

struct Guest {
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    mfns: Vec<Mfn>,
}

struct Test {
    w: FakeWorld,
    guests: Vec<Guest>,
}

use GrantStatus::{
    BadCopyArg, BadDomain, BadGntref, BadHandle, BadPage, GeneralError, Okay, PermissionDenied,
};

impl Test {
    fn new() -> Self {
        let w = FakeWorld::new(256);
        w.m.map_guest_page(ARG);
        w.m.map_guest_page(LIST);
        let guests = [1, 2, 3].map(|id| {
            let (dom, vcpu) = w.add_domain(DomId::new(id), Privilege::Unprivileged, 24);
            let mfns = (0..16).map(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap()).collect();
            grow(&w.hv.frames, &w.m, &dom, 1).unwrap();
            Guest { dom, vcpu, mfns }
        });
        let t = Self { w, guests: guests.into() };
        t.load_tables();
        t
    }

    /// Gives the mapper page tables: frames 0 to 3 are L4 to L1, the L1 is empty.
    fn load_tables(&self) {
        let mfns = &self.guests[MAPPER].mfns;
        for level in 0..3 {
            self.m().words(mfns[level])[0].store(mfns[level + 1].raw() << 12 | 0x67, SeqCst);
        }
        for cmd in [MmuextCmd::PinL4Table, MmuextCmd::NewBaseptr] {
            let op = MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: mfns[0].raw(), arg2: 0 };
            GuestPtr::<MmuextOp>::new(ARG).unwrap().write(self.m(), &op).unwrap();
            self.hypercall(MAPPER, [ARG, 1, 0, u64::from(SELF), 0, 0], mmuext::mmuext_op).unwrap();
        }
    }

    fn m(&self) -> &FakeMachine {
        &self.w.m
    }

    fn hypercall(
        &self,
        guest: usize,
        args: [u64; 6],
        f: impl FnOnce(&mut Cx<'_, FakeMachine>, &Args) -> HypercallResult,
    ) -> HypercallResult {
        let g = &self.guests[guest];
        let mut regs = UserRegs::default();
        let mut cx = Cx::new(&self.w.hv, self.m(), &g.dom, &g.vcpu, &mut regs);
        f(&mut cx, &Args(args))
    }

    fn list<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        guest: usize,
        op: GnttabOp,
        list: &mut [T],
    ) -> HypercallResult {
        let n = u64::try_from(list.len()).unwrap();
        let ptr = GuestPtr::<T>::array(ARG, n).unwrap();
        ptr.write_slice(self.m(), 0, list).unwrap();
        let result = self.hypercall(guest, [u64::from(op.raw()), ARG, n, 0, 0, 0], grant_table_op);
        ptr.read_slice(self.m(), 0, list).unwrap();
        result
    }

    fn one<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        guest: usize,
        op: GnttabOp,
        arg: T,
    ) -> Result<T, Errno> {
        let mut list = [arg];
        match self.list(guest, op, &mut list) {
            Ok(0) => Ok(list[0]),
            Err(Exit::Err(e)) => Err(e),
            other => panic!("{other:?}"),
        }
    }

    fn entry_word(&self, guest: usize, gref: usize) -> &core::sync::atomic::AtomicU64 {
        &self.m().words(self.guests[guest].dom.grants.frame(0).unwrap())[gref]
    }

    fn entry(&self, guest: usize, gref: usize) -> GrantEntryV1 {
        GrantEntryV1::from_word(self.entry_word(guest, gref).load(SeqCst))
    }

    fn grant(&self, guest: usize, gref: usize, flags: u16, domid: u16, mfn: Mfn) {
        let entry = GrantEntryV1 { flags, domid, frame: u32::try_from(mfn.raw()).unwrap() };
        self.entry_word(guest, gref).store(entry.to_word(), SeqCst);
    }

    /// The granter lets the mapper use its frame `n` by reference 8.
    fn offer(&self, flags: u16, n: usize) -> Mfn {
        let mfn = self.guests[GRANTER].mfns[n];
        self.grant(GRANTER, 8, PERMIT | flags, MAPPER_ID, mfn);
        mfn
    }

    fn map(&self, guest: usize, flags: u32, gref: u32, host_addr: u64) -> (GrantStatus, GnttabMapGrantRef) {
        let arg = GnttabMapGrantRef { host_addr, flags, gref, dom: GRANTER_ID, ..Default::default() };
        let op = self.one(guest, GnttabOp::MapGrantRef, arg).unwrap();
        (GrantStatus::from_raw(op.status).unwrap(), op)
    }

    fn unmap(&self, guest: usize, handle: u32, host_addr: u64, dev_bus_addr: u64) -> GrantStatus {
        let arg = GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..Default::default() };
        GrantStatus::from_raw(self.one(guest, GnttabOp::UnmapGrantRef, arg).unwrap().status).unwrap()
    }

    fn pte(&self) -> u64 {
        self.m().words(self.guests[MAPPER].mfns[3])[5].load(SeqCst)
    }

    fn copy(
        &self,
        guest: usize,
        source: GnttabCopyPtr,
        dest: GnttabCopyPtr,
        len: u16,
        flags: u16,
    ) -> GrantStatus {
        let arg = GnttabCopy { source, dest, len, flags, ..Default::default() };
        GrantStatus::from_raw(self.one(guest, GnttabOp::Copy, arg).unwrap().status).unwrap()
    }

    fn audit(&self) {
        let doms: Vec<_> = self.guests.iter().map(|g| g.dom.clone()).collect();
        let wrong = audit(self.m(), &doms);
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(self.w.hv.frames.leaks(), 0);
    }
}

fn by_gref(domid: u16, gref: u32, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u: u64::from(gref), domid, offset, _pad: 0 }
}

fn by_mfn(mfn: Mfn, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u: mfn.raw(), domid: SELF, offset, _pad: 0 }
}

#[test]
fn the_table_is_found_and_grows() {
    let t = Test::new();
    let query =
        |dom| t.one(GRANTER, GnttabOp::QuerySize, GnttabQuerySize { dom, ..Default::default() }).unwrap();
    assert_eq!((query(SELF).nr_frames, query(SELF).max_nr_frames, query(SELF).status), (1, 64, 0));
    assert_eq!(query(2).status, PermissionDenied.raw());
    assert_eq!(query(9).status, BadDomain.raw());
    let setup = |dom, nr_frames| {
        let arg = GnttabSetupTable { dom, nr_frames, frame_list: LIST, ..Default::default() };
        t.one(GRANTER, GnttabOp::SetupTable, arg).unwrap().status
    };
    assert_eq!(setup(SELF, 3), 0);
    let frames: Vec<u64> =
        (0..3).map(|n| GuestPtr::<u64>::array(LIST, 3).unwrap().read_at(t.m(), n).unwrap()).collect();
    let known: Vec<u64> = (0..3).map(|n| t.guests[GRANTER].dom.grants.frame(n).unwrap().raw()).collect();
    assert_eq!(frames, known);
    assert_eq!(query(SELF).nr_frames, 3);
    assert_eq!(setup(SELF, 65), GeneralError.raw());
    assert_eq!(setup(2, 1), PermissionDenied.raw());
    t.guests[GRANTER].dom.grants.set_limits(Some(4), Some(1));
    assert_eq!((setup(SELF, 5), setup(SELF, 4)), (GeneralError.raw(), 0));
    t.audit();
}

#[test]
fn versions_answer_as_a_host_without_them() {
    let t = Test::new();
    let set = |version| t.one(GRANTER, GnttabOp::SetVersion, GnttabSetVersion { version });
    assert_eq!(set(1).map(|op| op.version), Ok(1));
    assert_eq!((set(2), set(3)), (Err(Errno::NoSys), Err(Errno::Inval)));
    let get = |dom| t.one(GRANTER, GnttabOp::GetVersion, GnttabGetVersion { dom, ..Default::default() });
    assert_eq!(get(SELF).map(|op| op.version), Ok(1));
    assert_eq!(get(2).map(|op| op.version), Err(Errno::Perm));
    assert_eq!(get(9).map(|op| op.version), Err(Errno::Srch));
    for op in [3, 4, 7, 9, 11, 12, 13, 1 << 19] {
        let result = t.hypercall(GRANTER, [op, ARG, 1, 0, 0, 0], grant_table_op);
        assert_eq!(result, Err(Exit::Err(Errno::NoSys)), "op {op}");
    }
    let result = t.hypercall(GRANTER, [0, ARG, 1 << 31, 0, 0, 0], grant_table_op);
    assert_eq!(result, Err(Exit::Err(Errno::Inval)));
    let result = t.hypercall(GRANTER, [6, ARG, 2, 0, 0, 0], grant_table_op);
    assert_eq!(result, Err(Exit::Err(Errno::Inval)));
    let result = t.hypercall(GRANTER, [0, 0xffff_8000_0000_0000, 1, 0, 0, 0], grant_table_op);
    assert_eq!(result, Err(Exit::Err(Errno::Fault)));
}

#[test]
fn a_frame_is_mapped_used_and_given_back() {
    let t = Test::new();
    let mfn = t.offer(0, 0);
    let (status, op) = t.map(MAPPER, HOST, 8, VA);
    assert_eq!(status, Okay);
    assert_eq!(op.dev_bus_addr, mfn.raw() << 12);
    assert_eq!(t.pte() & 0x000f_ffff_ffff_f003, mfn.raw() << 12 | 3);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING | WRITING);
    t.audit();
    let flushes = t.m().effects.lock().flushes.len();
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), Okay);
    assert_eq!(t.pte(), 0);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    assert!(t.m().effects.lock().flushes.len() > flushes, "no translation survives the unmap");
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), BadHandle);
    t.audit();
    // The frame is the granter's alone again: it may even become a page table.
    let table = t.w.hv.frames.get_page(mfn, DomId::new(GRANTER_ID)).unwrap();
    assert_eq!(table.info().type_info().count(), 0);
}

#[test]
fn a_map_names_an_entry_by_its_machine_address() {
    let t = Test::new();
    let mfn = t.offer(READONLY, 0);
    let entry = (t.guests[MAPPER].mfns[3].raw() << 12) + 5 * 8;
    assert_eq!(
        t.map(MAPPER, HOST | PTE | MAP_RO, 8, entry + 4).0,
        GeneralError,
        "not a whole entry (XSA-227)"
    );
    let data = t.guests[MAPPER].mfns[9].raw() << 12;
    assert_eq!(t.map(MAPPER, HOST | PTE | MAP_RO, 8, data).0, GeneralError, "not a page table");
    let (status, op) = t.map(MAPPER, HOST | PTE | MAP_RO | 0x6_0000, 8, entry);
    assert_eq!(status, Okay);
    assert_eq!(
        t.pte() & 0x000f_ffff_ffff_fe03,
        mfn.raw() << 12 | 1 | 6 << 9,
        "read-only, with the guest's bits"
    );
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READONLY | READING);
    t.audit();
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), GeneralError, "it was not mapped by address");
    assert_eq!(t.unmap(MAPPER, op.handle, entry, 0), Okay);
    t.audit();
}

#[test]
fn what_an_entry_does_not_allow_is_refused() {
    let t = Test::new();
    let mfn = t.offer(READONLY, 0);
    assert_eq!(t.map(MAPPER, 0, 8, VA).0, BadGntref, "for nothing");
    assert_eq!(t.map(MAPPER, MAP_RO, 8, VA).0, BadGntref, "for nothing");
    assert_eq!(t.map(MAPPER, HOST, 8, VA).0, GeneralError, "read-only");
    assert_eq!(t.map(MAPPER, HOST | MAP_RO, 512, VA).0, BadGntref, "past the table");
    assert_eq!(t.map(MAPPER, HOST | MAP_RO, u32::MAX, VA).0, BadGntref);
    assert_eq!(t.map(MAPPER, HOST | MAP_RO, 9, VA).0, GeneralError, "invalid");
    assert_eq!(t.map(2, HOST | MAP_RO, 8, VA).0, GeneralError, "for another");
    let nobody = GnttabMapGrantRef { flags: HOST, dom: 9, ..Default::default() };
    assert_eq!(t.one(MAPPER, GnttabOp::MapGrantRef, nobody).unwrap().status, BadDomain.raw());
    for flags in [0, 2, 3, PERMIT | 1 << 8] {
        t.grant(GRANTER, 8, flags, MAPPER_ID, mfn);
        assert_eq!(t.map(MAPPER, HOST | MAP_RO, 8, VA).0, GeneralError, "flags {flags:#x}");
    }
    for other in
        [t.guests[2].mfns[0], t.guests[GRANTER].dom.shared_info.max(Mfn::new(0xffff_ffff)), Mfn::new(0)]
    {
        t.grant(GRANTER, 8, PERMIT, MAPPER_ID, other);
        assert_eq!(t.map(MAPPER, HOST, 8, VA).0, BadPage, "{other}");
        assert_eq!(t.entry(GRANTER, 8).flags, PERMIT, "nothing is left marked");
    }
    t.offer(0, 0);
    assert_eq!(t.map(MAPPER, HOST, 8, 1 << 39).0, GeneralError, "no page table there");
    assert_eq!(t.map(MAPPER, HOST, 8, 0xffff_8000_0000_0000).0, GeneralError, "the hypervisor's area");
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    t.audit();
}

#[test]
fn a_page_table_is_not_granted_for_writing() {
    let t = Test::new();
    // The mapper, which has page tables, is the granter here; domain 3 takes.
    let table = t.guests[MAPPER].mfns[3];
    t.grant(MAPPER, 8, PERMIT, 3, table);
    let arg = GnttabMapGrantRef { flags: DEVICE, gref: 8, dom: MAPPER_ID, ..Default::default() };
    assert_eq!(t.one(2, GnttabOp::MapGrantRef, arg).unwrap().status, BadPage.raw());
    let data = t.guests[2].mfns[0];
    let write = t.copy(2, by_mfn(data, 0), by_gref(MAPPER_ID, 8, 0), 8, 2);
    assert_eq!(write, BadPage);
    assert_eq!(t.copy(2, by_gref(MAPPER_ID, 8, 0), by_mfn(data, 0), 8, 1), Okay, "reading is no harm");
    assert_eq!(t.entry(MAPPER, 8).flags, PERMIT);
    t.audit();
}

#[test]
fn an_entry_that_the_guest_changed_is_not_unmapped() {
    let t = Test::new();
    t.offer(0, 0);
    let (_, op) = t.map(MAPPER, HOST, 8, VA);
    let pte = t.pte();
    let word = &t.m().words(t.guests[MAPPER].mfns[3])[5];
    word.store(pte & !2, SeqCst);
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), GeneralError, "no longer writable (XSA-234)");
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING | WRITING, "still in use");
    word.store(pte, SeqCst);
    assert_eq!(t.unmap(MAPPER, op.handle, VA + 4096, 0), GeneralError, "elsewhere");
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), Okay);
    t.audit();
}

#[test]
fn host_and_device_go_one_by_one() {
    let t = Test::new();
    let bus = t.offer(0, 0).raw() << 12;
    let (_, op) = t.map(MAPPER, HOST | DEVICE, 8, VA);
    t.audit();
    assert_eq!(t.unmap(MAPPER, op.handle, VA, bus + 4096), GeneralError, "another frame's address");
    assert_eq!(t.unmap(MAPPER, op.handle, 0, 0), Okay, "nothing asked, nothing done");
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), Okay);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING | WRITING, "the device has it");
    t.audit();
    assert_eq!(t.unmap(MAPPER, op.handle, 0, bus), Okay);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    assert_eq!(t.unmap(MAPPER, op.handle, 0, bus), BadHandle);
    t.audit();
    // Both halves in one batch, of which the second is the end.
    let (_, op) = t.map(MAPPER, HOST | DEVICE, 8, VA);
    let half = GnttabUnmapGrantRef { handle: op.handle, ..Default::default() };
    let mut list = [
        GnttabUnmapGrantRef { host_addr: VA, ..half },
        GnttabUnmapGrantRef { dev_bus_addr: bus, ..half },
        GnttabUnmapGrantRef { dev_bus_addr: bus, ..half },
    ];
    t.list(MAPPER, GnttabOp::UnmapGrantRef, &mut list).unwrap();
    assert_eq!(list.map(|op| op.status), [0, 0, BadHandle.raw()]);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    t.audit();
}

#[test]
fn a_readers_frame_is_not_written_because_the_entry_offers_another() {
    let t = Test::new();
    let first = t.offer(READONLY, 0);
    let (_, a) = t.map(MAPPER, DEVICE | MAP_RO, 8, 0);
    t.grant(GRANTER, 8, PERMIT | READING, MAPPER_ID, t.guests[GRANTER].mfns[1]);
    assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, GeneralError);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING, "the readers stay");
    t.audit();
    assert_eq!(t.unmap(MAPPER, a.handle, 0, first.raw() << 12), Okay);
    t.audit();
}

#[test]
fn a_pinned_entry_keeps_its_frame_and_its_domain() {
    let t = Test::new();
    let first = t.offer(0, 0);
    let (_, a) = t.map(MAPPER, DEVICE, 8, 0);
    // The granter rewrites the entry: another frame, then another domain.
    let second = t.guests[GRANTER].mfns[1];
    t.grant(GRANTER, 8, PERMIT | READING | WRITING, MAPPER_ID, second);
    let (status, b) = t.map(MAPPER, DEVICE, 8, 0);
    assert_eq!((status, b.dev_bus_addr), (Okay, first.raw() << 12));
    t.grant(GRANTER, 8, PERMIT | READING | WRITING, 3, second);
    assert_eq!(t.map(2, DEVICE, 8, 0).0, GeneralError, "somebody else has it");
    t.audit();
    for handle in [a.handle, b.handle] {
        assert_eq!(t.unmap(MAPPER, handle, 0, first.raw() << 12), Okay);
    }
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    assert_eq!(t.map(2, DEVICE, 8, 0).1.dev_bus_addr, second.raw() << 12);
    t.audit();
}

#[test]
fn a_writer_among_readers_is_marked_and_unmarked() {
    let t = Test::new();
    let bus = t.offer(0, 0).raw() << 12;
    let (_, reader) = t.map(MAPPER, DEVICE | MAP_RO, 8, 0);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING);
    let (_, writer) = t.map(MAPPER, DEVICE, 8, 0);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING | WRITING);
    assert_eq!(t.unmap(MAPPER, writer.handle, 0, bus), Okay);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READING);
    // Meanwhile it has become read-only: no more writers, the reader stays.
    t.grant(GRANTER, 8, PERMIT | READONLY | READING, MAPPER_ID, t.guests[GRANTER].mfns[0]);
    assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, GeneralError);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READONLY | READING);
    assert_eq!(t.unmap(MAPPER, reader.handle, 0, bus), Okay);
    t.audit();
}

#[test]
fn handles_run_out_and_come_back() {
    let t = Test::new();
    t.guests[MAPPER].dom.grants.set_limits(None, Some(1));
    let bus = t.offer(0, 0).raw() << 12;
    let handles: Vec<u32> = (0..256).map(|_| t.map(MAPPER, DEVICE, 8, 0).1.handle).collect();
    assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, GrantStatus::NoDeviceSpace);
    t.audit();
    for &handle in &handles {
        assert_eq!(t.unmap(MAPPER, handle, 0, bus), Okay);
    }
    assert_eq!(t.unmap(MAPPER, u32::MAX, 0, bus), BadHandle);
    assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, Okay);
    t.audit();
}

#[test]
fn bytes_are_copied_between_grants_and_own_frames() {
    let t = Test::new();
    let (theirs, mine) = (t.offer(0, 0), t.guests[MAPPER].mfns[9]);
    t.m().write(theirs, 100, b"from the granter");
    assert_eq!(t.copy(MAPPER, by_gref(GRANTER_ID, 8, 100), by_mfn(mine, 7), 16, 1), Okay);
    let mut got = [0; 16];
    t.m().read(mine, 7, &mut got);
    assert_eq!(&got, b"from the granter");
    t.m().write(mine, 4080, b"from the mapper!");
    assert_eq!(t.copy(MAPPER, by_mfn(mine, 4080), by_gref(GRANTER_ID, 8, 0), 16, 2), Okay);
    t.m().read(theirs, 0, &mut got);
    assert_eq!(&got, b"from the mapper!");
    // From grant to grant, the second of another domain.
    t.grant(2, 20, PERMIT, MAPPER_ID, t.guests[2].mfns[0]);
    assert_eq!(t.copy(MAPPER, by_gref(GRANTER_ID, 8, 0), by_gref(3, 20, 1000), 16, 3), Okay);
    t.m().read(t.guests[2].mfns[0], 1000, &mut got);
    assert_eq!(&got, b"from the mapper!");
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    assert_eq!(t.copy(MAPPER, by_mfn(mine, 0), by_mfn(mine, 4095), 0, 0), Okay, "nothing to copy");
    t.audit();
}

#[test]
fn a_copy_to_a_frame_in_use_gives_back_what_it_took() {
    let t = Test::new();
    let (theirs, mine) = (t.offer(READONLY, 0), t.guests[MAPPER].mfns[9]);
    let counts = |mfn| {
        let page = t.w.hv.frames.info(mfn).unwrap();
        (page.count_info(), page.type_info())
    };
    // As where the guest has it mapped: nothing is in the way then.
    let mapped = t.w.hv.frames.get_page_writable(t.m(), mine, t.guests[MAPPER].dom.id).unwrap();
    let before = (counts(theirs), counts(mine));
    t.m().write(theirs, 3, b"whatever its length");
    let copy = |gref, len| t.copy(MAPPER, by_gref(GRANTER_ID, gref, 3), by_mfn(mine, 4000), len, 1);
    assert_eq!(copy(8, 19), Okay);
    let mut got = [0; 19];
    t.m().read(mine, 4000, &mut got);
    assert_eq!(&got, b"whatever its length");
    assert_eq!((copy(9, 1), copy(600, 1), copy(8, 97)), (GeneralError, BadGntref, BadCopyArg));
    assert_eq!((counts(theirs), counts(mine)), before);
    // A grant in use stays in use.
    let (status, op) = t.map(MAPPER, HOST | MAP_RO, 8, VA);
    assert_eq!((status, copy(8, 1)), (Okay, Okay));
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READONLY | READING);
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), Okay);
    t.guests[GRANTER].dom.grants.granter.set_dying();
    assert_eq!(copy(8, 1), BadDomain);
    assert_eq!((counts(theirs), counts(mine)), before);
    drop(mapped);
    t.audit();
}

#[test]
fn a_copy_stays_in_its_page_and_in_its_rights() {
    let t = Test::new();
    t.offer(READONLY, 0);
    let mine = t.guests[MAPPER].mfns[9];
    let from = |offset| by_gref(GRANTER_ID, 8, offset);
    for (a, b, len) in
        [(4095, 0, 2), (0, 4095, 2), (0, 0, 4097), (65535, 0, 1), (0, 65535, 65535), (4096, 0, 1)]
    {
        assert_eq!(t.copy(MAPPER, from(a), by_mfn(mine, b), len, 1), BadCopyArg, "{a} {b} {len}");
    }
    assert_eq!(t.copy(MAPPER, from(0), by_mfn(mine, 0), 4096, 1), Okay);
    assert_eq!(t.copy(MAPPER, by_mfn(mine, 0), from(0), 1, 2), GeneralError, "read-only");
    assert_eq!(t.copy(2, from(0), by_mfn(t.guests[2].mfns[0], 0), 1, 1), GeneralError, "for another");
    let foreign = GnttabCopyPtr { domid: GRANTER_ID, ..by_mfn(t.guests[GRANTER].mfns[1], 0) };
    assert_eq!(t.copy(MAPPER, foreign, by_mfn(mine, 0), 1, 0), PermissionDenied, "frames only of one's own");
    let stolen = by_mfn(t.guests[GRANTER].mfns[1], 0);
    assert_eq!(t.copy(MAPPER, stolen, by_mfn(mine, 0), 1, 0), BadPage);
    assert_eq!(t.copy(MAPPER, by_mfn(mine, 0), stolen, 1, 0), BadPage);
    let own_table = by_mfn(t.guests[MAPPER].mfns[3], 0);
    assert_eq!(t.copy(MAPPER, by_mfn(mine, 0), own_table, 8, 0), BadPage, "page tables are not written");
    assert_eq!(t.copy(MAPPER, by_gref(9, 8, 0), by_mfn(mine, 0), 1, 1), BadDomain);
    assert_eq!(t.copy(MAPPER, by_gref(GRANTER_ID, 600, 0), by_mfn(mine, 0), 1, 1), BadGntref);
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT | READONLY);
    t.audit();
}

#[test]
fn a_long_list_is_interrupted_and_goes_on() {
    let t = Test::new();
    t.offer(0, 0);
    let op = GnttabMapGrantRef { flags: DEVICE, gref: 8, dom: GRANTER_ID, ..Default::default() };
    let ptr = GuestPtr::<GnttabMapGrantRef>::array(ARG, 100).unwrap();
    ptr.write_slice(t.m(), 0, &vec![op; 100]).unwrap();
    let mut args = [0, ARG, 100, 0, 0, 0];
    let mut turns = 0;
    loop {
        t.m().preempt_after.store(10, SeqCst);
        match t.hypercall(MAPPER, args, grant_table_op) {
            Ok(0) => break,
            Err(Exit::Restart(next)) => args = next.0,
            other => panic!("{other:?}"),
        }
        turns += 1;
        t.audit();
    }
    assert!(turns >= 9, "{turns} turns");
    let mut done = vec![op; 100];
    ptr.read_slice(t.m(), 0, &mut done).unwrap();
    assert!(done.iter().all(|op| op.status == 0));
    let mut handles: Vec<u32> = done.iter().map(|op| op.handle).collect();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), 100, "each was mapped once");
}

#[test]
fn a_dead_mapper_gives_everything_back() {
    let t = Test::new();
    t.offer(0, 0);
    for _ in 0..100 {
        assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, Okay);
    }
    let mapper = &t.guests[MAPPER].dom;
    assert!(mapper.begin_dying(&t.w.hv, t.m()));
    t.m().preempt_after.store(0, SeqCst);
    assert!(release_mappings(&t.w.hv, t.m(), mapper).is_err(), "preemptible");
    t.audit();
    t.m().preempt_after.store(u64::MAX, SeqCst);
    assert!(release_mappings(&t.w.hv, t.m(), mapper).is_ok());
    assert_eq!(t.entry(GRANTER, 8).flags, PERMIT);
    t.audit();
    assert_eq!(Arc::strong_count(&t.guests[GRANTER].dom), 2, "no handle holds the granter");
}

#[test]
fn a_dead_granter_s_frame_stays_until_it_is_unmapped() {
    let t = Test::new();
    let mfn = t.offer(0, 0);
    let (_, op) = t.map(MAPPER, HOST, 8, VA);
    let granter = &t.guests[GRANTER].dom;
    assert!(granter.begin_dying(&t.w.hv, t.m()));
    assert_eq!(t.map(MAPPER, DEVICE, 8, 0).0, BadDomain, "nothing new from the dead");
    assert!(release_mappings(&t.w.hv, t.m(), granter).is_ok());
    assert_eq!(release_table(&t.w.hv.frames, &t.w.m, granter), Ok(()));
    let page = t.w.hv.frames.get_page(mfn, granter.id).unwrap();
    assert!(t.w.hv.frames.release(&page));
    drop(page);
    assert_eq!(t.w.hv.frames.owner(mfn), Some(granter.id), "in use, so not free");
    assert_eq!(t.unmap(MAPPER, op.handle, VA, 0), Okay);
    assert_eq!(t.w.hv.frames.owner(mfn), None, "free");
    t.audit();
}

#[derive(Clone, Debug)]
enum Step {
    Grant { gref: usize, flags: u16, to: u16, frame: usize },
    Map { flags: u32, gref: u32, slot: u64 },
    Unmap { handle: u32, slot: u64, bus: usize },
    Copy { gref: u32, frame: usize, into: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![4 => Just(PERMIT), 2 => Just(PERMIT | READONLY), 1 => 0_u16..8];
    prop_oneof![
        2 => (0_usize..4, flags, 1_u16..4, 0_usize..6)
            .prop_map(|(gref, flags, to, frame)| Step::Grant { gref, flags, to, frame }),
        4 => (0_u32..8, 0_u32..5, 4_u64..10).prop_map(|(flags, gref, slot)| Step::Map { flags, gref, slot }),
        4 => (0_u32..8, 3_u64..10, 0_usize..7).prop_map(|(handle, slot, bus)| Step::Unmap { handle, slot, bus }),
        2 => (0_u32..5, 8_usize..12, any::<bool>())
            .prop_map(|(gref, frame, into)| Step::Copy { gref, frame, into }),
    ]
}

impl Test {
    fn run(&self, step: &Step) {
        match *step {
            Step::Grant { gref, flags, to, frame } => {
                // A granter that plays by the rules leaves the marks of use alone; the others are tested above.
                let used = self.entry(GRANTER, gref).flags & (READING | WRITING);
                self.grant(GRANTER, gref, flags & 7 | used, to, self.guests[GRANTER].mfns[frame]);
            }
            Step::Map { flags, gref, slot } => {
                let _status = self.map(MAPPER, flags, gref, slot * 4096);
            }
            Step::Unmap { handle, slot, bus } => {
                let va = if slot == 3 { 0 } else { slot * 4096 };
                let bus =
                    self.guests[GRANTER].mfns.get(bus).filter(|_| bus < 6).map_or(0, |mfn| mfn.raw() << 12);
                let _status = self.unmap(MAPPER, handle, va, bus);
            }
            Step::Copy { gref, frame, into } => {
                let (far, near) = (by_gref(GRANTER_ID, gref, 8), by_mfn(self.guests[MAPPER].mfns[frame], 16));
                let _status = if into {
                    self.copy(MAPPER, near, far, 64, 2)
                } else {
                    self.copy(MAPPER, far, near, 64, 1)
                };
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn whatever_is_mapped_the_counts_agree(steps in prop::collection::vec(step(), 1..60)) {
        let t = Test::new();
        for step in &steps {
            t.run(step);
            t.audit();
        }
        // In the end everything can be taken back, and no reference is left.
        let mapper = &t.guests[MAPPER].dom;
        mapper.begin_dying(&t.w.hv, t.m());
        prop_assert!(release_mappings(&t.w.hv, t.m(), mapper).is_ok());
        t.audit();
    }
}

/// Two CPUs map, unmap and copy the same entries while the granter rewrites them: the counts agree in the end.
#[test]
fn several_cpus_on_one_entry_keep_the_counts() {
    use super::active::{Uses, claim, device_ref, release};
    let t = Test::new();
    let granter = t.guests[GRANTER].dom.clone();
    let mapper = t.guests[MAPPER].dom.clone();
    let (hv, m) = (&t.w.hv, t.m());
    let claims = |cpu: u32| {
        let mut random = 0x9e37_79b9_u32.wrapping_mul(cpu + 1);
        let mut held = Vec::new();
        for turn in 0..1000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let gref = pv_abi::ids::GrantRef::new(random >> 16 & 3);
            let only_to_read =
                if random >> 20 & 1 == 0 { GntmapFlags::READONLY } else { GntmapFlags::empty() };
            let uses = Uses::of_map(GntmapFlags::DEVICE_MAP | only_to_read).unwrap();
            if turn % 3 == 2 {
                if let Some((gref, uses, mfn)) = held.pop() {
                    release(m, &granter, gref, uses, device_ref(&hv.frames, mfn, uses));
                }
            } else if let Ok(h) = claim(&hv.frames, m, &granter, gref, mapper.id, uses) {
                held.push((gref, uses, h.into_raw()));
            }
        }
        for (gref, uses, mfn) in held {
            release(m, &granter, gref, uses, device_ref(&hv.frames, mfn, uses));
        }
    };
    std::thread::scope(|scope| {
        for cpu in 0..3 {
            let claims = &claims;
            scope.spawn(move || claims(cpu));
        }
        scope.spawn(|| {
            for turn in 0..5_000_usize {
                // A granter without manners: it rewrites everything, marks of use included.
                let flags = [PERMIT, PERMIT | READONLY, 0][turn % 3];
                t.grant(GRANTER, turn % 4, flags, MAPPER_ID, t.guests[GRANTER].mfns[turn % 5]);
            }
        });
    });
    for gref in 0..4 {
        t.grant(GRANTER, gref, 0, 0, Mfn::new(0));
    }
    t.audit();
    for &mfn in &t.guests[GRANTER].mfns {
        let page = t.w.hv.frames.get_page(mfn, granter.id).unwrap();
        assert_eq!(page.info().count_info().count(), 2, "{mfn}: the allocator's reference and this one");
        assert_eq!(page.info().type_info().count(), 0, "{mfn}: no writer is left");
    }
}
