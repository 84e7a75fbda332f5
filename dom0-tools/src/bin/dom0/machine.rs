//! The machine's devices, found and started once.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use pv_guest_kernel::privileged::ports;
use pv_guest_kernel::task;

use crate::irq::{Interrupt, Lines};
use crate::pci::{self, Function};
use crate::tty::Tty;
use crate::virtio::blk::Disk;
use crate::virtio::console::Console;
use crate::virtio::net::Nic;
use crate::virtio::{self, InitError};

/// What was found.
#[derive(Default)]
pub(crate) struct Machine {
    /// Disks in the order of their PCI addresses: vda, vdb and so on.
    pub(crate) disks: Vec<Rc<Disk>>,
    /// Network cards in the same order: eth0, eth1 and so on.
    pub(crate) nics: Vec<Rc<Nic>>,
    /// The control channels.
    pub(crate) controls: Vec<Rc<Console>>,
}

impl Machine {
    /// Looks for devices; what fails is reported and left out.
    pub(crate) fn find(tty: &Tty) -> Self {
        let mut machine = Self::default();
        if let Err(error) = ports::enable() {
            tty.print(&format!("dom0: no I/O ports: {}\n", error.name()));
            return machine;
        }
        let mut lines = Lines::default();
        for function in pci::scan() {
            if function.vendor != virtio::VENDOR {
                continue;
            }
            if let Err(error) = machine.start(&mut lines, &function, tty) {
                tty.print(&format!("dom0: PCI {}: {error}\n", function.place));
            }
        }
        machine.watch_disks();
        machine
    }

    /// Has the disks looked after that answer without an interrupt.
    fn watch_disks(&self) {
        let disks = self.disks.clone();
        task::set_lookout(move |look| disks.iter().for_each(|disk| disk.look(look)));
    }

    fn start(&mut self, lines: &mut Lines, function: &Function, tty: &Tty) -> Result<(), InitError> {
        let gsi = u32::from(function.irq_line);
        match function.subsystem {
            virtio::TYPE_BLOCK => {
                let disk = Disk::new(disk_name(self.disks.len()), function)?;
                attach(lines, gsi, disk.clone())?;
                let (name, mib) = (disk.name(), disk.sectors() / 2048);
                let mode = if disk.is_read_only() { ", read-only" } else { "" };
                tty.print(&format!("dom0: {name}: {mib} MiB{mode} at PCI {}, GSI {gsi}\n", function.place));
                self.disks.push(disk);
            }
            virtio::TYPE_NET => {
                let nic = Nic::new(self.nics.len(), function)?;
                attach(lines, gsi, nic.clone())?;
                let (name, mac) = (nic.name(), nic.mac());
                tty.print(&format!("dom0: {name}: {mac} at PCI {}, GSI {gsi}\n", function.place));
                self.nics.push(nic);
            }
            virtio::TYPE_CONSOLE => {
                let console = Console::new(function)?;
                attach(lines, gsi, console.clone())?;
                tty.print(&format!("dom0: control channel at PCI {}, GSI {gsi}\n", function.place));
                self.controls.push(console);
            }
            _ => {}
        }
        Ok(())
    }

    /// The disk of this name; `/dev/` in front is allowed.
    pub(crate) fn disk(&self, name: &str) -> Option<Rc<Disk>> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        self.disks.iter().find(|disk| disk.name() == name).cloned()
    }
}

fn attach(lines: &mut Lines, gsi: u32, device: Rc<dyn Interrupt>) -> Result<(), InitError> {
    lines.attach(gsi, device).map_err(InitError::Interrupt)
}

/// `vda` … `vdz`, `vdaa` …
fn disk_name(index: usize) -> String {
    let letter = |number: usize| char::from(b"abcdefghijklmnopqrstuvwxyz"[number % 26]);
    let mut name = String::from("vd");
    if index >= 26 {
        name.push(letter(index / 26 - 1));
    }
    name.push(letter(index));
    name
}
