//! `HYPERVISOR_vm_assist`: behaviours that a guest switches on for all of its vcpus.
//!
//! The 4 GiB-segment types and the extended CR3 concern 32-bit kernels; a 64-bit one may switch them without effect, as
//! the ABI has it.

use pv_abi::errno::Errno;
use pv_abi::vm_assist::{VmAssist, VmAssistCmd};

use crate::cx::Cx;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;

/// The types that are known here. `m2p_strict` is not: the table stays readable on user page tables.
pub(crate) fn is_supported(kind: VmAssist) -> bool {
    match kind {
        VmAssist::FourGbSegments
        | VmAssist::FourGbSegmentsNotify
        | VmAssist::WritablePagetables
        | VmAssist::PaeExtendedCr3
        | VmAssist::ArchitecturalIopl
        | VmAssist::RunstateUpdateFlag => true,
        VmAssist::M2pStrict => false,
    }
}

/// The hypercall: `(command, type)`.
///
/// # Errors
/// `EINVAL` for an unknown type, then `ENOSYS` for an unknown command.
pub fn vm_assist<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let kind = VmAssist::from_raw(args.low32(1)).filter(|&k| is_supported(k)).ok_or(Errno::Inval)?;
    let on = match VmAssistCmd::from_raw(args.low32(0)).ok_or(Errno::NoSys)? {
        VmAssistCmd::Enable => true,
        VmAssistCmd::Disable => false,
    };
    cx.dom.set_assist(kind, on);
    Ok(0)
}
