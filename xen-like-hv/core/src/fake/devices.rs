//! PCI devices with capabilities for messages, and whatever registers are written.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use hv_sync::{SpinLock, rank};

use crate::port::PortWidth;

/// Vectors that there are.
const VECTORS: usize = 6;

/// Where [`FakeDevices::plug`] puts capabilities.
pub mod at {
    /// MSI, with a 64-bit address and a mask.
    pub const MSI: u8 = 0x50;
    /// MSI-X.
    pub const MSIX: u8 = 0x70;
    /// Entries of the MSI-X table.
    pub const ENTRIES: u32 = 4;
    /// Machine address of BAR 1, which holds the MSI-X table and, a page behind it, the pending bits.
    pub const BAR: u64 = 0xf_e000_0000;
    /// Machine address of configuration space.
    pub const AREA: u64 = 0x4000_0000;
    /// Machine address of the table.
    pub const TABLE: u64 = BAR + 0x1000;
}

/// State of the devices.
#[derive(Debug)]
pub struct FakeDevices {
    state: SpinLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Configuration space by bus, device and function.
    config: BTreeMap<u32, Vec<u8>>,
    registers: BTreeMap<u64, u8>,
    vectors: BTreeSet<u32>,
}

impl Default for FakeDevices {
    fn default() -> Self {
        Self { state: SpinLock::new(rank::CONSOLE, State::default()) }
    }
}

fn bytes(width: PortWidth) -> usize {
    match width {
        PortWidth::Byte => 1,
        PortWidth::Word => 2,
        PortWidth::Dword => 4,
    }
}

/// Device and place in its space, where the address asks for one.
fn place(address: u32, offset: u8) -> Option<(u32, usize)> {
    let reg = usize::try_from(address & 0xfc).unwrap_or(0) + usize::from(offset);
    (address >> 31 != 0).then_some((address >> 8 & 0xffff, reg))
}

impl FakeDevices {
    /// Adds a device with both kinds of messages; the number is bus, device and function.
    pub fn plug(&self, number: u32) {
        let mut space = alloc::vec![0; 256];
        let mut put = |at: usize, value: &[u8]| space[at..at + value.len()].copy_from_slice(value);
        put(0, &[0xf4, 0x1a, 0x42, 0x10]);
        put(4, &[2, 0, 0x10, 0]);
        // BAR 1 and 2 together: 64 bits.
        put(0x14, &(at::BAR | 4).to_le_bytes());
        put(0x34, &[at::MSI]);
        // 64-bit address, mask; next is MSI-X.
        put(at::MSI.into(), &[5, at::MSIX, 0x80, 1]);
        put(at::MSIX.into(), &[0x11, 0, 3, 0, 1, 0x10, 0, 0, 1, 0x20, 0, 0]);
        self.state.lock().config.insert(number, space);
    }

    /// Writes configuration space without a look at what the device would do.
    pub fn set_config(&self, number: u32, reg: u8, value: &[u8]) {
        if let Some(space) = self.state.lock().config.get_mut(&number) {
            space[usize::from(reg)..usize::from(reg) + value.len()].copy_from_slice(value);
        }
    }

    /// How many vectors are in use.
    pub fn vectors(&self) -> usize {
        self.state.lock().vectors.len()
    }

    pub(super) fn open_vector(&self, pirq: u32) -> bool {
        let mut state = self.state.lock();
        state.vectors.len() < VECTORS && state.vectors.insert(pirq)
    }

    pub(super) fn close_vector(&self, pirq: u32) {
        self.state.lock().vectors.remove(&pirq);
    }

    /// Reads configuration space.
    pub fn config_read(&self, address: u32, offset: u8, width: PortWidth) -> u32 {
        let state = self.state.lock();
        let found = place(address, offset).and_then(|(number, reg)| Some((state.config.get(&number)?, reg)));
        let byte = |n: usize| found.as_ref().map_or(0xff, |(space, reg)| space[reg + n]);
        (0..bytes(width)).rev().fold(0, |value, n| value << 8 | u32::from(byte(n)))
    }

    /// Writes configuration space.
    pub fn config_write(&self, address: u32, offset: u8, width: PortWidth, value: u32) {
        let mut state = self.state.lock();
        let Some((number, reg)) = place(address, offset) else { return };
        let Some(space) = state.config.get_mut(&number) else { return };
        space[reg..reg + bytes(width)].copy_from_slice(&value.to_le_bytes()[..bytes(width)]);
    }

    /// Reads a register.
    pub fn register_read(&self, at: u64, width: PortWidth) -> u32 {
        let state = self.state.lock();
        let bytes = at..at + u64::try_from(bytes(width)).unwrap_or(0);
        bytes
            .rev()
            .fold(0, |value, at| value << 8 | u32::from(state.registers.get(&at).copied().unwrap_or(0)))
    }

    /// Writes a register.
    pub fn register_write(&self, at: u64, width: PortWidth, value: u32) {
        let mut state = self.state.lock();
        for (at, byte) in (at..).zip(value.to_le_bytes()).take(bytes(width)) {
            state.registers.insert(at, byte);
        }
    }
}
