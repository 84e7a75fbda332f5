//! Pages for transfers, used again and again: frames that a device can address may be dear to come by.
//!
//! A page holds what its last user left in it. Users fill what they hand on, or have the device fill it.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Deref;

use pv_abi::frame::PAGE_SIZE;
use pv_guest_kernel::BootLocal;
use pv_guest_kernel::privileged::dma::DmaBuf;

/// Most pages kept for later (2 MiB).
const MOST_KEPT: usize = 512;

static KEPT: BootLocal<RefCell<Vec<DmaBuf>>> = BootLocal::new(RefCell::new(Vec::new()));

/// One page; goes back to the others when dropped.
pub(crate) struct TransferPage(Option<DmaBuf>);

impl TransferPage {
    /// A page, or `None` if there is no memory.
    pub(crate) fn take() -> Option<Self> {
        let kept = KEPT.get().borrow_mut().pop();
        kept.or_else(|| DmaBuf::alloc(PAGE_SIZE)).map(|page| Self(Some(page)))
    }

    /// `count` pages.
    pub(crate) fn take_many(count: usize) -> Option<Vec<Self>> {
        (0..count).map(|_| Self::take()).collect()
    }
}

impl Deref for TransferPage {
    type Target = DmaBuf;

    #[expect(clippy::expect_used, reason = "only drop takes the page out")]
    fn deref(&self) -> &DmaBuf {
        self.0.as_ref().expect("present until dropped")
    }
}

impl Drop for TransferPage {
    fn drop(&mut self) {
        let mut kept = KEPT.get().borrow_mut();
        if kept.len() < MOST_KEPT {
            kept.extend(self.0.take());
        }
    }
}
