//! `callback_op`, `set_callbacks`, `nmi_op`: entry points of the guest's kernel that are not exceptions.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType, CallbackUnregister};
use pv_abi::errno::Errno;
use pv_abi::nmi::{NmiOp, XennmiCallback};
use pv_abi::trap::TrapFlags;

use super::GuestPtr;
use crate::cx::Cx;
use crate::entry::EventMasking;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;
use crate::regs::{GUEST_CS64, is_canonical};

/// Vector of the NMI handler in the trap table.
const NMI_VECTOR: u8 = 2;

/// `callback_op`: `(operation, argument)`.
///
/// # Errors
/// `EFAULT`; `EINVAL` for an address that is not canonical, or for taking away a callback that a kernel cannot do without;
/// `ENOSYS` for an unknown operation or kind.
pub fn callback_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    match CallbackOp::from_raw(args.low32(0)) {
        Some(CallbackOp::Register) => {
            let reg = GuestPtr::<CallbackRegister>::new(args.get(1))?.read(cx.m)?;
            let kind = CallbackType::from_raw(reg.kind);
            register(cx, kind, CallbackFlags::from_bits_retain(reg.flags), reg.address)
        }
        Some(CallbackOp::Unregister) => {
            let unreg = GuestPtr::<CallbackUnregister>::new(args.get(1))?.read(cx.m)?;
            unregister(cx, CallbackType::from_raw(unreg.kind))
        }
        None => Err(Errno::NoSys.into()),
    }
}

/// `set_callbacks`: `(event, failsafe, syscall)`, the older form. An address that is not canonical is passed over.
///
/// # Errors
/// None.
pub fn set_callbacks<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let kinds = [CallbackType::Event, CallbackType::Failsafe, CallbackType::Syscall];
    for (index, kind) in kinds.into_iter().enumerate() {
        let _passed_over = register(cx, Some(kind), CallbackFlags::empty(), args.get(index));
    }
    Ok(0)
}

/// `nmi_op`: `(operation, argument)`.
///
/// # Errors
/// As [`callback_op`].
pub fn nmi_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    match NmiOp::from_raw(args.low32(0)) {
        Some(NmiOp::RegisterCallback) => {
            let cb = GuestPtr::<XennmiCallback>::new(args.get(1))?.read(cx.m)?;
            register(cx, Some(CallbackType::Nmi), CallbackFlags::empty(), cb.handler_address)
        }
        Some(NmiOp::UnregisterCallback) => unregister(cx, Some(CallbackType::Nmi)),
        None => Err(Errno::NoSys.into()),
    }
}

fn register<M: Machine>(
    cx: &Cx<'_, M>,
    kind: Option<CallbackType>,
    flags: CallbackFlags,
    address: u64,
) -> HypercallResult {
    if !is_canonical(address) {
        return Err(Errno::Inval.into());
    }
    let entry = &cx.vcpu.entry;
    let masking =
        if flags.contains(CallbackFlags::MASK_EVENTS) { EventMasking::Mask } else { EventMasking::Keep };
    match kind.ok_or(Errno::NoSys)? {
        // The upcall masks events whatever the flag says: else it would be entered again at once.
        CallbackType::Event => entry.event.set(address, EventMasking::Mask),
        CallbackType::Failsafe => entry.failsafe.set(address, masking),
        CallbackType::Syscall => entry.syscall.set(address, masking),
        CallbackType::Syscall32 => entry.syscall32.set(address, masking),
        CallbackType::Sysenter => entry.sysenter.set(address, masking),
        CallbackType::Nmi => {
            if let Some(gate) = entry.trap(NMI_VECTOR) {
                let cs = u16::try_from(GUEST_CS64).unwrap_or(0);
                gate.set(address, cs, TrapFlags::MASK_EVENTS.bits());
            }
        }
        CallbackType::SysenterDeprecated => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

fn unregister<M: Machine>(cx: &Cx<'_, M>, kind: Option<CallbackType>) -> HypercallResult {
    match kind.ok_or(Errno::NoSys)? {
        CallbackType::Event | CallbackType::Failsafe | CallbackType::Syscall | CallbackType::Sysenter => {
            Err(Errno::Inval.into())
        }
        CallbackType::Nmi => {
            if let Some(gate) = cx.vcpu.entry.trap(NMI_VECTOR) {
                gate.clear();
            }
            cx.vcpu.entry.nmi_pending.store(false, Relaxed);
            Ok(0)
        }
        CallbackType::Syscall32 | CallbackType::SysenterDeprecated => Err(Errno::NoSys.into()),
    }
}
