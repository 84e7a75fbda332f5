//! Several vcpus of two domains work on the same frames at once, on threads; the books are audited when all stand
//! still.
//!
//! What this is after: the step from no use to a use is made by one CPU (I4, XSA-401), locks against puts (XSA-242),
//! work that waits for other work ends (XSA-37, XSA-264).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{GuestVa, Mfn};
use pv_abi::mmu::{MmuUpdate, MmuextCmd};
use zerocopy::IntoBytes;

use super::teardown::relinquish;
use super::testing::{SELF, World, op, pte};
use crate::UserRegs;
use crate::access::Privilege;
use crate::cx::Cx;
use crate::error::{Args, Exit, HypercallResult};
use crate::fake::FakeMachine;
use crate::hypercall::{mmu, mmuext};
use crate::port::GuestMem;
use crate::vcpu::Vcpu;

const FRAMES: u64 = 6;

/// A small generator of numbers, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

struct Player<'a> {
    w: &'a World,
    guest: usize,
    vcpu: Arc<Vcpu>,
    /// Where its call arguments lie.
    args: u64,
    dice: Dice,
}

impl Player<'_> {
    fn frame(&mut self) -> Mfn {
        let n = usize::try_from(self.dice.roll(FRAMES)).unwrap();
        let whose = if self.dice.roll(8) == 0 { 1 - self.guest } else { self.guest };
        self.w.guests[whose].mfns[n]
    }

    fn call(&mut self, bytes: &[u8], f: fn(&mut Cx<'_, FakeMachine>, &Args) -> HypercallResult) {
        self.w.m().copy_to_guest(GuestVa::new(self.args), bytes).unwrap();
        let mut args = Args([self.args, 1, 0, SELF, 0, 0]);
        for _ in 0..self.dice.roll(30) + 1 {
            let mut regs = UserRegs::default();
            let (hv, m) = (&self.w.w.hv, self.w.m());
            let dom = &self.w.guests[self.guest].dom;
            let mut cx = Cx::new(hv, m, dom, &self.vcpu, &mut regs);
            match f(&mut cx, &args) {
                Err(Exit::Restart(next)) => args = next,
                _ => return,
            }
        }
    }

    fn play(&mut self) {
        let (a, b) = (self.frame(), self.frame());
        let index = [0, 1, 511][usize::try_from(self.dice.roll(3)).unwrap()];
        match self.dice.roll(8) {
            0..=4 => {
                let flags = [0x67, 0x65, 0x63, 0x65][usize::try_from(self.dice.roll(4)).unwrap()];
                let val = if self.dice.roll(4) == 0 { 0 } else { pte(b, flags) };
                let request = MmuUpdate { ptr: (a.raw() << 12) + index * 8, val };
                self.call(request.as_bytes(), mmu::mmu_update);
            }
            n => {
                let commands = [
                    MmuextCmd::PinL1Table,
                    MmuextCmd::PinL2Table,
                    MmuextCmd::PinL4Table,
                    MmuextCmd::UnpinTable,
                    MmuextCmd::UnpinTable,
                    MmuextCmd::NewUserBaseptr,
                ];
                let at = usize::try_from(self.dice.roll(3) * 2 + n % 2).unwrap();
                self.call(op(commands[at], a.raw(), 0).as_bytes(), mmuext::mmuext_op);
            }
        }
    }
}

fn round(seed: u64) {
    let w = World::new(&[Privilege::Unprivileged, Privilege::Control], FRAMES);
    let vcpus: Vec<_> = (0..3_usize).map(|n| (n % 2, w.guests[n % 2].dom.add_vcpu())).collect();
    std::thread::scope(|scope| {
        for (n, (guest, vcpu)) in (0_u64..).zip(&vcpus) {
            let args = 0x20_0000 + n * 0x1000;
            w.m().map_guest_page(args);
            let dice = Dice(seed * 64 + n * 7 + 1);
            let mut player = Player { w: &w, guest: *guest, vcpu: vcpu.clone(), args, dice };
            scope.spawn(move || (0..150).for_each(|_| player.play()));
        }
        // Somebody else always wants a pcpu, sooner or later.
        scope.spawn(|| (0..2000).for_each(|n| w.m().preempt_after.store(n % 7, Relaxed)));
    });
    w.m().preempt_after.store(u64::MAX, Relaxed);
    w.assert_sound();
    for g in [0, 1, 0] {
        for _ in 0..1000 {
            if relinquish(&w.w.hv, w.m(), &w.guests[g].dom).is_ok() {
                break;
            }
        }
        w.assert_sound();
    }
    assert_eq!(w.guests[0].dom.mem.tot_pages() + w.guests[1].dom.mem.tot_pages(), 0);
}

#[test]
fn vcpus_at_once_never_break_the_books() {
    // Few rounds and players: on a busy host the fake machine's ticket locks make each wait a time slice long.
    for seed in 1..16 {
        round(seed);
    }
}
