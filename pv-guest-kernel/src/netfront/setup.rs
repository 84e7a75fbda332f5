//! Connecting to a back end.

use alloc::format;

use pv_abi::io::netif::feature;

use super::Interface;
use super::half::{Receiver, Sender};
use crate::event;
use crate::hypercall::{Errno, Result};
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::View;

/// Goes through the states until both ends are connected.
pub(super) async fn connect(mut device: Device) -> Result<Interface> {
    device
        .wait_backend(|state| {
            matches!(state, XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected)
        })
        .await?;
    let mac = parse_mac(&device.store().read_text(&device.node("mac")).await?).ok_or(Errno::Inval)?;
    let (tx, rx) = (Sender::new(device.backend())?, Receiver::new(device.backend())?);
    let channel = event::alloc_unbound(device.backend())?;
    let values = [
        ("tx-ring-ref", tx.reference()),
        ("rx-ring-ref", rx.reference()),
        ("event-channel", channel.port().raw()),
        (feature::REQUEST_RX_COPY, 1),
        (feature::RX_NOTIFY, 1),
        (feature::NO_CSUM_OFFLOAD, 1),
    ];
    device
        .store()
        .transact(async |view: &View| {
            for (name, value) in values {
                view.write(&device.node(name), format!("{value}")).await?;
            }
            Ok(())
        })
        .await?;
    device.set_state(XenbusState::Connected).await?;
    device.wait_backend(|state| state == XenbusState::Connected).await?;
    Ok(Interface { device, channel, mac, tx, rx })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::parse_mac;

    #[test]
    fn addresses_are_read() {
        assert_eq!(parse_mac("00:16:3e:01:02:ff"), Some([0, 0x16, 0x3e, 1, 2, 0xff]));
        assert_eq!(parse_mac("00:16:3e:01:02"), None);
        assert_eq!(parse_mac("00:16:3e:01:02:03:04"), None);
    }
}
