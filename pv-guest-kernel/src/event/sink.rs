//! Where the sinks of the ports are kept.

use alloc::boxed::Box;
use core::sync::atomic::AtomicBool;

use pv_abi::ids::EvtchnPort;

use super::Sink;
use super::hold::Hold;
use crate::sync::IrqLock;
use crate::task::Notify;

/// A place for a sink that is made when it is first needed and never goes away.
pub(super) struct OnceSink(spin::Once<Box<Sink>>);

impl OnceSink {
    pub(super) const fn new() -> Self {
        Self(spin::Once::new())
    }

    pub(super) fn get(&self) -> Option<&Sink> {
        self.0.get().map(|sink| &**sink)
    }

    pub(super) fn get_or_make(&self, port: EvtchnPort) -> &Sink {
        self.0.call_once(|| {
            Box::new(Sink {
                port,
                handler: IrqLock::new(None),
                notify: Notify::new(),
                bound: AtomicBool::new(false),
                hold: Hold::new(),
            })
        })
    }
}
