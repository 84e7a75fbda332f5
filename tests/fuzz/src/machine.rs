//! Hypercalls of two domains on the fake machine, with the audit as oracle.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hv_core::access::Privilege;
use hv_core::audit::audit;
use hv_core::domain::Domain;
use hv_core::fake::{FakeWorld, forget};
use hv_core::frame::PageInfo;
use hv_core::hypercall::dispatch;
use hv_core::port::{Frames, GuestMem};
use hv_core::vcpu::Vcpu;
use hv_core::{Cx, UserRegs};
use pv_abi::domctl::DomctlCmd;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::mmu::MulticallEntry;
use zerocopy::IntoBytes;

use crate::bytes::Bytes;

const FRAMES: usize = 96;
/// Where arguments lie: four pages.
pub(crate) const ARG: u64 = 0x10_0000;
/// Calls of one input.
const MOST_CALLS: usize = 48;

thread_local! {
    static PAGES: Cell<Option<&'static [PageInfo]>> = const { Cell::new(None) };
}

/// One domain with its frames.
pub(crate) struct Actor {
    pub(crate) dom: Arc<Domain>,
    pub(crate) vcpu: Arc<Vcpu>,
    mfns: Vec<Mfn>,
}

/// dom0 and a guest; each has a tree of page tables in its first frames.
pub(crate) struct World {
    pub(crate) w: FakeWorld,
    pub(crate) actors: Vec<Actor>,
}

impl World {
    pub(crate) fn new() -> Self {
        // One table of frames serves all inputs of a thread.
        let pages = PAGES.get().unwrap_or_else(|| {
            Box::leak((0..FRAMES).map(|_| PageInfo::new()).collect::<Vec<_>>().into_boxed_slice())
        });
        PAGES.set(Some(pages));
        forget(pages);
        let w = FakeWorld::over(pages);
        (0..4).for_each(|n| w.m.map_guest_page(ARG + n * 4096));
        let actors = [(0, Privilege::Control), (9, Privilege::Unprivileged)].map(|(id, privilege)| {
            let (dom, vcpu) = w.add_domain(DomId::new(id), privilege, 24);
            let mfns: Vec<Mfn> =
                (0..12).filter_map(|_| w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).ok()).collect();
            let _room = hv_core::grant::grow(&w.hv.frames, &w.m, &dom, 1);
            for pair in mfns[..5].windows(2) {
                w.m.words(pair[0])[0].store(pair[1].raw() << 12 | 0x67, Relaxed);
            }
            Actor { dom, vcpu, mfns }
        });
        Self { w, actors: actors.into() }
    }

    /// A number that may mean something as an argument.
    fn value(&self, b: &mut Bytes<'_>) -> u64 {
        let kind = b.byte();
        let frame = |n: u8| {
            let actor = &self.actors[usize::from(n) % 2];
            actor.mfns[usize::from(n / 2) % actor.mfns.len()].raw()
        };
        match kind % 12 {
            0 => u64::from(b.byte()),
            1 => ARG + u64::from(b.byte()) * 16,
            2 => frame(b.byte()),
            3 => (frame(b.byte()) << 12) | (u64::from(b.byte()) * 8),
            4 => frame(b.byte()) << 12 | b.pick(&[0x67, 0x65, 0x61, 0xe7, 0x8000_0000_0000_0067]),
            5 => 0x7ff0,
            6 => u64::from(b.byte()) << 12,
            7 => b.pick(&[u64::MAX, 0xffff_8000_0000_0000, 1 << 47, 0x7fff_ffff, 1 << 63]),
            8 => b.word(),
            _ => 0,
        }
    }

    /// Writes an argument structure: words of values at a place in the argument pages.
    fn scribble(&self, b: &mut Bytes<'_>) {
        let at = ARG + u64::from(b.byte()) * 16;
        let count = u64::from(b.byte() % 16);
        for n in 0..count {
            let value = match b.byte() % 4 {
                0 => self.value(b),
                1 => u64::from(b.byte()) << 32 | u64::from(b.byte()),
                2 => u64::from(b.byte()),
                _ => self.value(b) & 0xffff_ffff | u64::from(b.byte()) << 32,
            };
            let _mapped = self.w.m.copy_to_guest(GuestVa::new(at + n * 8), value.as_bytes());
        }
    }

    fn args(&self, b: &mut Bytes<'_>) -> [u64; 5] {
        core::array::from_fn(|_| self.value(b))
    }

    pub(crate) fn dispatch(&self, who: usize, regs: &mut UserRegs) {
        let a = &self.actors[who];
        dispatch(&mut Cx::new(&self.w.hv, &self.w.m, &a.dom, &a.vcpu, regs));
    }

    /// Makes a call in a hurry or not; it is given up, or made again a few times.
    fn call(&self, who: usize, call: Hypercall, args: [u64; 5], hurry: u8) {
        let [rdi, rsi, rdx, r10, r8] = args;
        let mut regs = UserRegs { rax: call.raw(), rdi, rsi, rdx, r10, r8, rip: 2, ..UserRegs::default() };
        for _ in 0..=hurry % 8 {
            let after = if hurry < 128 { u64::MAX } else { u64::from(hurry >> 3 & 7) };
            self.w.m.preempt_after.store(after, Relaxed);
            regs.rip = 2;
            self.dispatch(who, &mut regs);
            self.w.m.preempt_after.store(u64::MAX, Relaxed);
            if regs.rip != 0 {
                break;
            }
        }
    }

    /// A domain that was stopped or is being destroyed makes no calls.
    fn may_call(&self, who: usize) -> bool {
        let dom = &self.actors[who].dom;
        !dom.is_dying() && dom.slow.lock().shutdown.is_none()
    }

    pub(crate) fn audit(&self) {
        let domains: Vec<_> = self.w.hv.domains.all().collect();
        let mut wrong = audit(&self.w.hv, &self.w.m, &domains);
        // The marks of use lie in the granter's memory: it may write them itself.
        wrong.retain(|what| !what.contains("marked as used"));
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Whether the call would put its vcpu to sleep or take it down: on the fake machine nobody would notice.
fn sleeps(call: Hypercall, args: &[u64; 5]) -> bool {
    match call {
        Hypercall::SchedOp => matches!(args[0] & 0xffff_ffff, 0 | 1 | 3),
        Hypercall::VcpuOp => matches!(args[0] & 0xffff_ffff, 1 | 2),
        _ => false,
    }
}

/// The commands of the control interface, with their versions in place.
fn control(w: &World, b: &mut Bytes<'_>, call: Hypercall) {
    let version: u64 = if call == Hypercall::PlatformOp { 0x0300_0001 } else { 0x15 };
    let commands = DomctlCmd::ALL;
    let cmd = u64::from(commands[usize::from(b.byte()) % commands.len()].raw());
    let _mapped = w.w.m.copy_to_guest(GuestVa::new(ARG), (version << 32 | cmd).as_bytes());
}

/// Audits every so many calls: it costs more than they do.
const AUDIT_EVERY: usize = 8;

/// See the crate.
pub(crate) fn hypercalls(input: &[u8]) {
    let w = World::new();
    let mut b = Bytes::new(input);
    for n in 0..MOST_CALLS {
        if b.is_empty() {
            break;
        }
        let who = usize::from(b.byte() & 1);
        let call = b.pick(Hypercall::ALL);
        let hurry = b.byte();
        w.scribble(&mut b);
        let mut args = w.args(&mut b);
        if matches!(call, Hypercall::Domctl | Hypercall::Sysctl | Hypercall::PlatformOp) {
            args[0] = ARG;
            control(&w, &mut b, call);
        }
        if w.may_call(who) && !sleeps(call, &args) {
            w.call(who, call, args, hurry);
        }
        if n % AUDIT_EVERY == 0 {
            w.audit();
        }
    }
    w.audit();
}

/// See the crate.
pub(crate) fn multicall(input: &[u8]) {
    let w = World::new();
    let mut b = Bytes::new(input);
    for _ in 0..8 {
        if b.is_empty() {
            break;
        }
        let who = usize::from(b.byte() & 1);
        let (count, hurry) = (u64::from(b.byte() % 12), b.byte());
        w.scribble(&mut b);
        for n in 0..count {
            let call = b.pick(Hypercall::ALL);
            let args = w.args(&mut b);
            let op = if sleeps(call, &args) { Hypercall::XenVersion.raw() } else { call.raw() };
            let [a, c, d, e, f] = args;
            let entry = MulticallEntry { op, result: 0, args: [a, c, d, e, f, 0] };
            // The list lies in the third page, where the entries' own arguments seldom are.
            let at = ARG + 0x2000 + n * 64;
            let _mapped = w.w.m.copy_to_guest(GuestVa::new(at), entry.as_bytes());
        }
        if w.may_call(who) {
            w.call(who, Hypercall::Multicall, [ARG + 0x2000, count, 0, 0, 0], hurry);
        }
        w.audit();
    }
}
