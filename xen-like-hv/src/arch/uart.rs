//! A 16550 serial port.
#![expect(unsafe_code, reason = "names I/O ports")]

use super::cpu::port::Port8;
use hv_core::cmdline::{Parity, SerialSettings};

/// First port of the machine's first serial port.
pub(crate) const COM1: u16 = 0x3f8;
/// Its ISA interrupt.
pub(crate) const COM1_IRQ: u8 = 4;

/// Bytes the transmitter takes when its holding register is empty.
const FIFO_BYTES: u32 = 16;
/// Turns of the wait for the transmitter; a port that never gets ready is given up for that byte.
const PATIENCE: u32 = 200_000;

const LINE_DATA_READY: u8 = 1 << 0;
const LINE_TRANSMIT_EMPTY: u8 = 1 << 5;

/// The registers of a serial port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uart {
    data: Port8,
    interrupt_enable: Port8,
    fifo_control: Port8,
    line_control: Port8,
    modem_control: Port8,
    line_status: Port8,
    scratch: Port8,
}

impl Uart {
    /// The machine's first serial port.
    pub(crate) const fn com1() -> Self {
        // SAFETY: a serial port neither does DMA nor remaps anything.
        unsafe {
            Uart {
                data: Port8::new(COM1),
                interrupt_enable: Port8::new(COM1 + 1),
                fifo_control: Port8::new(COM1 + 2),
                line_control: Port8::new(COM1 + 3),
                modem_control: Port8::new(COM1 + 4),
                line_status: Port8::new(COM1 + 5),
                scratch: Port8::new(COM1 + 7),
            }
        }
    }

    /// Whether there is a port: its scratch register keeps what is written.
    pub(crate) fn is_there(&self) -> bool {
        [0x5a, 0xa5].iter().all(|&probe| {
            self.scratch.write(probe);
            self.scratch.read() == probe
        })
    }

    /// Sets speed and format, switches the FIFOs on and interrupts off.
    pub(crate) fn configure(&self, settings: &SerialSettings) {
        let divisor = u16::try_from(115_200 / settings.baud.max(1)).unwrap_or(1).to_le_bytes();
        let parity = match settings.parity {
            Parity::None => 0,
            Parity::Odd => 0x08,
            Parity::Even => 0x18,
        };
        let stop = if settings.stop_bits > 1 { 0x04 } else { 0 };
        let format = settings.data_bits.saturating_sub(5) & 3 | stop | parity;
        self.interrupt_enable.write(0);
        self.line_control.write(0x80 | format);
        self.data.write(divisor[0]);
        self.interrupt_enable.write(divisor[1]);
        self.line_control.write(format);
        self.fifo_control.write(0x07);
        // DTR, RTS, and OUT2, which gates the interrupt line.
        self.modem_control.write(0x0b);
    }

    /// Has received bytes announced by interrupt.
    pub(crate) fn enable_receive_interrupt(&self) {
        self.interrupt_enable.write(1);
    }

    /// Sends bytes, a carriage return before each line feed, waiting for the transmitter within reason.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut room = 0;
        for &byte in bytes {
            if byte == b'\n' {
                self.send_byte(b'\r', &mut room);
            }
            self.send_byte(byte, &mut room);
        }
    }

    /// Sends a byte; `room` is what the transmitter's FIFO is known to have left, so that its status, which costs an exit
    /// to an emulator's device model, is asked for once in [`FIFO_BYTES`].
    fn send_byte(&self, byte: u8, room: &mut u32) {
        if *room == 0 {
            for _ in 0..PATIENCE {
                if self.line_status.read() & LINE_TRANSMIT_EMPTY != 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            *room = FIFO_BYTES;
        }
        *room -= 1;
        self.data.write(byte);
    }

    /// A byte that was received.
    pub(crate) fn receive(&self) -> Option<u8> {
        // 0xff is what an absent port reads.
        let status = self.line_status.read();
        (status != 0xff && status & LINE_DATA_READY != 0).then(|| self.data.read())
    }
}
