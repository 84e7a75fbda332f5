//! Devices that come and go while a domain runs.
//!
//! To attach one is to write its nodes: both ends watch for them. To detach one takes the guest's consent: the back end's
//! state says Closing, the guest lets go and says Closed, the back end follows, and then the nodes go. A guest that
//! does not answer can have it taken away: what it still does with the device then fails.
//!
//! | state of a detachment | who moves on |
//! |---|---|
//! | both ends at work | [`begin_detach`] |
//! | back end's state is Closing | the guest, then the back end; or whoever gives up waiting |
//! | [`has_parted`] | [`remove`] |

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::io::xenbus::XenbusState;

use super::error::Doing;
use super::ports::{DiskInfo, Store};
use super::{Env, Error, control, nodes};
use crate::blkback::handshake::parse_state;
use crate::cfg::{DiskAccess, DiskConfig, vdev_number};

/// What kinds of devices there are; the name is that of the directories in xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk.
    Vbd,
    /// A network interface.
    Vif,
}

impl DeviceKind {
    /// The word in xenstore's paths.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }
}

/// A device of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whose.
    pub dom: DomId,
    /// Of what kind.
    pub kind: DeviceKind,
    /// Its number among the domain's devices of this kind.
    pub number: u32,
}

/// What a list shows of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its number.
    pub number: u32,
    /// The back end's state.
    pub state: u32,
    /// The front end's event channel, if it has told one.
    pub port: Option<u32>,
    /// The front end's ring, if it has told one.
    pub ring: Option<u32>,
    /// What dom0 uses for it.
    pub target: String,
    /// The back end's directory.
    pub backend: String,
}

impl Device {
    /// The guest's directory.
    #[must_use]
    pub fn frontend(&self) -> String {
        format!("{}/device/{}/{}", nodes::home(self.dom), self.kind.word(), self.number)
    }

    /// dom0's directory.
    #[must_use]
    pub fn backend(&self) -> String {
        format!(
            "{}/backend/{}/{}/{}",
            nodes::home(DomId::DOM0),
            self.kind.word(),
            self.dom.raw(),
            self.number
        )
    }

    pub(super) fn exists(&self, store: &mut dyn Store) -> bool {
        store.read(&self.backend()).is_ok()
    }
}

/// Refuses what cannot have devices: dom0, and domains that have stopped or are gone.
pub(super) fn running(env: &mut Env<'_>, dom: DomId) -> Result<(), Error> {
    if dom == DomId::DOM0 {
        return Err(Error::IsDom0);
    }
    let info = env.hv.domain_info(dom).map_err(|errno| control::missing(dom, errno))?;
    if info.dying || info.shutdown.is_some() { Err(Error::NotRunning(dom)) } else { Ok(()) }
}

/// Looks at a disk of dom0's before a domain gets it.
pub(super) fn check_disk(env: &mut Env<'_>, disk: &DiskConfig) -> Result<DiskInfo, Error> {
    let refused = |errno| Error::Disk { target: disk.target.clone(), errno };
    let info = env.services.disk_info(&disk.target).map_err(refused)?;
    if info.read_only && disk.access == DiskAccess::ReadWrite {
        return Err(Error::ReadOnlyDisk(disk.target.clone()));
    }
    // Two kernels that cache one file system, one of which writes, would ruin it.
    match nodes::disk_use(env.store, &info.physical_device) {
        Some(used) if [used, disk.access].contains(&DiskAccess::ReadWrite) => Err(refused(Errno::Busy)),
        _ => Ok(info),
    }
}

/// Gives a running domain a disk.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, `NotRunning`, `DeviceExists`, `Disk`, `ReadOnlyDisk`, or the store's refusal; then nothing
/// has changed.
pub fn attach_disk(env: &mut Env<'_>, dom: DomId, disk: &DiskConfig) -> Result<Device, Error> {
    running(env, dom)?;
    let device = Device { dom, kind: DeviceKind::Vbd, number: disk.vdev.number };
    if device.exists(env.store) {
        return Err(Error::DeviceExists { dom, name: disk.vdev.name.clone() });
    }
    let info = check_disk(env, disk)?;
    let written = nodes::vbd(env.store, dom, disk, &info).doing("writing xenstore");
    if written.is_err() {
        // The error that led here is the one to report.
        let _ = remove(env, &device);
    }
    written.map(|()| device)
}

/// The disk that a user means: `xvdb`, or its number.
///
/// # Errors
/// `NoSuchDevice`.
pub fn find_disk(env: &mut Env<'_>, dom: DomId, name: &str) -> Result<Device, Error> {
    let number = vdev_number(name);
    let device = number.map(|number| Device { dom, kind: DeviceKind::Vbd, number });
    let found = device.filter(|device| device.exists(env.store));
    found.ok_or_else(|| Error::NoSuchDevice { dom, name: name.to_string() })
}

/// Asks both ends of a device to part.
///
/// # Errors
/// The store's refusal.
pub fn begin_detach(env: &mut Env<'_>, device: &Device) -> Result<(), Error> {
    let back = device.backend();
    let closing = XenbusState::Closing.raw().to_string();
    for (name, value) in [("online", "0"), ("state", closing.as_str())] {
        env.store.write(&format!("{back}/{name}"), value.as_bytes()).doing("writing xenstore")?;
    }
    Ok(())
}

/// Whether nobody uses a device any more: both ends have closed it, the guest never took it up, or it is gone.
pub fn has_parted(env: &mut Env<'_>, device: &Device) -> bool {
    let ours = state(env.store, &device.backend());
    let theirs = state(env.store, &device.frontend());
    match (ours, theirs) {
        (None, _) | (Some(XenbusState::Closed), _) => true,
        (_, theirs) => matches!(theirs, None | Some(XenbusState::Initialising)),
    }
}

/// Takes a device's nodes away; whoever still uses it loses it.
///
/// # Errors
/// The store's refusal.
pub fn remove(env: &mut Env<'_>, device: &Device) -> Result<(), Error> {
    // The back end's first: it lets go at once, whatever the guest does.
    for path in [device.backend(), device.frontend()] {
        env.store.remove(&path).doing("writing xenstore")?;
    }
    Ok(())
}

/// The devices of a domain.
///
/// # Errors
/// The store's refusal.
pub fn list_devices(env: &mut Env<'_>, dom: DomId, kind: DeviceKind) -> Result<Vec<DeviceRow>, Error> {
    let root = format!("{}/backend/{}/{}", nodes::home(DomId::DOM0), kind.word(), dom.raw());
    let names = match env.store.directory(&root) {
        // It never had one.
        Err(Errno::NoEnt) => Vec::new(),
        names => names.doing("reading xenstore")?,
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|number| row(env.store, &Device { dom, kind, number })).collect())
}

fn row(store: &mut dyn Store, device: &Device) -> DeviceRow {
    let (front, back) = (device.frontend(), device.backend());
    let state = state_of(store, &back);
    let mut number = |name: &str| text(store, &format!("{front}/{name}"))?.trim().parse().ok();
    let (port, ring) = (number("event-channel"), number("ring-ref"));
    let target = text(store, &format!("{back}/params")).unwrap_or_default();
    DeviceRow { number: device.number, state, port, ring, target, backend: back }
}

/// The number of the state in a device's directory.
pub(super) fn state_of(store: &mut dyn Store, dir: &str) -> u32 {
    state(store, dir).unwrap_or(XenbusState::Unknown).raw()
}

/// The text of a node.
pub(super) fn text(store: &mut dyn Store, path: &str) -> Option<String> {
    String::from_utf8(store.read(path).ok()?).ok()
}

/// The state in a device's directory; `None` if the directory is gone or has none.
fn state(store: &mut dyn Store, dir: &str) -> Option<XenbusState> {
    let value = store.read(&format!("{dir}/state")).ok()?;
    Some(parse_state(&value).unwrap_or(XenbusState::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cfg::parse_disk;
    use crate::toolstack::fake::World;
    use crate::toolstack::tests::started;

    const SPEC: &str = "phy:vdb,xvdb,w";

    fn attach(world: &mut World, dom: DomId, spec: &str) -> Result<Device, Error> {
        attach_disk(&mut world.env(), dom, &parse_disk(spec).expect("a disk"))
    }

    fn set(world: &mut World, dir: &str, state: XenbusState) {
        let value = state.raw().to_string();
        world.env().store.write(&format!("{dir}/state"), value.as_bytes()).expect("written");
    }

    #[test]
    fn a_disk_comes_and_goes_and_leaves_nothing() {
        let mut world = World::new();
        let dom = started(&mut world, "");
        // The directories that hold disks stay once they are there.
        let first = attach(&mut world, dom, SPEC).expect("attached");
        remove(&mut world.env(), &first).expect("removed");
        let before = world.footprint();
        let device = attach(&mut world, dom, SPEC).expect("attached");
        assert_eq!(find_disk(&mut world.env(), dom, "xvdb"), Ok(device));
        assert_eq!(find_disk(&mut world.env(), dom, "51728"), Ok(device));
        set(&mut world, &device.backend(), XenbusState::Connected);
        set(&mut world, &device.frontend(), XenbusState::Connected);
        begin_detach(&mut world.env(), &device).expect("begun");
        assert!(!has_parted(&mut world.env(), &device), "the guest still uses it");
        set(&mut world, &device.frontend(), XenbusState::Closed);
        assert!(!has_parted(&mut world.env(), &device), "the back end still holds it");
        set(&mut world, &device.backend(), XenbusState::Closed);
        assert!(has_parted(&mut world.env(), &device));
        remove(&mut world.env(), &device).expect("removed");
        assert!(has_parted(&mut world.env(), &device));
        assert_eq!(world.footprint(), before);
    }

    #[test]
    fn a_guest_without_a_driver_need_not_be_asked() {
        let mut world = World::new();
        let dom = started(&mut world, "");
        let device = attach(&mut world, dom, SPEC).expect("attached");
        begin_detach(&mut world.env(), &device).expect("begun");
        assert!(has_parted(&mut world.env(), &device));
    }

    #[test]
    fn what_cannot_be_attached_is_refused_and_changes_nothing() {
        let mut world = World::new();
        let dom = started(&mut world, "disk=['phy:vdb,xvda,w']");
        let before = world.nodes();
        let exists = Error::DeviceExists { dom, name: "xvda".into() };
        assert_eq!(attach(&mut world, dom, "phy:vdb,xvda,w"), Err(exists));
        assert!(matches!(attach(&mut world, dom, "phy:vdz,xvdb,w"), Err(Error::Disk { .. })));
        assert_eq!(attach(&mut world, dom, "phy:cd,xvdb,w"), Err(Error::ReadOnlyDisk("cd".into())));
        assert_eq!(attach(&mut world, DomId::DOM0, SPEC), Err(Error::IsDom0));
        assert_eq!(attach(&mut world, DomId::new(9), SPEC), Err(Error::NoSuchDomain("9".into())));
        let absent = Error::NoSuchDevice { dom, name: "xvdc".into() };
        assert_eq!(find_disk(&mut world.env(), dom, "xvdc"), Err(absent));
        assert_eq!(world.nodes(), before);
    }

    #[test]
    fn an_attachment_that_fails_half_way_is_undone() {
        let mut world = World::new();
        let dom = started(&mut world, "");
        let device = attach(&mut world, dom, SPEC).expect("attached");
        remove(&mut world.env(), &device).expect("removed");
        let before = world.footprint();
        for call in 1..40 {
            let calls = world.faults.borrow().calls;
            world.faults.borrow_mut().fail_at = Some(calls + call);
            let result = attach(&mut world, dom, SPEC);
            world.faults.borrow_mut().fail_at = None;
            match result {
                Ok(device) => {
                    remove(&mut world.env(), &device).expect("removed");
                    assert!(call > 10, "few calls can fail");
                    return;
                }
                Err(_) => assert_eq!(world.footprint(), before, "call {call}"),
            }
        }
        panic!("it never succeeded");
    }

    #[test]
    fn the_list_tells_what_both_ends_say() {
        let mut world = World::new();
        let dom = started(&mut world, "disk=['phy:vdb,xvda,w']");
        let device = find_disk(&mut world.env(), dom, "xvda").expect("there");
        let ring = format!("{}/ring-ref", device.frontend());
        world.env().store.write(&ring, b"8").expect("written");
        let rows = list_devices(&mut world.env(), dom, DeviceKind::Vbd).expect("a list");
        let row = rows.first().expect("a disk");
        assert_eq!((row.number, row.state, row.ring, row.port), (51712, 1, Some(8), None));
        assert_eq!(row.target, "vdb");
        assert_eq!(list_devices(&mut world.env(), DomId::new(7), DeviceKind::Vbd), Ok(Vec::new()));
    }
}
