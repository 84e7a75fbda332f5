//! Two or three domains do random page-table operations; the books are audited after every step.
//!
//! Frames and indices are few, so that operations meet. Calls are preempted at random and are then either made again
//! or given up for another call, as a hostile guest would.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::mmu::{MmuUpdate, MmuextCmd};
use zerocopy::IntoBytes;

use super::grant_map::{ForOne, HostAddress, MapFor, install_host_mapping, remove_host_mapping};
use super::teardown::relinquish;
use super::testing::{ARGS, SELF, World, op, pte};
use crate::access::Privilege;
use crate::error::{Args, Exit, HypercallResult};
use crate::hypercall::{memory, mmu, mmuext};

/// Frames that take part, of each domain.
const FRAMES: usize = 10;
const INDICES: [u64; 6] = [0, 1, 2, 255, 256, 511];
const FLAGS: [u64; 12] =
    [0x67, 0x65, 0x63, 0x61, 0x67, 0x65, 0x67, 0x66, 0x77, 0xe7, 0x167, 0x8000_0000_0000_0067];
const COMMANDS: [MmuextCmd; 9] = [
    MmuextCmd::PinL1Table,
    MmuextCmd::PinL2Table,
    MmuextCmd::PinL3Table,
    MmuextCmd::PinL4Table,
    MmuextCmd::UnpinTable,
    MmuextCmd::NewBaseptr,
    MmuextCmd::NewUserBaseptr,
    MmuextCmd::ClearPage,
    MmuextCmd::UnpinTable,
];

/// A frame of a domain.
type Frame = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Update {
        table: usize,
        index: usize,
        target: Frame,
        flags: usize,
        clear: bool,
        foreign: bool,
    },
    /// Several updates of own tables in one call.
    Batch(Vec<(usize, usize, Frame, usize)>),
    Poke {
        frame: usize,
        index: usize,
        target: usize,
    },
    Ext {
        cmd: usize,
        frame: Frame,
    },
    VaMapping {
        va: u64,
        target: Frame,
        flags: usize,
    },
    Grant {
        va: u64,
        target: Frame,
        write: bool,
        remove: bool,
    },
    Decrease {
        frame: usize,
    },
    Tree {
        base: usize,
    },
}

#[derive(Clone, Debug)]
struct Move {
    who: usize,
    step: Step,
    /// Steps until the preemption; many is none.
    preempt: u64,
    /// Whether a preempted call is given up.
    give_up: bool,
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![4 => Just(0_usize), 1 => Just(1_usize)].prop_flat_map(|d| (Just(d), 0..FRAMES))
}

fn step() -> impl Strategy<Value = Step> {
    let va =
        prop_oneof![Just(0_u64), Just(0x1000), Just(0x20_0000), Just(1 << 30), Just(1 << 39), Just(0xf_f000)];
    let va2 = va.clone();
    prop_oneof![
        8 => (0..FRAMES, 0..INDICES.len(), frame(), 0..FLAGS.len(), any::<bool>(), any::<bool>()).prop_map(
            |(table, index, target, flags, clear, foreign)| Step::Update {
                table, index, target, flags, clear: clear && foreign, foreign: foreign && !clear
            }
        ),
        4 => proptest::collection::vec((0..FRAMES, 0..INDICES.len(), frame(), 0..FLAGS.len() + 4), 1..6)
            .prop_map(Step::Batch),
        3 => (0..FRAMES, 0..INDICES.len(), 0..FRAMES)
            .prop_map(|(frame, index, target)| Step::Poke { frame, index, target }),
        6 => (0..COMMANDS.len(), frame()).prop_map(|(cmd, frame)| Step::Ext { cmd, frame }),
        2 => (va, frame(), 0..FLAGS.len()).prop_map(|(va, target, flags)| Step::VaMapping { va, target, flags }),
        2 => (va2, frame(), any::<bool>(), any::<bool>())
            .prop_map(|(va, target, write, remove)| Step::Grant { va, target, write, remove }),
        1 => (0..FRAMES).prop_map(|frame| Step::Decrease { frame }),
        2 => (0..FRAMES - 4).prop_map(|base| Step::Tree { base }),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = (0..2_usize, step(), prop_oneof![3 => Just(u64::MAX), 2 => 0..6_u64], any::<bool>())
        .prop_map(|(who, step, preempt, give_up)| Move { who, step, preempt, give_up });
    proptest::collection::vec(one, 1..60)
}

impl World {
    /// A frame as `who` names it: 0 is one of its own, 1 one of the other's.
    fn named(&self, who: usize, (whose, n): Frame) -> Mfn {
        self.guests[(who + whose) % 2].mfns[n]
    }

    /// Makes a call under preemption; gives a preempted one up where told.
    fn attempt(
        &self,
        mv: &Move,
        args: [u64; 6],
        f: impl Fn(&mut crate::cx::Cx<'_, crate::fake::FakeMachine>, &Args) -> HypercallResult,
    ) {
        let mut args = Args(args);
        for turn in 0.. {
            self.m().preempt_after.store(mv.preempt, Relaxed);
            let result = self.with(mv.who, |cx| f(cx, &args));
            self.m().preempt_after.store(u64::MAX, Relaxed);
            match result {
                Err(Exit::Restart(next)) if !mv.give_up => args = next,
                Err(Exit::Crash(why)) => panic!("{why}"),
                _ => return,
            }
            self.assert_sound();
            // The other vcpu's unfinished work is in the way, and it is not its turn.
            if turn > 50 {
                return;
            }
        }
    }

    fn make(&self, mv: &Move) {
        let who = mv.who;
        let own = |n: usize| self.guests[who].mfns[n];
        match &mv.step {
            Step::Batch(updates) => {
                let updates: Vec<_> = updates
                    .iter()
                    .map(|(table, index, target, flags)| MmuUpdate {
                        ptr: (own(*table).raw() << 12) + INDICES[*index] * 8,
                        val: FLAGS.get(*flags).map_or(0, |f| pte(self.named(who, *target), *f)),
                    })
                    .collect();
                self.put_args(updates.as_slice().as_bytes());
                let n = u64::try_from(updates.len()).unwrap();
                self.attempt(mv, [ARGS, n, 0, SELF, 0, 0], mmu::mmu_update);
            }
            step => self.make_one(mv, step),
        }
    }

    fn make_one(&self, mv: &Move, step: &Step) {
        let who = mv.who;
        let own = |n: usize| self.guests[who].mfns[n];
        match *step {
            Step::Batch(_) => {}
            Step::Update { table, index, target, flags, clear, foreign } => {
                let value = if clear { 0 } else { pte(self.named(who, target), FLAGS[flags]) };
                let ptr = (own(table).raw() << 12) + INDICES[index] * 8 + if foreign { 2 } else { 0 };
                let update = MmuUpdate { ptr, val: value };
                self.put_args(update.as_bytes());
                let domid = if foreign { u64::from(self.guests[1 - who].dom.id.raw()) } else { SELF };
                self.attempt(mv, [ARGS, 1, 0, domid, 0, 0], mmu::mmu_update);
            }
            Step::Poke { frame, index, target } => {
                // As a guest's store through a writable mapping: only to what may be mapped writable.
                let value = pte(own(target), 0x65);
                let page = self.w.hv.frames.get_page_writable(self.m(), own(frame), self.guests[who].dom.id);
                if let Ok(page) = page {
                    self.poke(page.mfn(), usize::try_from(INDICES[index]).unwrap(), value);
                }
            }
            Step::Ext { cmd, frame } => {
                let request = op(COMMANDS[cmd], self.named(who, frame).raw(), 0);
                self.put_args(request.as_bytes());
                self.attempt(mv, [ARGS, 1, 0, SELF, 0, 0], mmuext::mmuext_op);
            }
            Step::VaMapping { va, target, flags } => {
                let value = pte(self.named(who, target), FLAGS[flags]);
                self.attempt(mv, [va, value, 0, 0, 0, 0], mmu::update_va_mapping);
            }
            Step::Grant { va, target, write, remove } => self.grant(who, va, target, write, remove),
            Step::Decrease { frame } => {
                let mut bytes = [0_u8; 40];
                bytes[..8].copy_from_slice(&(ARGS + 64).to_le_bytes());
                bytes[8] = 1;
                bytes[24..26].copy_from_slice(&0x7ff0_u16.to_le_bytes());
                self.put_args(&[&bytes[..], &[0; 24], &own(frame).raw().to_le_bytes()].concat());
                self.attempt(mv, [1, ARGS, 0, 0, 0, 0], memory::memory_op);
            }
            Step::Tree { base } => {
                for n in 0..3 {
                    let table =
                        self.w.hv.frames.get_page_writable(self.m(), own(base + n), self.guests[who].dom.id);
                    if table.is_ok() {
                        self.poke(own(base + n), 0, pte(own(base + n + 1), 0x67));
                    }
                }
            }
        }
    }

    fn grant(&self, who: usize, va: u64, target: Frame, write: bool, remove: bool) {
        let mfn = self.named(who, target);
        let owner: DomId = self.guests[(who + target.0) % 2].dom.id;
        let at = HostAddress::Va(GuestVa::new(va));
        let _ = self.with(who, |cx| {
            if remove {
                return remove_host_mapping(cx, &mut ForOne, at, mfn, write);
            }
            let frame = cx.hv.frames.get_leaf(cx.m, mfn, owner, write)?;
            let avail = pv_abi::pte::PteFlags::empty();
            install_host_mapping(cx, &mut ForOne, at, frame, MapFor::Kernel, avail)
        });
    }
}

fn walk(privileges: [Privilege; 2], moves: &[Move]) {
    let w = World::new(&privileges, u64::try_from(FRAMES).unwrap());
    for mv in moves {
        w.make(mv);
        let wrong = w.audit();
        assert!(wrong.is_empty(), "after {mv:?}: {wrong:#?}");
    }
    for g in [0, 1] {
        for _ in 0..1000 {
            if relinquish(&w.w.hv, w.m(), &w.guests[g].dom).is_ok() {
                break;
            }
        }
        w.assert_sound();
    }
    let dom = |g: usize| w.guests[g].dom.mem.tot_pages();
    assert_eq!((dom(0), dom(1)), (0, 0), "every frame comes back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_guests_never_break_the_books(moves in moves()) {
        walk([Privilege::Unprivileged, Privilege::Unprivileged], &moves);
    }

    #[test]
    fn a_control_domain_and_a_guest_never_break_the_books(moves in moves()) {
        walk([Privilege::Control, Privilege::Unprivileged], &moves);
    }
}
