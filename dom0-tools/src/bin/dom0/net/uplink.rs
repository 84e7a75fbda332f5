//! The port that leads to the machine's network card.

use alloc::rc::Rc;
use alloc::string::String;

use dom0_tools::net::switch::{Identity, PortId};
use dom0_tools::net::{FrameData, MAX_WIRE_FRAME, Takes};
use pv_guest_kernel::task;

use super::bridge::{Bridge, Outlet};
use super::frame::Frame;
use crate::virtio::net::Nic;

/// Frames that are passed on before other tasks have their turn.
const TURN: usize = 32;

struct Uplink(Rc<Nic>);

impl Outlet for Uplink {
    fn name(&self) -> String {
        self.0.name().into()
    }

    fn takes(&self) -> Takes {
        Takes::default()
    }

    fn deliver(&self, frame: Rc<Frame>) -> bool {
        frame.frame_len() <= MAX_WIRE_FRAME && self.0.send(frame)
    }
}

/// Hangs a network card on a switch, for good.
pub(crate) fn attach(bridge: Rc<Bridge>, nic: Rc<Nic>) {
    // The card's own address is nobody's: dom0 does not speak on it.
    let port = bridge.attach(Identity::default(), Rc::new(Uplink(nic.clone())));
    task::spawn(pass_on(bridge, port, nic)).detach();
}

async fn pass_on(bridge: Rc<Bridge>, port: PortId, nic: Rc<Nic>) {
    loop {
        for _ in 0..TURN {
            let Some(frame) = nic.take() else { break };
            bridge.input(port, &Rc::new(frame));
        }
        if nic.has_frames() {
            task::yield_now().await;
        } else {
            nic.wait().await;
        }
    }
}
