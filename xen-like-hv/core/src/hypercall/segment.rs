//! `set_segment_base`, `stack_switch`, `fpu_taskswitch`: what a kernel sets at each of its context switches.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::trap::SegmentBase;

use crate::cx::Cx;
use crate::error::{Args, HypercallResult};
use crate::port::{Machine, TaskSwitched};
use crate::regs::is_canonical;

/// `set_segment_base`: `(which, base or selector)`.
///
/// # Errors
/// `EINVAL` for a base that is not canonical, or for an unknown register.
#[inline(always)]
pub fn set_segment_base<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let which = SegmentBase::from_raw(args.low32(0)).ok_or(Errno::Inval)?;
    let base = args.get(1);
    if which != SegmentBase::GsUserSel && !is_canonical(base) {
        return Err(Errno::Inval.into());
    }
    match which {
        SegmentBase::Fs => cx.m.set_fs_base(base),
        SegmentBase::GsUser => cx.m.set_gs_base_hidden(base),
        SegmentBase::GsKernel => cx.m.set_gs_base(base),
        SegmentBase::GsUserSel => {
            let selector = args.low16(1);
            let selector = if selector > 3 { selector | 3 } else { selector };
            // A selector that does not load leaves the null selector there; the ABI reports no error.
            let _null_now = cx.m.load_user_gs_selector(selector);
        }
    }
    Ok(0)
}

/// `stack_switch`: `(stack selector, stack pointer)` for entries from user mode.
///
/// # Errors
/// None: a pointer into the hypervisor's area is found out when a frame is to be pushed there.
#[inline(always)]
pub fn stack_switch<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    cx.vcpu.entry.kernel_ss.store(u64::from(args.low16(0) | 3), Relaxed);
    cx.vcpu.entry.kernel_sp.store(args.get(1), Relaxed);
    Ok(0)
}

/// `fpu_taskswitch`: `(set)`: whether the next FPU instruction raises #NM.
///
/// # Errors
/// None.
#[inline(always)]
pub fn fpu_taskswitch<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let set = args.low32(0) != 0;
    cx.vcpu.entry.task_switched.store(set, Relaxed);
    cx.m.set_ts(if set { TaskSwitched::Set } else { TaskSwitched::Clear });
    Ok(0)
}
