//! A switch with what hangs on its ports.
//!
//! Whoever takes a frame in has it treated for each receiver: a checksum completed, a large packet cut, unless the
//! receiver takes it as it is. So the sender pays for what its frames cost.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use dom0_tools::net::headers::Head;
use dom0_tools::net::offload::{self, Need, Segments};
use dom0_tools::net::switch::{Counters, Identity, PortId, Route, Switch};
use dom0_tools::net::{Checksum, FrameData, Gso, MAX_WIRE_FRAME, Mac, Meta, Takes};
use pv_guest_kernel::time;

use super::frame::Frame;

/// What hangs on a port.
pub(crate) trait Outlet {
    /// What it is called.
    fn name(&self) -> String;
    /// What it takes besides frames as they are on a wire.
    fn takes(&self) -> Takes;
    /// Takes a frame; false if there is no room. Nothing here waits.
    fn deliver(&self, frame: Rc<Frame>) -> bool;
}

struct Plug {
    outlet: Rc<dyn Outlet>,
    mac: Option<Mac>,
}

/// A port as a user sees it.
pub(crate) struct PortView {
    /// What hangs on it.
    pub(crate) name: String,
    /// Its own address.
    pub(crate) mac: Option<Mac>,
    /// What went through it.
    pub(crate) counters: Counters,
}

/// A switch.
pub(crate) struct Bridge {
    name: String,
    switch: RefCell<Switch>,
    plugs: RefCell<BTreeMap<PortId, Plug>>,
}

impl Bridge {
    /// A switch with nothing on it.
    pub(crate) fn new(name: &str) -> Rc<Self> {
        Rc::new(Self {
            name: name.into(),
            switch: RefCell::new(Switch::new()),
            plugs: RefCell::new(BTreeMap::new()),
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Hangs something on a new port.
    pub(crate) fn attach(&self, identity: Identity, outlet: Rc<dyn Outlet>) -> PortId {
        let mac = identity.mac;
        let port = self.switch.borrow_mut().attach(identity);
        self.plugs.borrow_mut().insert(port, Plug { outlet, mac });
        port
    }

    /// Takes a port away.
    pub(crate) fn detach(&self, port: PortId) {
        self.switch.borrow_mut().detach(port);
        // What hung there may look at this switch when it ends.
        let gone = self.plugs.borrow_mut().remove(&port);
        drop(gone);
    }

    /// The ports as they are now.
    pub(crate) fn view(&self) -> Vec<PortView> {
        let switch = self.switch.borrow();
        let view = |(port, plug): (&PortId, &Plug)| PortView {
            name: plug.outlet.name(),
            mac: plug.mac,
            counters: switch.counters(*port),
        };
        self.plugs.borrow().iter().map(view).collect()
    }

    /// A frame from a port could not even be taken in.
    pub(crate) fn count_bad(&self, from: PortId) {
        self.switch.borrow_mut().count_in_dropped(from);
    }

    /// A frame comes in from a port.
    pub(crate) fn input(&self, from: PortId, frame: &Rc<Frame>) {
        let head = Head::of(&**frame);
        let route = self.switch.borrow_mut().route(from, &head, time::now_ns());
        match route {
            Route::Drop => {}
            Route::To(port) => {
                if let Some(plug) = self.plugs.borrow().get(&port) {
                    self.pass(port, &*plug.outlet, frame);
                }
            }
            Route::Flood => {
                for (port, plug) in self.plugs.borrow().iter().filter(|(port, _)| **port != from) {
                    self.pass_flooded(*port, &*plug.outlet, frame);
                }
            }
        }
    }

    /// A packet to be cut would become many for each port: it is cut for a known receiver alone. What TCP sends again is
    /// one segment, whose answer makes the receiver known.
    fn pass_flooded(&self, port: PortId, outlet: &dyn Outlet, frame: &Rc<Frame>) {
        match offload::need(&**frame, frame.meta(), outlet.takes()) {
            Need::Cut(_) => self.switch.borrow_mut().count_out_dropped(port),
            Need::Nothing | Need::Complete => self.pass(port, outlet, frame),
        }
    }

    fn pass(&self, port: PortId, outlet: &dyn Outlet, frame: &Rc<Frame>) {
        match offload::need(&**frame, frame.meta(), outlet.takes()) {
            Need::Nothing => self.hand_over(port, outlet, frame.clone()),
            Need::Complete => {
                if offload::complete(&**frame).is_ok() {
                    frame.set_meta(Meta { checksum: Checksum::Good, gso: None });
                    self.hand_over(port, outlet, frame.clone());
                } else {
                    self.switch.borrow_mut().count_out_dropped(port);
                }
            }
            Need::Cut(gso) => self.cut(port, outlet, frame, gso),
        }
    }

    fn hand_over(&self, port: PortId, outlet: &dyn Outlet, frame: Rc<Frame>) {
        let len = frame.frame_len();
        let taken = outlet.deliver(frame);
        let mut switch = self.switch.borrow_mut();
        if taken {
            switch.count_out(port, len);
        } else {
            switch.count_out_dropped(port);
        }
    }

    /// Hands the segments over that a large packet stands for. What does not go out is for TCP to send again.
    fn cut(&self, port: PortId, outlet: &dyn Outlet, frame: &Rc<Frame>, gso: Gso) {
        let Ok(segments) = Segments::of(&**frame, gso) else {
            self.switch.borrow_mut().count_out_dropped(port);
            return;
        };
        let mut buffer = [0; MAX_WIRE_FRAME];
        let meta = Meta { checksum: Checksum::Good, gso: None };
        for number in 0..segments.count() {
            let Some(len) = segments.build(number, &mut buffer) else { return };
            let Some(segment) = Frame::with_pieces([len].into_iter(), meta) else {
                self.switch.borrow_mut().count_out_dropped(port);
                return;
            };
            segment.write(0, buffer.get(..len).unwrap_or_default());
            self.hand_over(port, outlet, Rc::new(segment));
        }
    }
}
