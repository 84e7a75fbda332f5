//! Network interfaces that come and go while a domain runs: the interface's part of [`super::hotplug`].

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::error::Doing;
use super::hotplug::{Device, DeviceKind, remove, running, state_of, text};
use super::{Env, Error, control, nodes};
use crate::cfg::VifConfig;
use crate::net::Mac;

/// Most interfaces of a domain.
const MAX_VIFS: u32 = 64;

/// What a list shows of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VifRow {
    /// Its number.
    pub number: u32,
    /// Its address.
    pub mac: String,
    /// The back end's state.
    pub state: u32,
    /// The front end's event channel, if it has told one.
    pub port: Option<u32>,
    /// The front end's rings, if it has told them: sending, receiving.
    pub rings: (Option<u32>, Option<u32>),
    /// The switch.
    pub bridge: String,
    /// The back end's directory.
    pub backend: String,
}

/// Gives a running domain an interface, with the lowest number that is free; the interface and its address.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, `NotRunning`, `MacInUse`, or the store's refusal; then nothing has changed.
pub fn attach_vif(env: &mut Env<'_>, dom: DomId, vif: &VifConfig) -> Result<(Device, Mac), Error> {
    running(env, dom)?;
    let device = (0..MAX_VIFS).map(|number| vif_device(dom, number)).find(|device| !device.exists(env.store));
    let full = Error::Refused { doing: "finding a number for the interface", errno: Errno::NoSpc };
    let device = device.ok_or(full)?;
    let mac = vif.address(&control::domain_name(env, dom), device.number);
    if nodes::has_mac(env.store, mac) {
        return Err(Error::MacInUse(mac));
    }
    let written = nodes::vif(env.store, dom, device.number, vif, mac).doing("writing xenstore");
    if written.is_err() {
        // The error that led here is the one to report.
        let _ = remove(env, &device);
    }
    written.map(|()| (device, mac))
}

const fn vif_device(dom: DomId, number: u32) -> Device {
    Device { dom, kind: DeviceKind::Vif, number }
}

/// The interface that a user means by its number or its address.
///
/// # Errors
/// `NoSuchDevice`.
pub fn find_vif(env: &mut Env<'_>, dom: DomId, name: &str) -> Result<Device, Error> {
    let rows = list_vifs(env, dom)?;
    let wanted = Mac::parse(name).map(|mac| mac.to_string());
    let is_meant = |row: &VifRow| wanted.as_ref() == Some(&row.mac) || name.parse() == Ok(row.number);
    let found = rows.iter().find(|row| is_meant(row)).map(|row| vif_device(dom, row.number));
    found.ok_or_else(|| Error::NoSuchDevice { dom, name: name.to_string() })
}

/// The interfaces of a domain.
///
/// # Errors
/// The store's refusal.
pub fn list_vifs(env: &mut Env<'_>, dom: DomId) -> Result<Vec<VifRow>, Error> {
    let names = match env.store.directory(&nodes::vif_backends(dom)) {
        // It never had one.
        Err(Errno::NoEnt) => Vec::new(),
        names => names.doing("reading xenstore")?,
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|number| row(env, &vif_device(dom, number))).collect())
}

fn row(env: &mut Env<'_>, device: &Device) -> VifRow {
    let (front, back) = (device.frontend(), device.backend());
    let mut number = |name: &str| text(env.store, &format!("{front}/{name}"))?.trim().parse().ok();
    let port = number("event-channel").or_else(|| number("event-channel-tx"));
    let rings = (number("tx-ring-ref"), number("rx-ring-ref"));
    let mut value = |name: &str| text(env.store, &format!("{back}/{name}")).unwrap_or_default();
    let (mac, bridge) = (value("mac"), value("bridge"));
    VifRow {
        number: device.number,
        mac,
        state: state_of(env.store, &back),
        port,
        rings,
        bridge,
        backend: back,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolstack::fake::World;
    use crate::toolstack::hotplug::{begin_detach, has_parted};
    use crate::toolstack::tests::started;

    fn attach(world: &mut World, dom: DomId, spec: &str) -> Result<(Device, Mac), Error> {
        attach_vif(&mut world.env(), dom, &VifConfig::from_words(spec).expect("an interface"))
    }

    #[test]
    fn an_interface_comes_and_goes_and_leaves_nothing() {
        let mut world = World::new();
        let dom = started(&mut world, "vif=['mac=00:16:3e:00:00:01']");
        let before = world.footprint();
        let (device, mac) = attach(&mut world, dom, "bridge=inner,rate=1Mb/s").expect("attached");
        assert_eq!((device.number, mac), (1, Mac::for_interface("g", 1)));
        let rows = list_vifs(&mut world.env(), dom).expect("a list");
        assert_eq!(rows.iter().map(|row| row.bridge.as_str()).collect::<Vec<_>>(), ["xenbr0", "inner"]);
        assert_eq!(find_vif(&mut world.env(), dom, "1"), Ok(device));
        assert_eq!(find_vif(&mut world.env(), dom, &mac.to_string()), Ok(device));
        begin_detach(&mut world.env(), &device).expect("begun");
        assert!(has_parted(&mut world.env(), &device), "no driver took it up");
        remove(&mut world.env(), &device).expect("removed");
        assert_eq!(world.footprint(), before);
    }

    #[test]
    fn what_cannot_be_attached_is_refused_and_changes_nothing() {
        let mut world = World::new();
        let dom = started(&mut world, "vif=['mac=00:16:3e:00:00:01']");
        let before = world.nodes();
        let taken = Mac([0, 0x16, 0x3e, 0, 0, 1]);
        assert_eq!(attach(&mut world, dom, "mac=00:16:3e:00:00:01"), Err(Error::MacInUse(taken)));
        assert_eq!(attach(&mut world, DomId::DOM0, ""), Err(Error::IsDom0));
        assert_eq!(attach(&mut world, DomId::new(9), ""), Err(Error::NoSuchDomain("9".into())));
        for absent in ["1", "00:16:3e:00:00:02", "eth0"] {
            let error = Error::NoSuchDevice { dom, name: absent.into() };
            assert_eq!(find_vif(&mut world.env(), dom, absent), Err(error));
        }
        assert_eq!(world.nodes(), before);
    }
}
