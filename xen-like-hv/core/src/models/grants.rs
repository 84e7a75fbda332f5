//! Grants: a granter offers, rewrites and takes back, a mapper maps, unmaps and copies, and either dies at any point.
//!
//! A call with a list stops between its operations. The granter is hostile: it rewrites an entry that is in use, and it
//! wants the granted frame as a page table meanwhile. What the mapper can reach is what its pcpu may have cached.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::grant::{
    GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef, GrantEntryV1,
};
use pv_abi::ids::{DomId, GuestVa, Mfn, PcpuId};
use pv_abi::mmu::{MmuUpdate, MmuextCmd};
use zerocopy::IntoBytes;

use super::{Broken, Pages, Scene, assert_caught, assert_holds, snapshot_frames};
use crate::UserRegs;
use crate::access::Privilege;
use crate::audit::audit;
use crate::cx::Cx;
use crate::domain::{Domain, teardown};
use crate::error::{Args, Exit, HypercallResult};
use crate::fake::{FakeMachine, FakeWorld};
use crate::frame::{FrameState, PageInfo, PageType};
use crate::grant::{grant_table_op, grow, mapped_frames};
use crate::hypercall::{mmu, mmuext};
use crate::mm::testing::{RW, SELF, op};
use crate::port::{Frames, GuestMem};
use crate::seeded::Fault;
use crate::vcpu::Vcpu;

/// What the granter may write into its entry.
const READONLY: u16 = 4;
const PERMIT: u16 = 1;
const HOST: u32 = 2;
const DEVICE: u32 = 1;
const MAP_RO: u32 = 4;
/// The granter's one entry.
const GREF: u32 = 8;
const GRANTER: usize = 0;
const MAPPER: usize = 1;
/// Slots of the mapper's L1 in which it maps.
const SLOTS: u64 = 5;
const ARGS: [u64; 2] = [0x10_0000, 0x20_0000];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    /// The granter's entry names a frame of its, with flags.
    Offer(usize, u16),
    /// The granter's entry names nothing.
    Revoke,
    /// The granter wants its first frame as a page table, and no longer.
    Pin,
    Unpin,
    /// Maps with flags at a slot.
    Map(u32, u64),
    /// Maps for reading and for writing in one call.
    MapTwo,
    /// Unmaps a handle from a slot, or from its device.
    Unmap(u32, u64),
    UnmapDevice(u32),
    /// Names one handle twice in one call.
    UnmapDeviceTwice(u32),
    UnmapTwo,
    /// Clears a slot without the grant operation.
    Overwrite(u64),
    /// Copies out of the entry, or into it.
    Copy(bool),
    GoOn,
    Destroy,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    who: usize,
    op: Op,
    hurry: bool,
}

struct Grants {
    w: FakeWorld,
    pages: Pages,
    steps: Vec<Step>,
    guests: [(Arc<Domain>, Arc<Vcpu>); 2],
    /// Two of the granter's frames; the mapper's L4 to L1 and one more.
    frames: [Vec<Mfn>; 2],
    stopped: [Option<(Op, Args)>; 2],
    dying: [bool; 2],
    dead: [bool; 2],
    /// How each of the granter's frames was ever offered: bit 0 to read, bit 1 to write.
    offered: [u8; 2],
}

fn map_arg(flags: u32, slot: u64) -> GnttabMapGrantRef {
    let host_addr = if flags & HOST != 0 { (SLOTS + slot) * 4096 } else { 0 };
    GnttabMapGrantRef { host_addr, flags, gref: GREF, dom: 1, ..Default::default() }
}

fn unmap_arg(handle: u32, slot: u64) -> GnttabUnmapGrantRef {
    GnttabUnmapGrantRef { host_addr: (SLOTS + slot) * 4096, handle, ..Default::default() }
}

impl Grants {
    fn put(&self, who: usize, bytes: &[u8]) {
        self.w.m.copy_to_guest(GuestVa::new(ARGS[who]), bytes).unwrap();
    }

    fn arguments(&self, who: usize, call: Op) -> Args {
        let at = ARGS[who];
        let own = &self.frames[who];
        let grant = |op: GnttabOp, n| Args([u64::from(op.raw()), at, n, 0, 0, 0]);
        match call {
            Op::Map(flags, slot) => self.put(who, map_arg(flags, slot).as_bytes()),
            Op::MapTwo => self.put(who, [map_arg(HOST | MAP_RO, 0), map_arg(HOST, 1)].as_bytes()),
            Op::Unmap(handle, slot) => self.put(who, unmap_arg(handle, slot).as_bytes()),
            Op::UnmapTwo => self.put(who, [unmap_arg(0, 0), unmap_arg(1, 1)].as_bytes()),
            Op::UnmapDevice(handle) | Op::UnmapDeviceTwice(handle) => {
                let dev_bus_addr = self.frames[GRANTER][0].raw() << 12;
                let arg = GnttabUnmapGrantRef { dev_bus_addr, handle, ..Default::default() };
                self.put(who, [arg, arg].as_bytes());
            }
            Op::Copy(out) => {
                let far = GnttabCopyPtr { u: u64::from(GREF), domid: 1, offset: 8, _pad: 0 };
                let near = GnttabCopyPtr { u: own[4].raw(), domid: DomId::SELF.raw(), offset: 8, _pad: 0 };
                let (source, dest, flags) = if out { (far, near, 1) } else { (near, far, 2) };
                self.put(who, GnttabCopy { source, dest, len: 8, flags, ..Default::default() }.as_bytes());
            }
            Op::Overwrite(slot) => {
                let ptr = (own[3].raw() << 12) + (SLOTS + slot) * 8;
                self.put(who, MmuUpdate { ptr, val: 0 }.as_bytes());
                return Args([at, 1, 0, SELF, 0, 0]);
            }
            _ => {
                let cmd = if call == Op::Pin { MmuextCmd::PinL1Table } else { MmuextCmd::UnpinTable };
                self.put(who, op(cmd, own[0].raw(), 0).as_bytes());
                return Args([at, 1, 0, SELF, 0, 0]);
            }
        }
        match call {
            Op::Map(..) => grant(GnttabOp::MapGrantRef, 1),
            Op::MapTwo => grant(GnttabOp::MapGrantRef, 2),
            Op::UnmapTwo | Op::UnmapDeviceTwice(_) => grant(GnttabOp::UnmapGrantRef, 2),
            Op::Copy(_) => grant(GnttabOp::Copy, 1),
            _ => grant(GnttabOp::UnmapGrantRef, 1),
        }
    }

    fn call(&mut self, who: usize, call: Op, args: Args, hurry: bool) {
        let (dom, vcpu) = &self.guests[who];
        let mut regs = UserRegs::default();
        let m = &self.w.m;
        m.current_pcpu.store(u64::try_from(who).unwrap(), Relaxed);
        m.preempt_after.store(if hurry { 0 } else { u64::MAX }, Relaxed);
        let mut cx = Cx::new(&self.w.hv, m, dom, vcpu, &mut regs);
        let handler: fn(&mut Cx<'_, FakeMachine>, &Args) -> HypercallResult = match call {
            Op::Overwrite(_) => mmu::mmu_update,
            Op::Pin | Op::Unpin => mmuext::mmuext_op,
            _ => grant_table_op,
        };
        let result = handler(&mut cx, &args);
        m.preempt_after.store(u64::MAX, Relaxed);
        self.stopped[who] = match result {
            Err(Exit::Restart(next)) => Some((call, next)),
            Err(Exit::Crash(why)) => panic!("{why}"),
            _ => None,
        };
    }

    /// The granter's store into its own table, if it still has one.
    fn offer(&self, word: u64) {
        if let Some(mfn) = self.guests[GRANTER].0.grants.frame(0) {
            let at = usize::try_from(GREF).unwrap();
            self.w.m.words(mfn)[at].store(word, SeqCst);
        }
    }

    fn destroy(&mut self, who: usize, hurry: bool) {
        self.dying[who] = true;
        self.stopped[who] = None;
        self.w.m.unload_root(who);
        self.guests[who].1.sched.set_pcpu(None);
        self.w.m.preempt_after.store(if hurry { 0 } else { u64::MAX }, Relaxed);
        self.dead[who] = teardown::destroy(&self.w.hv, &self.w.m, &self.guests[who].0).is_ok();
        self.w.m.preempt_after.store(u64::MAX, Relaxed);
    }

    fn domains(&self) -> Vec<Arc<Domain>> {
        self.guests.iter().map(|(dom, _)| dom.clone()).collect()
    }

    /// What the mapper's pcpu can reach against what its handles stand for and what was ever offered.
    fn reach(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let held = mapped_frames(&self.guests[MAPPER].0);
        for &(mfn, write) in &held {
            let at = self.frames[GRANTER].iter().position(|f| *f == mfn);
            let was = at.map_or(0, |n| self.offered[n]);
            if was == 0 || (write && was & 2 == 0) {
                broken.push(("G1", format!("{mfn} is mapped, write {write}, but was offered as {was}")));
            }
        }
        let Some([_, cached]) = self.w.m.tlb.cached() else { return broken };
        for &mfn in &cached.readable {
            let Some(page) = self.w.hv.frames.info(mfn) else { continue };
            broken.extend(self.may_reach(mfn, page, cached.writable.contains(&mfn), &held));
        }
        broken
    }

    fn may_reach(&self, mfn: Mfn, page: &PageInfo, write: bool, held: &[(Mfn, bool)]) -> Option<Broken> {
        let (count, ty) = (page.count_info(), page.type_info());
        if count.state() == FrameState::Free || count.owner() == Some(self.guests[MAPPER].0.id) {
            return None;
        }
        if !held.iter().any(|(frame, _)| *frame == mfn) {
            return Some(("I12", format!("{mfn} can be reached without a handle: {count:?}")));
        }
        let table = matches!(ty.ty(), PageType::Table(_)) && ty.count() != 0;
        (write && table).then(|| ("I1", format!("{mfn} can be written and is {ty:?}")))
    }
}

impl Scene for Grants {
    type Spec = Vec<Step>;
    const RULES: &'static [&'static str] = &["audit", "G1", "I1", "I9", "I12"];

    fn new(spec: &Vec<Step>) -> Self {
        // Frame 0; a shared-info page and a grant table each; two frames and five.
        let pages = Pages::new(1 + 4 + 2 + 5);
        let w = FakeWorld::over(pages.table());
        w.m.tlb.watch();
        ARGS.iter().for_each(|&at| w.m.map_guest_page(at));
        let made = [(1, 2), (2, 5)].map(|(id, n)| {
            let guest = w.add_domain(DomId::new(id), Privilege::Unprivileged, n);
            grow(&w.hv.frames, &w.m, &guest.0, 1).unwrap();
            let mem = &guest.0.mem;
            let mfns: Vec<_> = (0..n).map(|_| w.hv.frames.alloc_for(&w.m, mem, 0, 0).unwrap()).collect();
            (guest, mfns)
        });
        let [(granter, a), (mapper, b)] = made;
        for (table, child) in b.iter().zip(&b[1..4]) {
            w.m.words(*table)[0].store(child.raw() << 12 | RW, SeqCst);
        }
        let root = b[0];
        let mut t = Self {
            w,
            pages,
            steps: spec.clone(),
            guests: [granter, mapper],
            frames: [a, b],
            stopped: [None, None],
            dying: [false; 2],
            dead: [false; 2],
            offered: [0; 2],
        };
        for (n, (_, vcpu)) in (0..).map(PcpuId::new).zip(&t.guests) {
            vcpu.sched.set_pcpu(Some(n));
        }
        t.put(MAPPER, op(MmuextCmd::NewBaseptr, root.raw(), 0).as_bytes());
        t.call(MAPPER, Op::Pin, Args([ARGS[MAPPER], 1, 0, SELF, 0, 0]), false);
        t.w.m.fill_tlbs();
        t
    }

    fn steps(spec: &Vec<Step>) -> u16 {
        u16::try_from(spec.len()).unwrap()
    }

    fn enabled(&self, step: u16) -> bool {
        let Step { who, op, .. } = self.steps[usize::from(step)];
        match op {
            Op::GoOn => self.stopped[who].is_some(),
            Op::Destroy => !self.dead[who],
            _ => !self.dying[who],
        }
    }

    fn make(&mut self, step: u16) {
        let Step { who, op, hurry } = self.steps[usize::from(step)];
        match op {
            Op::Offer(n, flags) => {
                self.offered[n] |= if flags & READONLY == 0 { 3 } else { 1 };
                let frame = u32::try_from(self.frames[GRANTER][n].raw()).unwrap();
                self.offer(GrantEntryV1 { flags: PERMIT | flags, domid: 2, frame }.to_word());
            }
            Op::Revoke => self.offer(0),
            Op::Destroy => self.destroy(who, hurry),
            Op::GoOn => {
                if let Some((call, args)) = self.stopped[who] {
                    self.call(who, call, args, hurry);
                }
            }
            call => {
                let args = self.arguments(who, call);
                self.call(who, call, args, hurry);
            }
        }
        self.w.m.fill_tlbs();
    }

    fn snapshot(&self, into: &mut impl Hasher) {
        snapshot_frames(&self.w, &self.pages, into);
        for (dom, vcpu) in &self.guests {
            (dom.mem.lists(), dom.grants.describe(), dom.mm.teardown.describe()).hash(into);
            (vcpu.mm.kernel_root(), vcpu.mm.pending.describe()).hash(into);
        }
        for stopped in &self.stopped {
            stopped.map(|(call, args)| (call, args.0)).hash(into);
        }
        // The arguments of a call that was stopped lie in the guest's memory.
        for at in ARGS {
            let mut bytes = [0; 128];
            self.w.m.copy_from_guest(&mut bytes, GuestVa::new(at)).unwrap();
            bytes.hash(into);
        }
        (self.dying, self.dead, self.offered).hash(into);
    }

    fn broken(&mut self) -> Vec<Broken> {
        let domains = self.domains();
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        let mut broken: Vec<Broken> = wrong.into_iter().map(|what| ("audit", what)).collect();
        broken.extend(self.reach());
        if !broken.is_empty() {
            return broken;
        }
        // Whoever dies first, in the end everything comes back.
        for _ in 0..50 {
            for who in [MAPPER, GRANTER] {
                if !self.dead[who] {
                    self.destroy(who, true);
                }
            }
        }
        let wrong = audit(&self.w.hv, &self.w.m, &domains);
        broken.extend(wrong.into_iter().map(|what| ("audit", format!("at the end: {what}"))));
        teardown::reap(&self.w.hv);
        if self.w.hv.domains.count() != 0 {
            broken.push(("I9", String::from("a domain that is never gone")));
        }
        broken
    }

    fn describe(spec: &Vec<Step>, step: u16) -> String {
        let Step { who, op, hurry } = spec[usize::from(step)];
        let who = if who == GRANTER { "granter" } else { "mapper" };
        format!("{who}: {op:?}{}", if hurry { ", in a hurry" } else { "" })
    }
}

fn steps(granter: &[Op], mapper: &[Op]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (who, ops) in [(GRANTER, granter), (MAPPER, mapper)] {
        for &op in ops {
            // Only lists and destructions can stop.
            let stops = matches!(
                op,
                Op::MapTwo
                    | Op::UnmapTwo
                    | Op::UnmapDeviceTwice(_)
                    | Op::GoOn
                    | Op::Destroy
                    | Op::Pin
                    | Op::Unpin
            );
            steps.push(Step { who, op, hurry: false });
            if stops {
                steps.push(Step { who, op, hurry: true });
            }
        }
    }
    steps
}

fn mappings() -> Vec<Step> {
    let granter = [Op::Offer(0, 0), Op::Offer(0, READONLY), Op::Offer(1, READONLY), Op::Revoke];
    let mapper = [
        Op::Map(HOST | MAP_RO, 0),
        Op::Map(HOST, 1),
        Op::MapTwo,
        Op::UnmapTwo,
        Op::Unmap(0, 0),
        Op::Unmap(1, 1),
        Op::Overwrite(0),
        Op::Copy(true),
        Op::Copy(false),
        Op::GoOn,
    ];
    steps(&granter, &mapper)
}

fn devices() -> Vec<Step> {
    let granter = [Op::Offer(0, 0), Op::Revoke];
    let mapper = [
        // Two handles of one kind: a reference too few is noticed by the recount, long before one is missing.
        Op::Map(DEVICE | MAP_RO, 0),
        Op::UnmapDevice(0),
        Op::UnmapDeviceTwice(1),
        Op::GoOn,
        Op::Destroy,
    ];
    steps(&granter, &mapper)
}

fn deaths() -> Vec<Step> {
    let granter = [Op::Offer(0, 0), Op::Revoke, Op::Pin, Op::Unpin, Op::Destroy];
    let mapper = [
        Op::Map(HOST, 0),
        Op::Map(HOST | DEVICE | MAP_RO, 1),
        Op::Unmap(0, 0),
        Op::UnmapDevice(1),
        Op::Overwrite(0),
        Op::Destroy,
    ];
    steps(&granter, &mapper)
}

#[test]
fn xsa_218_and_228_and_236_entries_mapped_copied_and_rewritten() {
    assert_holds::<Grants>("grants: mappings", mappings(), 20_000);
}

#[test]
fn xsa_218_one_handle_named_twice() {
    assert_holds::<Grants>("grants: devices", devices(), 5_000);
}

#[test]
fn either_end_of_a_grant_dies_at_any_point() {
    assert_holds::<Grants>("grants: deaths", deaths(), 20_000);
}

#[test]
fn the_model_notices_faults_of_grants() {
    assert_caught::<Grants>(mappings(), Fault::ReleaseKeepsPin, &["audit"]);
    assert_caught::<Grants>(mappings(), Fault::PinnedFollowsEntry, &["audit", "G1"]);
    assert_caught::<Grants>(mappings(), Fault::IgnoresReadonly, &["G1"]);
    assert_caught::<Grants>(devices(), Fault::HandleTakenTwice, &["audit"]);
    assert_caught::<Grants>(deaths(), Fault::UnmapsWithoutFlush, &["I1", "I12"]);
}
