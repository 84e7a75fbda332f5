//! Frames of devices that domains may map read-only: tables of messages in use, and configuration space in memory.
//!
//! A mapping that asks for more becomes read-only, and a store to it goes to the hypervisor (`mm::fault`). A writable mapping
//! from before stays what it is: devices have no list of who maps them.

use alloc::vec::Vec;

use hv_sync::RwLock;
use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;

/// Most ranges. Room for all of them is there from the beginning: nothing allocates under the lock.
const MOST: usize = 512;

/// The ranges, first and last frame. A frame may be in several.
#[derive(Debug)]
pub struct ReadOnlyDevices {
    ranges: RwLock<Vec<(Mfn, Mfn)>>,
}

impl Default for ReadOnlyDevices {
    fn default() -> Self {
        Self { ranges: RwLock::new(Vec::with_capacity(MOST)) }
    }
}

impl ReadOnlyDevices {
    /// Adds a range.
    ///
    /// # Errors
    /// `ENOMEM` when there are too many.
    pub fn add(&self, range: (Mfn, Mfn)) -> Result<(), Errno> {
        let mut ranges = self.ranges.write();
        if ranges.len() >= MOST {
            return Err(Errno::NoMem);
        }
        ranges.push(range);
        Ok(())
    }

    /// Takes a range away, once.
    pub fn remove(&self, range: (Mfn, Mfn)) {
        let mut ranges = self.ranges.write();
        if let Some(index) = ranges.iter().position(|known| *known == range) {
            ranges.swap_remove(index);
        }
    }

    /// Whether a frame is in one of them.
    #[must_use]
    pub fn contains(&self, mfn: Mfn) -> bool {
        self.ranges.read().iter().any(|(first, last)| (*first..=*last).contains(&mfn))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.read().is_empty()
    }
}
