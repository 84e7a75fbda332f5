//! The console ring of a domU.

#![expect(unsafe_code, reason = "a page shared with the console service, seen only as atomics")]

use core::time::Duration;

use pv_abi::frame::MACH2PHYS_VIRT_START;
use pv_abi::ids::EvtchnPort;
use pv_abi::io::console::XenconsInterface;

use crate::memory::{FIRST_REGION, PAGE_SIZE};
use crate::{Context, arch, event, sched, time};

/// How long output waits for room before it is dropped.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it sleeps at a time: the service notifies when it has made room, but perhaps not this vcpu.
const NAP: Duration = Duration::from_millis(5);

/// The ring page and its port.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    page: &'static XenconsInterface,
    port: EvtchnPort,
}

impl Ring {
    /// The ring that start_info names; dom0 has none.
    pub(super) fn find(context: &Context) -> Option<Self> {
        let info = context.start_info();
        if context.is_dom0() || info.console_mfn == 0 {
            return None;
        }
        // The builder put the page into the first region. This is before the p2m is set up, so the M2P is asked.
        let pfn = arch::probe::read_u64(MACH2PHYS_VIRT_START + info.console_mfn * 8)?;
        if pfn >= info.nr_pages {
            return None;
        }
        let address = FIRST_REGION + pfn * PAGE_SIZE as u64;
        let page = core::ptr::with_exposed_provenance::<XenconsInterface>(crate::memory::index(address));
        // SAFETY: a mapped page that stays so; the type is made of atomics.
        Some(Self { page: unsafe { &*page }, port: EvtchnPort::new(info.console_evtchn) })
    }

    pub(super) const fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Writes bytes, waiting for room within reason.
    pub(super) fn write(&self, mut bytes: &[u8]) {
        let ring = self.page.output_ring();
        let mut deadline = None;
        while !bytes.is_empty() {
            let Ok(written) = ring.write(bytes) else { return };
            bytes = &bytes[written..];
            if written > 0 {
                self.notify();
                deadline = None;
            } else if !wait_until(&mut deadline) {
                return;
            }
        }
    }

    /// Waits until the service has taken everything, within reason.
    pub(super) fn flush(&self) {
        let ring = self.page.output_ring();
        let mut deadline = None;
        self.notify();
        while ring.available().is_ok_and(|waiting| waiting > 0) {
            if !wait_until(&mut deadline) {
                return;
            }
        }
    }

    /// Takes typed bytes.
    pub(super) fn read(&self, into: &mut [u8]) -> usize {
        let count = self.page.input_ring().read(into).unwrap_or(0);
        if count > 0 {
            self.notify();
        }
        count
    }

    fn notify(&self) {
        let _ = event::notify_port(self.port);
    }
}

/// Sleeps for a moment; false once the patience that began with the first call is over.
fn wait_until(deadline: &mut Option<u64>) -> bool {
    let now = time::now_ns();
    let end = *deadline.get_or_insert_with(|| now + nanoseconds(PATIENCE));
    if now >= end {
        return false;
    }
    if sched::poll(&[], Some(now + nanoseconds(NAP))).is_err() {
        sched::yield_now();
    }
    true
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
