//! Messages of devices: written, masked, taken back.
//!
//! A table is looked for anew before each access: where its BAR was moved, or memory was switched off, nothing is written. Who
//! moves a BAR while messages are in use has them masked or not as they were, until `PHYSDEVOP_restore_msi`.

use pv_abi::errno::Errno;

use super::config::{Config, Msi, Msix};
use super::{Address, Device, MOST_MESSAGES, State};
use crate::frame::FrameTable;
use crate::port::{DeviceRegisters, Interrupts, Message, PortWidth};

/// In an entry of a table: the low half of the address.
const ENTRY_ADDRESS: u64 = 0;
const ENTRY_ADDRESS_HIGH: u64 = 4;
const ENTRY_DATA: u64 = 8;
const ENTRY_CONTROL: u64 = 12;
/// In an entry's control word and in the mask of the other capability.
const MASKED: u32 = 1;

/// Which message of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one of the MSI capability.
    Single,
    /// An entry of the MSI-X table.
    Entry(u16),
}

/// What becomes of a device's sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// A message in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(super) at: Address,
    pub(super) which: Which,
    pub(super) pirq: u32,
    pub(super) masked: bool,
    message: Message,
}

fn low_half(address: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = address.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

fn high_half(address: u64) -> u32 {
    low_half(address >> 32)
}

impl State {
    /// Messages of a device that are in use.
    pub(super) fn senders_of(&self, at: Address) -> impl Iterator<Item = &Sender> {
        self.senders.iter().filter(move |sender| sender.at == at)
    }

    /// Whether a device's MSI-X capability is in use in any way that counts for `prepare_msix`.
    fn uses(&self, device: &Device) -> usize {
        let entries = self.senders_of(device.at).filter(|s| s.which != Which::Single).count();
        entries + usize::from(device.prepared)
    }

    /// Checks that a message can be given a pirq, and makes the table read-only to domains.
    ///
    /// # Errors
    /// `ENODEV` where there is no such device, or it has no such capability; `EINVAL` for an entry past the table; `EEXIST` for
    /// a message in use; `EBUSY` where the device uses the other capability; `ENXIO` where the device does not answer in memory
    /// or its table lies where none can; `ENOSPC`.
    pub(crate) fn prepare(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        at: Address,
        which: Which,
    ) -> Result<(), Errno> {
        let place = self.place(at)?;
        let device = self.known.get(place).ok_or(Errno::NoDev)?;
        let config = Config::new(m, at).ok_or(Errno::NoDev)?;
        match which {
            Which::Single => drop(device.msi.ok_or(Errno::NoDev)?),
            Which::Entry(number) => {
                let msix = device.msix.ok_or(Errno::NoDev)?;
                if number >= Msix::entries(&config, msix) {
                    return Err(Errno::Inval);
                }
            }
        }
        if self.senders_of(at).any(|sender| sender.which == which) {
            return Err(Errno::Exist);
        }
        let is_single = which == Which::Single;
        if self.senders_of(at).any(|sender| (sender.which == Which::Single) != is_single) {
            return Err(Errno::Busy);
        }
        if self.senders.len() == MOST_MESSAGES {
            return Err(Errno::NoSpc);
        }
        if is_single { Ok(()) } else { self.protect(frames, m, place) }
    }

    /// Makes a device's table read-only to domains, where that is not so yet.
    ///
    /// # Errors
    /// `ENXIO`, `ENODEV` as for [`Self::prepare`]; `ENOMEM`.
    pub(super) fn protect(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        place: usize,
    ) -> Result<(), Errno> {
        let device = self.known.get_mut(place).ok_or(Errno::NoDev)?;
        let config = Config::new(m, device.at).ok_or(Errno::NoDev)?;
        let msix = device.msix.ok_or(Errno::NoDev)?;
        if !config.decodes_memory() {
            return Err(Errno::NxIo);
        }
        let table = Msix::locate(&config, msix, frames).ok_or(Errno::NxIo)?;
        if device.table == Some(table) {
            return Ok(());
        }
        if device.table.is_some() {
            // Moved while it is in use: what is mapped is still at the old place.
            return Err(Errno::NxIo);
        }
        frames.read_only_devices().add(table.table_frames)?;
        if let Err(e) = frames.read_only_devices().add(table.pending_frames) {
            frames.read_only_devices().remove(table.table_frames);
            return Err(e);
        }
        device.table = Some(table);
        Ok(())
    }

    /// Lets domains write to a device's table again, where nothing uses it any more.
    pub(crate) fn settle(&mut self, frames: &FrameTable, at: Address) {
        let Ok(place) = self.place(at) else { return };
        let in_use = self.known.get(place).is_some_and(|device| device.enabled || self.uses(device) != 0);
        let Some(device) = self.known.get_mut(place).filter(|_| !in_use) else { return };
        if let Some(table) = device.table.take() {
            frames.read_only_devices().remove(table.table_frames);
            frames.read_only_devices().remove(table.pending_frames);
        }
    }

    /// Writes a message that [`Self::prepare`] has checked, masked.
    pub(crate) fn install(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        (at, which): (Address, Which),
        pirq: u32,
        message: Message,
    ) {
        let sender = Sender { at, which, pirq, masked: true, message };
        self.senders.push(sender);
        self.write(frames, m, &sender);
    }

    fn write(&self, frames: &FrameTable, m: &impl DeviceRegisters, sender: &Sender) {
        let (Ok(device), Some(config)) = (self.device(sender.at), Config::new(m, sender.at)) else { return };
        match sender.which {
            Which::Single => {
                if let Some(msi) = device.msi {
                    write_single(&config, msi, sender);
                }
            }
            Which::Entry(number) => {
                let Some(msix) = device.msix else { return };
                let control = config.read16(msix + 2);
                // Some devices have their table there only while it is switched on.
                config.write16(msix + 2, control | Msix::ENABLE | Msix::MASK_ALL);
                if let Some(entry) = entry_of(frames, &config, device, number) {
                    write_entry(m, entry, sender);
                }
                config.write16(msix + 2, control);
            }
        }
    }

    /// Masks or unmasks the message of a pirq, where it has a mask.
    pub(crate) fn set_mask(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        pirq: u32,
        masked: bool,
    ) {
        let Some(sender) = self.senders.iter_mut().find(|sender| sender.pirq == pirq) else { return };
        sender.masked = masked;
        let sender = *sender;
        self.write_mask(frames, m, &sender);
    }

    fn write_mask(&self, frames: &FrameTable, m: &impl DeviceRegisters, sender: &Sender) {
        let (Ok(device), Some(config)) = (self.device(sender.at), Config::new(m, sender.at)) else { return };
        match sender.which {
            Which::Single => {
                if let Some(mask) = device.msi.and_then(Msi::mask) {
                    let old = config.read(mask, PortWidth::Dword);
                    config.write(mask, PortWidth::Dword, with_mask(old, sender.masked));
                }
            }
            Which::Entry(number) => {
                if let Some(entry) = entry_of(frames, &config, device, number) {
                    write_entry_mask(m, entry, sender.masked);
                }
            }
        }
    }

    /// Takes the message of a pirq back: it is masked, and one without a mask is switched off.
    pub(crate) fn release(&mut self, frames: &FrameTable, m: &impl DeviceRegisters, pirq: u32) {
        let Some(index) = self.senders.iter().position(|sender| sender.pirq == pirq) else { return };
        let sender = Sender { masked: true, ..self.senders.swap_remove(index) };
        self.write_mask(frames, m, &sender);
        if sender.which == Which::Single {
            self.switch(m, (sender.at, sender.which), Switch::Off);
        }
        self.settle(frames, sender.at);
    }

    /// Lets a device send by the capability that has a message, or stops it.
    fn switch(&self, m: &impl DeviceRegisters, (at, which): (Address, Which), to: Switch) {
        let (Ok(device), Some(config)) = (self.device(at), Config::new(m, at)) else { return };
        if let Some((control, enable)) = device.switch_of(which) {
            let others = config.read16(control) & !enable;
            config.write16(control, if to == Switch::On { others | enable } else { others });
        }
    }

    /// Ends all messages of a device that is taken away, and their vectors.
    pub(super) fn silence(&mut self, frames: &FrameTable, m: &impl Interrupts, place: usize) {
        let Some(device) = self.known.get_mut(place) else { return };
        (device.prepared, device.enabled) = (false, false);
        let at = device.at;
        while let Some(Sender { pirq, .. }) = self.senders.iter().copied().find(|sender| sender.at == at) {
            self.release(frames, m, pirq);
            m.close_message(pirq);
        }
        self.switch(m, (at, Which::Entry(0)), Switch::Off);
        self.settle(frames, at);
    }

    /// `PHYSDEVOP_restore_msi`: writes all messages of a device again, after it has lost them, and switches it on.
    ///
    /// # Errors
    /// `ENODEV` where it is not known; `EINVAL` where its table is somewhere else now.
    pub(crate) fn restore(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        at: Address,
    ) -> Result<(), Errno> {
        let place = self.place(at)?;
        if self.senders_of(at).any(|sender| sender.which != Which::Single) {
            self.protect(frames, m, place).map_err(|_| Errno::Inval)?;
            self.known.get_mut(place).ok_or(Errno::NoDev)?.enabled = true;
        }
        for sender in self.senders_of(at) {
            self.write(frames, m, sender);
            self.write_mask(frames, m, sender);
            self.switch(m, (at, sender.which), Switch::On);
        }
        Ok(())
    }

    /// `PHYSDEVOP_prepare_msix`: keeps a device's table from domains before any of its entries is used.
    ///
    /// # Errors
    /// `ENODEV`; `EBUSY` where it is in use or prepared; `ENXIO`, `ENOMEM` as for [`Self::prepare`].
    pub(crate) fn prepare_table(
        &mut self,
        frames: &FrameTable,
        m: &impl DeviceRegisters,
        at: Address,
    ) -> Result<(), Errno> {
        let place = self.place(at)?;
        let device = self.known.get(place).filter(|device| device.msix.is_some()).ok_or(Errno::NoDev)?;
        if self.uses(device) != 0 {
            return Err(Errno::Busy);
        }
        self.protect(frames, m, place)?;
        self.known.get_mut(place).ok_or(Errno::NoDev)?.prepared = true;
        Ok(())
    }

    /// `PHYSDEVOP_release_msix`: undoes [`Self::prepare_table`].
    ///
    /// # Errors
    /// `ENODEV`; `EBUSY` where it is not prepared, or entries are used.
    pub(crate) fn release_table(&mut self, frames: &FrameTable, at: Address) -> Result<(), Errno> {
        let place = self.place(at)?;
        let device = self.known.get(place).filter(|device| device.msix.is_some()).ok_or(Errno::NoDev)?;
        if !device.prepared || self.uses(device) != 1 {
            return Err(Errno::Busy);
        }
        self.known.get_mut(place).ok_or(Errno::NoDev)?.prepared = false;
        self.settle(frames, at);
        Ok(())
    }
}

/// Where an entry of a device's table is, if the table is still where it was when it was protected, and answers.
fn entry_of<M: DeviceRegisters>(
    frames: &FrameTable,
    config: &Config<'_, M>,
    device: &Device,
    number: u16,
) -> Option<u64> {
    let msix = device.msix?;
    let now = Msix::locate(config, msix, frames).filter(|_| config.decodes_memory())?;
    let inside = number < Msix::entries(config, msix) && device.table == Some(now);
    inside.then_some(now.table + u64::from(number) * Msix::ENTRY)
}

fn with_mask(old: u32, masked: bool) -> u32 {
    if masked { old | MASKED } else { old & !MASKED }
}

fn write_entry_mask(m: &impl DeviceRegisters, entry: u64, masked: bool) {
    let old = m.register_read(entry + ENTRY_CONTROL, PortWidth::Dword);
    m.register_write(entry + ENTRY_CONTROL, PortWidth::Dword, with_mask(old, masked));
    // Posted writes have arrived when this is answered.
    let _arrived = m.register_read(entry + ENTRY_CONTROL, PortWidth::Dword);
}

/// An entry is changed only while it is masked (PCI 3.0, 6.8.2.8).
fn write_entry(m: &impl DeviceRegisters, entry: u64, sender: &Sender) {
    write_entry_mask(m, entry, true);
    let Message { address, data } = sender.message;
    m.register_write(entry + ENTRY_ADDRESS, PortWidth::Dword, low_half(address));
    m.register_write(entry + ENTRY_ADDRESS_HIGH, PortWidth::Dword, high_half(address));
    m.register_write(entry + ENTRY_DATA, PortWidth::Dword, data);
}

/// Whether it was switched on stays as it was; there is one message, whatever dom0 has asked for.
fn write_single<M: DeviceRegisters>(config: &Config<'_, M>, msi: Msi, sender: &Sender) {
    let control = config.read16(msi.control()) & !Msi::MULTIPLE;
    config.write16(msi.control(), control & !Msi::ENABLE);
    if let Some(mask) = msi.mask() {
        config.write(mask, PortWidth::Dword, config.read(mask, PortWidth::Dword) | MASKED);
    }
    let Message { address, data } = sender.message;
    config.write(msi.address(), PortWidth::Dword, low_half(address));
    if let Some(high) = msi.address_high() {
        config.write(high, PortWidth::Dword, high_half(address));
    }
    config.write(msi.data(), PortWidth::Word, data & 0xffff);
    config.write16(msi.control(), control);
}
