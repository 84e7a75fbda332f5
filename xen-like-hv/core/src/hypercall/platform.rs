//! `HYPERVISOR_platform_op`, interface 0x03000001: the machine as dom0 looks after it.
//!
//! Order of checks: the argument can be read (`EFAULT`), the version fits (`EACCES`), the caller may (`EPERM`). The time of
//! day, the final power-off and the pcpus' names are offered; microcode, C- and P-states, firmware tables and hot-plug answer `ENOSYS`.

use pv_abi::errno::Errno;
use pv_abi::platform::{
    INTERFACE_VERSION, PCPU_INVALID, PCPU_ONLINE, PlatformCmd, PlatformOp, XenpfEnterAcpiSleep,
    XenpfPcpuinfo, XenpfSettime32, XenpfSettime64,
};

use super::GuestPtr;
use crate::access;
use crate::cx::Cx;
use crate::domain::{lifecycle, wallclock};
use crate::error::{Args, HypercallResult};
use crate::port::Machine;

const NS_PER_S: u64 = 1_000_000_000;
/// Sleep state S5: off.
const SOFT_OFF: u32 = 5;

/// The hypercall: `(argument)`.
///
/// # Errors
/// See the module; `EINVAL` for reserved fields that are set, and for sleep states other than off.
pub fn platform_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op = GuestPtr::<PlatformOp>::new(args.get(0))?.read(cx.m)?;
    if op.interface_version != INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    access::control(cx.dom)?;
    match PlatformCmd::from_raw(op.cmd).ok_or(Errno::NoSys)? {
        PlatformCmd::SetTime32 => {
            let time: XenpfSettime32 = op.payload();
            set_time(cx, u64::from(time.secs), time.nsecs, time.system_time);
        }
        PlatformCmd::SetTime64 => {
            let time: XenpfSettime64 = op.payload();
            if time.mbz != 0 {
                return Err(Errno::Inval.into());
            }
            set_time(cx, time.secs, time.nsecs, time.system_time);
        }
        PlatformCmd::EnterAcpiSleep => {
            let sleep: XenpfEnterAcpiSleep = op.payload();
            if sleep.sleep_state != SOFT_OFF {
                return Err(Errno::Inval.into());
            }
            lifecycle::shutdown(cx.hv, cx.m, cx.dom, lifecycle::SHUTDOWN_POWEROFF);
        }
        PlatformCmd::GetCpuInfo => return cpu_info(cx, args, op),
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

/// What the firmware calls a pcpu. A number without a pcpu is no error: the answer says so.
fn cpu_info<M: Machine>(cx: &Cx<'_, M>, args: &Args, mut op: PlatformOp) -> HypercallResult {
    let mut info: XenpfPcpuinfo = op.payload();
    let names = &cx.hv.platform.cpu_names;
    info.max_present = u32::try_from(names.len()).unwrap_or(u32::MAX).saturating_sub(1);
    match usize::try_from(info.xen_cpuid).ok().and_then(|n| names.get(n)) {
        Some(name) => {
            (info.apic_id, info.acpi_id) = (name.apic_id, name.acpi_id);
            info.flags = PCPU_ONLINE;
        }
        None => info.flags = PCPU_INVALID,
    }
    op.set_payload(&info);
    GuestPtr::<PlatformOp>::new(args.get(0))?.write(cx.m, &op)?;
    Ok(0)
}

fn set_time<M: Machine>(cx: &Cx<'_, M>, secs: u64, nsecs: u32, system_time_ns: u64) {
    let epoch_ns = secs.saturating_mul(NS_PER_S).saturating_add(u64::from(nsecs));
    wallclock::set(cx.hv, cx.m, epoch_ns, system_time_ns);
}
