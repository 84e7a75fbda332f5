//! Interrupt lines: one event channel per GSI, and the devices that share the line.
//!
//! On QEMU's PC board the PCI slots share four lines. A level-triggered line stays up until every device on it
//! has been looked at, so each event asks them all, and only then tells the hypervisor that the line may fire again.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::privileged::pirq::Irq;
use pv_guest_kernel::task;

/// A device that may have raised its line.
pub(crate) trait Interrupt {
    /// Looks for work and quiets the device.
    fn interrupt(&self);
}

type Sharers = Rc<RefCell<Vec<Rc<dyn Interrupt>>>>;

/// All lines in use.
#[derive(Default)]
pub(crate) struct Lines {
    by_gsi: BTreeMap<u32, Sharers>,
}

impl Lines {
    /// Has `device` asked whenever line `gsi` fires.
    pub(crate) fn attach(&mut self, gsi: u32, device: Rc<dyn Interrupt>) -> Result<(), Errno> {
        if let Some(sharers) = self.by_gsi.get(&gsi) {
            sharers.borrow_mut().push(device);
            return Ok(());
        }
        let irq = Irq::bind_pci_gsi(gsi)?;
        let sharers = Rc::new(RefCell::new(alloc::vec![device]));
        self.by_gsi.insert(gsi, sharers.clone());
        task::spawn(serve(irq, sharers)).detach();
        Ok(())
    }
}

async fn serve(irq: Irq, sharers: Sharers) {
    loop {
        irq.wait().await;
        for device in sharers.borrow().iter() {
            device.interrupt();
        }
        irq.eoi();
    }
}
