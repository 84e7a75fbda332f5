//! Control and debug registers and XCR0 as a guest's kernel sees them.

use core::sync::atomic::Ordering::Relaxed;

use super::xstate;
use crate::cx::Cx;
use crate::error::Args;
use crate::hypercall::debugreg;
use crate::port::{Machine, TaskSwitched};

/// CR0 without TS: PG, AM, WP, NE, ET, MP, PE.
const CR0: u64 = 0x8005_0033;
/// Task switched.
const CR0_TS: u64 = 1 << 3;
/// CR4 that a guest always sees: PAE, MCE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x660;
/// CR4 bits that a guest owns where the CPU has the feature: TSD, DE, FSGSBASE, OSXSAVE.
const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;

/// The bits of CR4 that this guest may change: those whose feature CPUID shows it.
fn guest_cr4_bits<M: Machine>(cx: &Cx<'_, M>) -> u64 {
    let hw = |leaf, subleaf| cx.m.cpuid(leaf, subleaf);
    let shown = super::view(cx, 1);
    let mut bits = CR4_TSD | CR4_DE;
    if super::cpuid::answer(&hw, &shown, 7, 0)[1] & 1 != 0 {
        bits |= CR4_FSGSBASE;
    }
    if super::cpuid::answer(&hw, &shown, 1, 0)[2] >> 26 & 1 != 0 {
        bits |= CR4_OSXSAVE;
    }
    bits
}

/// CLTS.
pub(super) fn clear_task_switched<M: Machine>(cx: &Cx<'_, M>) {
    cx.vcpu.entry.task_switched.store(false, Relaxed);
    cx.m.set_ts(TaskSwitched::Clear);
}

/// The value of a control register; `None` for one that is not there.
pub(super) fn read_cr<M: Machine>(cx: &Cx<'_, M>, cr: u8) -> Option<u64> {
    let entry = &cx.vcpu.entry;
    match cr {
        0 => Some(CR0 | if entry.task_switched.load(Relaxed) { CR0_TS } else { 0 }),
        2 => Some(cx.vcpu.events.cr2(cx.m)),
        3 => cx.vcpu.mm.kernel_root().map(|root| root.to_maddr().raw()),
        4 => Some(CR4 | entry.cr4.load(Relaxed)),
        8 => Some(0),
        _ => None,
    }
}

/// Writes a control register; false where the guest may not, or not so. CR3 is loaded by hypercall only: checking a new
/// root may take long, and an instruction cannot be continued.
pub(super) fn write_cr<M: Machine>(cx: &Cx<'_, M>, cr: u8, value: u64) -> bool {
    let entry = &cx.vcpu.entry;
    match cr {
        0 if value & !CR0_TS == CR0 => {
            let set = value & CR0_TS != 0;
            entry.task_switched.store(set, Relaxed);
            cx.m.set_ts(if set { TaskSwitched::Set } else { TaskSwitched::Clear });
            true
        }
        2 => {
            cx.vcpu.events.store_cr2(cx.m, value);
            true
        }
        4 => {
            // What is not the guest's keeps its value, as the ABI has it.
            let own = value & guest_cr4_bits(cx);
            entry.cr4.store(own, Relaxed);
            cx.m.set_guest_cr4(own);
            true
        }
        8 => value == 0,
        _ => false,
    }
}

fn register_args(dr: u8, value: u64) -> Args {
    Args([u64::from(dr), value, 0, 0, 0, 0])
}

/// The value of a debug register; `None` for one that is not there.
pub(super) fn read_dr<M: Machine>(cx: &mut Cx<'_, M>, dr: u8) -> Option<u64> {
    debugreg::get_debugreg(cx, &register_args(dr, 0)).ok()
}

/// Writes a debug register under the rules of the hypercall.
pub(super) fn write_dr<M: Machine>(cx: &mut Cx<'_, M>, dr: u8, value: u64) -> bool {
    debugreg::set_debugreg(cx, &register_args(dr, value)).is_ok()
}

/// XSETBV of register 0 (XSA-54: only combinations that the CPU takes).
pub(super) fn set_xcr0<M: Machine>(cx: &Cx<'_, M>, value: u64) -> bool {
    let hw = |leaf, subleaf| cx.m.cpuid(leaf, subleaf);
    if !xstate::is_valid(value, xstate::allowed(&hw)) {
        return false;
    }
    cx.vcpu.entry.xcr0.store(value, Relaxed);
    cx.m.set_xcr0(value);
    true
}
