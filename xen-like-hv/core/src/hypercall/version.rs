//! `HYPERVISOR_xen_version`: which hypervisor this is, and what it can do.
//!
//! The version is that of the control interfaces, 4.17. Everything but the command line is for any guest.

use pv_abi::errno::Errno;
use pv_abi::version::{
    CAPABILITIES_INFO_LEN, CHANGESET_INFO_LEN, COMMANDLINE_LEN, EXTRAVERSION_LEN, Feature, XenCompileInfo,
    XenFeatureInfo, XenPlatformParameters, XenVersionOp,
};
use pv_abi::vm_assist::VmAssist;

use super::GuestPtr;
use super::guest_ptr::HYPERVISOR_START;
use crate::access::{self, Privilege};
use crate::cx::Cx;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;

const MAJOR: u64 = 4;
const MINOR: u64 = 17;
const EXTRA: &str = ".0-xen-like-hv";
const CAPABILITIES: &str = "xen-3.0-x86_64 ";
const CHANGESET: &str = concat!("xen-like-hv ", env!("CARGO_PKG_VERSION"));
/// What a domain sees instead of a text that is not for it.
const DENIED: &str = "<denied>";

/// The hypercall: `(operation, argument)`.
///
/// # Errors
/// `EFAULT` for an argument that cannot be accessed, `EINVAL` for a feature submap that does not exist, `ENOSYS` for
/// an unknown operation.
#[inline(always)]
pub fn xen_version<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op = XenVersionOp::from_raw(args.low32(0)).ok_or(Errno::NoSys)?;
    let arg = args.get(1);
    match op {
        XenVersionOp::Version => Ok(MAJOR << 16 | MINOR),
        XenVersionOp::Extraversion => put_text::<M, EXTRAVERSION_LEN>(cx, arg, EXTRA),
        XenVersionOp::CompileInfo => put(cx, arg, &compile_info()),
        XenVersionOp::Capabilities => put_text::<M, CAPABILITIES_INFO_LEN>(cx, arg, CAPABILITIES),
        XenVersionOp::Changeset => put_text::<M, CHANGESET_INFO_LEN>(cx, arg, CHANGESET),
        XenVersionOp::PlatformParameters => {
            put(cx, arg, &XenPlatformParameters { virt_start: HYPERVISOR_START })
        }
        XenVersionOp::GetFeatures => get_features(cx, arg),
        XenVersionOp::Pagesize => {
            if arg == 0 {
                Ok(4096)
            } else {
                Err(Errno::Inval.into())
            }
        }
        XenVersionOp::GuestHandle => {
            let handle = cx.dom.slow.lock().handle;
            put(cx, arg, &handle)
        }
        XenVersionOp::Commandline => {
            let hv = cx.hv;
            let text =
                if access::control(cx.dom).is_ok() { hv.platform.command_line.as_str() } else { DENIED };
            put_text::<M, COMMANDLINE_LEN>(cx, arg, text)
        }
        XenVersionOp::BuildId => {
            access::control(cx.dom)?;
            Err(Errno::NoData.into())
        }
    }
}

/// Whether the plain version is asked for. Kernels use it as a call that does nothing, to have their events delivered: it
/// shall cost nothing.
#[inline(always)]
pub(super) fn is_plain(args: &Args) -> bool {
    args.low32(0) == XenVersionOp::Version.raw()
}

/// [`xen_version`] where [`is_plain`] holds.
#[inline(always)]
pub(super) fn plain<M: Machine>(_: &mut Cx<'_, M>, _: &Args) -> HypercallResult {
    Ok(MAJOR << 16 | MINOR)
}

fn put<M: Machine, T>(cx: &Cx<'_, M>, arg: u64, value: &T) -> HypercallResult
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    GuestPtr::<T>::new(arg)?.write(cx.m, value)?;
    Ok(0)
}

/// Text, cut where it must be, with a NUL and zeros behind it.
fn text<const N: usize>(s: &str) -> [u8; N] {
    let mut out = [0; N];
    for (slot, byte) in out.iter_mut().take(N.saturating_sub(1)).zip(s.bytes()) {
        *slot = byte;
    }
    out
}

fn put_text<M: Machine, const N: usize>(cx: &Cx<'_, M>, arg: u64, s: &str) -> HypercallResult {
    put(cx, arg, &text::<N>(s))
}

fn compile_info() -> XenCompileInfo {
    XenCompileInfo {
        compiler: text("rustc"),
        compile_by: text("seed"),
        compile_domain: text("seed"),
        compile_date: text(env!("CARGO_PKG_VERSION")),
    }
}

fn get_features<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let ptr = GuestPtr::<XenFeatureInfo>::new(arg)?;
    let mut info = ptr.read(cx.m)?;
    if info.submap_idx != 0 {
        return Err(Errno::Inval.into());
    }
    info.submap = Feature::MmuPtUpdatePreserveAd.bit()
        | Feature::HighmemAssist.bit()
        | Feature::GnttabMapAvailBits.bit()
        | Feature::MemoryOpVnodeSupported.bit()
        | Feature::DirectMapped.bit();
    if cx.dom.has_assist(VmAssist::PaeExtendedCr3) {
        info.submap |= Feature::PaePgdirAbove4gb.bit();
    }
    if cx.dom.privilege == Privilege::Control {
        info.submap |= Feature::Dom0.bit();
    }
    ptr.write(cx.m, &info)?;
    Ok(0)
}
