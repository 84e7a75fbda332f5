//! A small world for tests: domains with frames, calls that restart until they are done, and the audit.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use zerocopy::IntoBytes;

use super::audit;
use crate::UserRegs;
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::fake::{FakeMachine, FakeWorld};
use crate::frame::PageType;
use crate::hypercall::{mmu, mmuext};
use crate::port::{Frames, GuestMem};
use crate::vcpu::Vcpu;

/// Where a guest's call arguments lie; two pages.
pub(crate) const ARGS: u64 = 0x10_0000;
/// Entry flags: present, writable, user, accessed, dirty.
pub(crate) const RW: u64 = 0x67;
/// The same, read-only.
pub(crate) const RO: u64 = 0x65;
/// `DOMID_SELF` as an argument.
pub(crate) const SELF: u64 = 0x7ff0;

/// A domain of a test.
pub(crate) struct Guest {
    pub(crate) dom: Arc<Domain>,
    pub(crate) vcpu: Arc<Vcpu>,
    /// Its frames.
    pub(crate) mfns: Vec<Mfn>,
}

/// The hypervisor, the machine and the domains.
pub(crate) struct World {
    pub(crate) w: FakeWorld,
    pub(crate) guests: Vec<Guest>,
}

/// An entry for a frame.
pub(crate) fn pte(mfn: Mfn, flags: u64) -> u64 {
    mfn.raw() << 12 | flags
}

impl World {
    /// A world of one domain per privilege given, with `frames` frames each.
    pub(crate) fn new(privileges: &[Privilege], frames: u64) -> Self {
        let w = FakeWorld::new(usize::try_from(frames).unwrap() * privileges.len() + 64);
        w.m.map_guest_page(ARGS);
        w.m.map_guest_page(ARGS + 4096);
        let guests = (1..).zip(privileges).map(|(id, privilege)| {
            let (dom, vcpu) = w.add_domain(DomId::new(id), *privilege, frames);
            let mfns = (0..frames).map(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap()).collect();
            Guest { dom, vcpu, mfns }
        });
        let guests = guests.collect();
        Self { w, guests }
    }

    /// One domain with 32 frames.
    pub(crate) fn one() -> Self {
        Self::new(&[Privilege::Unprivileged], 32)
    }

    pub(crate) fn m(&self) -> &FakeMachine {
        &self.w.m
    }

    /// Frame `n` of the first domain.
    pub(crate) fn mfn(&self, n: usize) -> Mfn {
        self.guests[0].mfns[n]
    }

    /// Writes an entry as a domain's builder would: without checks.
    pub(crate) fn poke(&self, table: Mfn, index: usize, value: u64) {
        self.w.m.words(table)[index].store(value, Relaxed);
    }

    pub(crate) fn peek(&self, table: Mfn, index: usize) -> u64 {
        self.w.m.words(table)[index].load(Relaxed)
    }

    /// Runs `f` as guest `g`.
    pub(crate) fn with<R>(&self, g: usize, f: impl FnOnce(&mut Cx<'_, FakeMachine>) -> R) -> R {
        let mut regs = UserRegs::default();
        self.with_regs(g, &mut regs, f)
    }

    pub(crate) fn with_regs<R>(
        &self,
        g: usize,
        regs: &mut UserRegs,
        f: impl FnOnce(&mut Cx<'_, FakeMachine>) -> R,
    ) -> R {
        let guest = &self.guests[g];
        f(&mut Cx::new(&self.w.hv, &self.w.m, &guest.dom, &guest.vcpu, regs))
    }

    /// Makes a call, and makes it again while it says so.
    pub(crate) fn call(
        &self,
        g: usize,
        args: [u64; 6],
        f: impl Fn(&mut Cx<'_, FakeMachine>, &Args) -> HypercallResult,
    ) -> Result<u64, Errno> {
        let mut args = Args(args);
        for _ in 0..100_000 {
            match self.with(g, |cx| f(cx, &args)) {
                Ok(v) => return Ok(v),
                Err(Exit::Err(e)) => return Err(e),
                Err(Exit::Restart(next)) => args = next,
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("a call that never ends");
    }

    pub(crate) fn put_args(&self, bytes: &[u8]) {
        self.w.m.copy_to_guest(pv_abi::ids::GuestVa::new(ARGS), bytes).unwrap();
    }

    pub(crate) fn mmu_update_as(&self, g: usize, list: &[(u64, u64)], foreign: u64) -> Result<u64, Errno> {
        let list: Vec<_> = list.iter().map(|(ptr, val)| MmuUpdate { ptr: *ptr, val: *val }).collect();
        self.put_args(list.as_bytes());
        let n = u64::try_from(list.len()).unwrap();
        self.call(g, [ARGS, n, 0, foreign, 0, 0], mmu::mmu_update)
    }

    /// Sets entry `index` of a table through `mmu_update`, as the first domain.
    pub(crate) fn set(&self, table: Mfn, index: u64, value: u64) -> Result<u64, Errno> {
        self.mmu_update_as(0, &[((table.raw() << 12) + index * 8, value)], SELF)
    }

    pub(crate) fn mmuext_as(&self, g: usize, list: &[MmuextOp], domid: u64) -> Result<u64, Errno> {
        self.put_args(list.as_bytes());
        let n = u64::try_from(list.len()).unwrap();
        self.call(g, [ARGS, n, 0, domid, 0, 0], mmuext::mmuext_op)
    }

    /// One operation as the first domain.
    pub(crate) fn ext(&self, cmd: MmuextCmd, arg1: u64) -> Result<u64, Errno> {
        self.mmuext_as(0, &[op(cmd, arg1, 0)], SELF)
    }

    /// What the audit says, with nothing held by other rooms.
    pub(crate) fn audit(&self) -> Vec<alloc::string::String> {
        let doms: Vec<_> = self.guests.iter().map(|g| g.dom.clone()).collect();
        audit::audit(&self.w.hv.frames, &self.w.m, &doms, |_| {})
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let wrong = self.audit();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Type, count and pin of a frame.
    pub(crate) fn use_of(&self, mfn: Mfn) -> (PageType, u64, bool) {
        let t = self.w.hv.frames.info(mfn).unwrap().type_info();
        (t.ty(), t.count(), t.pinned())
    }

    /// Builds a tree in frames 0 (L4), 1 (L3), 2 (L2), 3 (L1) whose L1 maps frames 8.. writable.
    pub(crate) fn build_tree(&self) {
        for (table, child) in [(0, 1), (1, 2), (2, 3)] {
            self.poke(self.mfn(table), 0, pte(self.mfn(child), RW));
        }
        for i in 0..8 {
            self.poke(self.mfn(3), i, pte(self.mfn(8 + i), RW));
        }
    }

    /// Makes [`Self::build_tree`]'s tree the first domain's, pinned and loaded.
    pub(crate) fn boot(&self) {
        self.build_tree();
        self.ext(MmuextCmd::PinL4Table, self.mfn(0).raw()).unwrap();
        self.ext(MmuextCmd::NewBaseptr, self.mfn(0).raw()).unwrap();
    }
}

pub(crate) fn op(cmd: MmuextCmd, arg1: u64, arg2: u64) -> MmuextOp {
    MmuextOp { cmd: cmd.raw(), _pad: 0, arg1, arg2 }
}
