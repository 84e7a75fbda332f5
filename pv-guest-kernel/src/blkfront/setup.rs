//! Connecting to a back end.

use alloc::format;

use pv_abi::io::blkif::{MAX_INDIRECT_PAGES, MAX_SEGMENTS, SEGMENTS_PER_INDIRECT_PAGE, VdiskFlags};

use super::disk::Info;
use crate::event::{self, EventChannel};
use crate::grant::{Access, GrantedPages};
use crate::hypercall::{Errno, Result};
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::View;

/// Most segments of one request: 256 KiB. Pages for them are taken from the pool.
const MOST_SEGMENTS: usize = 64;

/// What a connection consists of.
pub(super) struct Connection {
    pub(super) device: Device,
    pub(super) ring: GrantedPages,
    pub(super) channel: EventChannel,
    pub(super) info: Info,
}

/// Goes through the states until both ends are connected.
pub(super) async fn connect(mut device: Device) -> Result<Connection> {
    device
        .wait_backend(|state| {
            matches!(state, XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected)
        })
        .await?;
    let ring = GrantedPages::new(device.backend(), 1, Access::ReadWrite)?;
    // The ring must be in order before the back end sees it.
    super::disk::init_ring(&ring)?;
    let channel = event::alloc_unbound(device.backend())?;
    publish(&device, &ring, &channel).await?;
    device.wait_backend(|state| state == XenbusState::Connected).await?;
    let info = read_info(&device).await?;
    device.set_state(XenbusState::Connected).await?;
    Ok(Connection { device, ring, channel, info })
}

async fn publish(device: &Device, ring: &GrantedPages, channel: &EventChannel) -> Result {
    let reference = ring.references().first().ok_or(Errno::Inval)?.raw();
    let port = channel.port().raw();
    let store = device.store();
    store
        .transact(async |view: &View| {
            view.write(&device.node("ring-ref"), format!("{reference}")).await?;
            view.write(&device.node("event-channel"), format!("{port}")).await?;
            view.write(&device.node("protocol"), "x86_64-abi").await?;
            view.write(&device.node("feature-persistent"), "1").await
        })
        .await?;
    device.set_state(XenbusState::Initialised).await
}

async fn read_info(device: &Device) -> Result<Info> {
    let sectors = device.backend_number("sectors").await?.ok_or(Errno::NoEnt)?;
    let sector_size: u32 = device.backend_number("sector-size").await?.unwrap_or(512);
    let flags = VdiskFlags::from_bits_retain(device.backend_number("info").await?.unwrap_or(0));
    let flush: u32 = device.backend_number("feature-flush-cache").await?.unwrap_or(0);
    let indirect: usize = device.backend_number("feature-max-indirect-segments").await?.unwrap_or(0);
    let most = MOST_SEGMENTS.min(MAX_INDIRECT_PAGES * SEGMENTS_PER_INDIRECT_PAGE);
    Ok(Info {
        sectors,
        sector_size,
        read_only: flags.contains(VdiskFlags::READONLY),
        can_flush: flush != 0,
        max_segments: indirect.min(most).max(MAX_SEGMENTS),
        indirect: indirect > MAX_SEGMENTS,
    })
}
