//! What a domain finds in xenstore, and who may touch it.
//!
//! A guest reads its own directory and writes only what is meant to be written by it. Where its rings
//! are, which back end serves it and what its console is belong to dom0, so that a guest cannot
//! redirect dom0's services (XSA-57, XSA-175).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};

use super::ports::{Access, DiskInfo, Store};
use crate::cfg::{DiskAccess, DiskConfig, DomainConfig, VifConfig};
use crate::ctl::render::uuid as uuid_text;
use crate::net::Mac;

/// dom0's, readable by the guest.
type Perms = ((DomId, Access), [(DomId, Access); 1]);

/// A domain's directory.
pub(super) fn home(dom: DomId) -> String {
    format!("/local/domain/{}", dom.raw())
}

/// The directory that outlives a domain's number.
pub(super) fn vm(handle: &[u8; 16]) -> String {
    format!("/vm/{}", uuid_text(handle))
}

/// Where dom0's block back ends for a domain are.
pub(super) fn vbd_backends(dom: DomId) -> String {
    format!("/local/domain/0/backend/vbd/{}", dom.raw())
}

/// Where dom0's network back ends for a domain are.
pub(super) fn vif_backends(dom: DomId) -> String {
    format!("/local/domain/0/backend/vif/{}", dom.raw())
}

const fn read_only(dom: DomId) -> Perms {
    ((DomId::DOM0, Access::None), [(dom, Access::Read)])
}

/// Writes some children of a directory.
fn write_all(store: &mut dyn Store, dir: &str, values: &[(&str, &str)]) -> Result<(), Errno> {
    values.iter().try_for_each(|(name, value)| store.write(&format!("{dir}/{name}"), value.as_bytes()))
}

/// The directory with the name in it: done first, so that the name is taken.
pub(super) fn claim_name(
    store: &mut dyn Store,
    dom: DomId,
    handle: &[u8; 16],
    name: &str,
) -> Result<(), Errno> {
    let home = home(dom);
    store.mkdir(&home)?;
    let (owner, others) = read_only(dom);
    store.set_perms(&home, owner, &others)?;
    let vm = vm(handle);
    store.mkdir(&vm)?;
    store.set_perms(&vm, owner, &others)?;
    write_all(store, &vm, &[("uuid", &uuid_text(handle)), ("name", name)])?;
    write_all(store, &home, &[("name", name), ("vm", &vm), ("domid", &dom.raw().to_string())])
}

/// All the rest that does not depend on devices.
pub(super) fn describe(store: &mut dyn Store, dom: DomId, config: &DomainConfig) -> Result<(), Errno> {
    let home = home(dom);
    let kib = |mib: u64| (mib * 1024).to_string();
    write_all(
        store,
        &home,
        &[
            ("memory/static-max", &kib(config.maxmem_mib)),
            ("memory/target", &kib(config.memory_mib)),
            ("device", ""),
            ("control", ""),
            ("control/platform-feature-multiprocessor-suspend", "1"),
            ("control/platform-feature-xs_reset_watches", "1"),
        ],
    )?;
    for vcpu in 0..config.maxvcpus {
        let state = if vcpu < config.vcpus { "online" } else { "offline" };
        store.write(&format!("{home}/cpu/{vcpu}/availability"), state.as_bytes())?;
    }
    // What the guest itself writes: its answer to a shutdown request, what it can do, its own data.
    for own in [
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "data",
        "drivers",
        "error",
    ] {
        let path = format!("{home}/{own}");
        store.mkdir(&path)?;
        store.set_perms(&path, (dom, Access::None), &[])?;
    }
    Ok(())
}

/// The store's and the console's rings.
pub(super) fn rings(
    store: &mut dyn Store,
    dom: DomId,
    xenstore: (Mfn, EvtchnPort),
    console: (Mfn, EvtchnPort),
) -> Result<(), Errno> {
    let home = home(dom);
    let text = |(mfn, port): (Mfn, EvtchnPort)| (mfn.raw().to_string(), port.raw().to_string());
    let (ring, port) = text(xenstore);
    write_all(store, &format!("{home}/store"), &[("ring-ref", &ring), ("port", &port)])?;
    let (ring, port) = text(console);
    let values =
        [("ring-ref", ring.as_str()), ("port", &port), ("type", "xenconsoled"), ("limit", "1048576")];
    write_all(store, &format!("{home}/console"), &values)
}

/// The two directories of a device: the guest writes its own and reads the other.
fn both_ends(store: &mut dyn Store, dom: DomId, front: &str, back: &str) -> Result<(), Errno> {
    store.mkdir(front)?;
    store.set_perms(front, (dom, Access::None), &[(DomId::DOM0, Access::Read)])?;
    store.mkdir(back)?;
    let (owner, others) = read_only(dom);
    store.set_perms(back, owner, &others)
}

/// A block device: the front end's directory, then the back end's; the states come last, for they are
/// what both ends wait for.
pub(super) fn vbd(
    store: &mut dyn Store,
    dom: DomId,
    disk: &DiskConfig,
    info: &DiskInfo,
) -> Result<(), Errno> {
    let number = disk.vdev.number.to_string();
    let front = format!("{}/device/vbd/{number}", home(dom));
    let back = format!("{}/{number}", vbd_backends(dom));
    both_ends(store, dom, &front, &back)?;
    let mode = match disk.access {
        DiskAccess::ReadOnly => "r",
        DiskAccess::ReadWrite => "w",
    };
    let front_values = [
        ("backend", back.as_str()),
        ("backend-id", "0"),
        ("virtual-device", &number),
        ("device-type", "disk"),
        ("state", "1"),
    ];
    write_all(store, &front, &front_values)?;
    let back_values = [
        ("frontend", front.as_str()),
        ("frontend-id", &dom.raw().to_string()),
        ("online", "1"),
        ("removable", "0"),
        ("bootable", "1"),
        ("dev", &disk.vdev.name),
        ("type", "phy"),
        ("mode", mode),
        ("persistent", if disk.persistent { "1" } else { "0" }),
        ("device-type", "disk"),
        ("params", &disk.target),
        ("physical-device", &info.physical_device),
        ("state", "1"),
    ];
    write_all(store, &back, &back_values)
}

/// A network interface, in the same order.
pub(super) fn vif(
    store: &mut dyn Store,
    dom: DomId,
    number: u32,
    vif: &VifConfig,
    mac: Mac,
) -> Result<(), Errno> {
    let (number, mac) = (number.to_string(), mac.to_string());
    let front = format!("{}/device/vif/{number}", home(dom));
    let back = format!("{}/{number}", vif_backends(dom));
    both_ends(store, dom, &front, &back)?;
    let front_values =
        [("backend", back.as_str()), ("backend-id", "0"), ("handle", &number), ("mac", &mac), ("state", "1")];
    write_all(store, &front, &front_values)?;
    if !vif.addresses.is_empty() {
        let text = |[a, b, c, d]: &[u8; 4]| format!("{a}.{b}.{c}.{d}");
        let all: Vec<String> = vif.addresses.iter().map(text).collect();
        store.write(&format!("{back}/ip"), all.join(" ").as_bytes())?;
    }
    if let Some(rate) = vif.rate {
        store.write(&format!("{back}/rate"), format!("{},{}", rate.bytes, rate.interval_us).as_bytes())?;
    }
    let back_values = [
        ("frontend", front.as_str()),
        ("frontend-id", &dom.raw().to_string()),
        ("online", "1"),
        ("type", "vif"),
        ("handle", &number),
        ("mac", &mac),
        ("bridge", &vif.bridge),
        ("state", "1"),
    ];
    write_all(store, &back, &back_values)
}

/// What others do with a disk of dom0's: nothing, read, or write.
pub(super) fn disk_use(store: &mut dyn Store, physical_device: &str) -> Option<DiskAccess> {
    const ROOT: &str = "/local/domain/0/backend/vbd";
    let mut found = None;
    for dom in store.directory(ROOT).unwrap_or_default() {
        for number in store.directory(&format!("{ROOT}/{dom}")).unwrap_or_default() {
            let mut is = |name: &str, value: &str| {
                store
                    .read(&format!("{ROOT}/{dom}/{number}/{name}"))
                    .is_ok_and(|read| read == value.as_bytes())
            };
            if is("physical-device", physical_device) {
                if is("mode", "w") {
                    return Some(DiskAccess::ReadWrite);
                }
                found = Some(DiskAccess::ReadOnly);
            }
        }
    }
    found
}

/// Whether another interface has this address.
pub(super) fn has_mac(store: &mut dyn Store, mac: Mac) -> bool {
    const ROOT: &str = "/local/domain/0/backend/vif";
    let text = mac.to_string();
    let domains = store.directory(ROOT).unwrap_or_default();
    domains.iter().any(|dom| {
        let numbers = store.directory(&format!("{ROOT}/{dom}")).unwrap_or_default();
        let of = |number: &String| format!("{ROOT}/{dom}/{number}/mac");
        numbers.iter().any(|number| store.read(&of(number)).is_ok_and(|value| value == text.as_bytes()))
    })
}
