//! `XEN_DOMCTL_createdomain`.

use pv_abi::domctl::{CreateFlags, Domctl, DomctlCreatedomain};
use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::{Done, Outcome};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::create::{self, Config};
use crate::port::Machine;

/// Makes a domain with the number that the caller asks for, or a free one where it asks for 0 or for none at all.
pub(super) fn create<M: Machine>(cx: &Cx<'_, M>, op: &mut Domctl) -> Outcome {
    let request: DomctlCreatedomain = op.payload();
    let config = checked(&request)?;
    let wanted = DomId::new(op.domain);
    let id = if wanted != DomId::DOM0 && wanted.is_ordinary() {
        if cx.hv.domains.get(wanted).is_some() {
            return Err(Errno::Exist.into());
        }
        wanted
    } else {
        cx.hv.domains.free_id().ok_or(Errno::NoMem)?
    };
    let dom = create::create(cx.hv, cx.m, id, &config)?;
    op.domain = dom.id.raw();
    Ok(Done::WithResults)
}

/// The configuration as far as it can be had: PV guests without devices of their own.
fn checked(request: &DomctlCreatedomain) -> Result<Config, Errno> {
    let flags = CreateFlags::from_bits(request.flags).ok_or(Errno::Inval)?;
    if !CreateFlags::XS_DOMAIN.contains(flags) || request.iommu_opts != 0 || request.vmtrace_size != 0 {
        return Err(Errno::Inval);
    }
    if request.cpupool_id != 0 || request.arch.emulation_flags != 0 {
        return Err(Errno::Inval);
    }
    Ok(Config {
        privilege: Privilege::Unprivileged,
        handle: request.handle,
        ssidref: request.ssidref,
        max_vcpus: request.max_vcpus,
        max_evtchn_port: request.max_evtchn_port,
        max_grant_frames: u32::try_from(request.max_grant_frames).ok(),
        max_maptrack_frames: u32::try_from(request.max_maptrack_frames).ok(),
        max_pages: 0,
    })
}
