//! What dom0 writes to configuration space.
//!
//! All of it reaches the device but for the capabilities of messages: of MSI-X the control register alone can be written, two
//! bytes at a time; of MSI, while its message is in use, control and mask. What is refused vanishes, as on Xen.

use pv_abi::errno::Errno;

use super::config::{Msi, Msix};
use super::message::Which;
use super::{Address, Devices, State};
use crate::frame::FrameTable;
use crate::port::{DeviceRegisters, PortWidth};

/// A write: where, how wide, what.
#[derive(Clone, Copy, Debug)]
pub struct ConfigWrite {
    /// Register.
    pub register: u16,
    /// Width.
    pub width: PortWidth,
    /// Value.
    pub value: u32,
}

impl ConfigWrite {
    fn end(&self) -> u16 {
        self.register + self.width.bytes()
    }

    fn touches(&self, start: u16, end: u16) -> bool {
        self.register < end && start < self.end()
    }

    fn is_exactly(&self, register: u16, width: PortWidth) -> bool {
        self.register == register && self.width == width
    }
}

impl Devices {
    /// Has `write` write for dom0 what may be written; nothing where it may not.
    pub fn guest_write<M: DeviceRegisters>(
        &self,
        frames: &FrameTable,
        m: &M,
        at: Address,
        request: ConfigWrite,
        write: impl FnOnce(u32),
    ) {
        // Held until it is written: no message is mapped between the look and the write.
        let mut state = self.lock();
        if let Ok(value) = state.allowed(frames, m, at, request) {
            write(value);
            state.settle(frames, at);
        }
    }
}

impl State {
    /// What may be written instead of what was asked for.
    ///
    /// # Errors
    /// `EACCES`: nothing.
    fn allowed<M: DeviceRegisters>(
        &mut self,
        frames: &FrameTable,
        m: &M,
        at: Address,
        request: ConfigWrite,
    ) -> Result<u32, Errno> {
        let Ok(place) = self.place(at) else { return Ok(request.value) };
        let Some(device) = self.known.get(place) else { return Ok(request.value) };
        if let Some(msix) = device.msix
            && request.touches(msix, msix + Msix::BYTES)
        {
            if !request.is_exactly(msix + 2, PortWidth::Word) {
                return Err(Errno::Acces);
            }
            return self.table_control(frames, m, place, request.value);
        }
        let single = self.senders_of(at).find(|sender| sender.which == Which::Single);
        match (device.msi, single) {
            (Some(msi), Some(sender)) if request.touches(msi.at, msi.end()) => {
                single_control(msi, sender.masked, request)
            }
            _ => Ok(request.value),
        }
    }

    /// The table is read-only from when it is switched on: a dom0 maps it after that. A table that is nowhere cannot be
    /// switched on.
    fn table_control(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        place: usize,
        value: u32,
    ) -> Result<u32, Errno> {
        let enable = value & u32::from(Msix::ENABLE) != 0;
        if enable {
            self.protect(frames, m, place).map_err(|_| Errno::Acces)?;
        }
        if let Some(device) = self.known.get_mut(place) {
            device.enabled = enable;
        }
        Ok(value)
    }
}

/// Of MSI in use: control without other messages, and the mask, where what is not bound stays masked.
fn single_control(msi: Msi, masked: bool, request: ConfigWrite) -> Result<u32, Errno> {
    if request.is_exactly(msi.control(), PortWidth::Word) {
        return Ok(request.value & !u32::from(Msi::MULTIPLE));
    }
    match msi.mask() {
        Some(mask) if request.is_exactly(mask, PortWidth::Dword) => Ok(request.value | u32::from(masked)),
        _ => Err(Errno::Acces),
    }
}

/// The device and register that an address of mechanism 1 names, with the byte of the data window. The bits in which some
/// chipsets take more of the register's number name nothing: others do not look at them.
#[must_use]
pub fn named_by(address: u32, offset: u8) -> Option<(Address, u16)> {
    let [register, devfn, bus, top] = address.to_le_bytes();
    let at = Address { segment: 0, bus, devfn };
    (top == 0x80).then_some((at, u16::from(register & 0xfc) | u16::from(offset & 3)))
}
