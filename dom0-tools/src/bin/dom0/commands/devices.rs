//! Verbs that change what a running domain has: disks, vcpus, memory.

use alloc::format;
use alloc::string::ToString;
use core::time::Duration;

use dom0_tools::cfg::{VifConfig, parse_disk};
use dom0_tools::ctl::Exit;
use dom0_tools::ctl::command::Format;
use dom0_tools::ctl::render;
use dom0_tools::toolstack::{self, Device, DeviceKind};
use pv_guest_kernel::time;

use super::Outcome;
use super::domains::resolve;
use crate::session::Session;
use crate::toolstack::{Failure, Toolstack};

/// How long a guest may take to let go of a device.
const PARTING: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// `vcpu-set`
pub(super) fn vcpu_set(stack: &Toolstack, who: &str, vcpus: u32) -> Outcome {
    let dom = resolve(stack, who)?;
    stack.with_env(|env| toolstack::set_vcpus(env, dom, vcpus))?;
    stack.amend(dom, |config| config.vcpus = vcpus);
    Ok(())
}

/// `mem-set`
pub(super) fn mem_set(stack: &Toolstack, who: &str, mib: u64) -> Outcome {
    let dom = resolve(stack, who)?;
    stack.with_env(|env| toolstack::set_memory(env, dom, mib))?;
    stack.amend(dom, |config| config.memory_mib = mib);
    Ok(())
}

/// `block-attach`
pub(super) fn block_attach(stack: &Toolstack, who: &str, disk: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    let usage = |text| Failure { exit: Exit::Usage, text: format!("{disk}: {text}") };
    let disk = parse_disk(disk).map_err(usage)?;
    stack.with_env(|env| toolstack::attach_disk(env, dom, &disk))?;
    stack.amend(dom, |config| config.disks.push(disk));
    Ok(())
}

/// `block-detach`
pub(super) async fn block_detach(
    stack: &Toolstack,
    session: &Session,
    who: &str,
    vdev: &str,
    force: bool,
) -> Outcome {
    let dom = resolve(stack, who)?;
    let device = stack.with_env(|env| toolstack::find_disk(env, dom, vdev))?;
    detach(stack, session, &device, force).await?;
    stack.amend(dom, |config| config.disks.retain(|disk| disk.vdev.number != device.number));
    Ok(())
}

/// Takes a device away once the guest has let go of it; if forced, also when it does not.
pub(super) async fn detach(stack: &Toolstack, session: &Session, device: &Device, force: bool) -> Outcome {
    stack.with_env(|env| toolstack::begin_detach(env, device))?;
    match parted(stack, session, device).await {
        Err(_) if force => {}
        result => result?,
    }
    Ok(stack.with_env(|env| toolstack::remove(env, device))?)
}

/// Waits until nobody uses a device.
async fn parted(stack: &Toolstack, session: &Session, device: &Device) -> Outcome {
    let end = time::now_ns().saturating_add(u64::try_from(PARTING.as_nanos()).unwrap_or(u64::MAX));
    while !stack.with_env(|env| toolstack::has_parted(env, device)) {
        let given_up = session.unless_cancelled(time::sleep(LOOK)).await.is_none();
        if given_up || time::now_ns() >= end {
            let text = format!("domain {} does not let go of it; -f takes it away", device.dom.raw());
            return Err(Failure { exit: Exit::TimedOut, text });
        }
    }
    Ok(())
}

/// `network-attach`
pub(super) fn network_attach(stack: &Toolstack, session: &Session, who: &str, words: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    let vif = VifConfig::from_words(words).map_err(|text| Failure { exit: Exit::Usage, text })?;
    let (device, mac) = stack.with_env(|env| toolstack::attach_vif(env, dom, &vif))?;
    session.out(&format!("interface {} with address {mac}\n", device.number));
    // A domain that is made again keeps the address.
    stack.amend(dom, |config| config.vifs.push(VifConfig { mac: Some(mac), ..vif }));
    Ok(())
}

/// `network-detach`
pub(super) async fn network_detach(
    stack: &Toolstack,
    session: &Session,
    who: &str,
    name: &str,
    force: bool,
) -> Outcome {
    let dom = resolve(stack, who)?;
    let (device, rows) = stack.with_env(|env| {
        let rows = toolstack::list_vifs(env, dom)?;
        toolstack::find_vif(env, dom, name).map(|device| (device, rows))
    })?;
    let domain = stack.with_env(|env| toolstack::domain_name(env, dom));
    detach(stack, session, &device, force).await?;
    let mac = rows.iter().find(|row| row.number == device.number).map(|row| row.mac.clone());
    stack.amend(dom, |config| {
        let mut number = 0;
        config.vifs.retain_mut(|vif| {
            let own = vif.address(&domain, number);
            number += 1;
            // Those behind it get other numbers when the domain is made again, but not other addresses.
            vif.mac = Some(own);
            Some(own.to_string()) != mac
        });
    });
    Ok(())
}

/// `block-list`
pub(super) fn block_list(stack: &Toolstack, session: &Session, who: &str, format: Format) -> Outcome {
    let dom = resolve(stack, who)?;
    let rows = stack.with_env(|env| toolstack::list_devices(env, dom, DeviceKind::Vbd))?;
    session.out(&render::disks_of(&rows, format));
    Ok(())
}
