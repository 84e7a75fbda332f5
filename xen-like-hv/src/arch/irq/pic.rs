//! The pair of 8259 interrupt controllers: moved out of the exceptions' way and silenced.
#![expect(unsafe_code, reason = "names I/O ports")]

use crate::arch::cpu::port::Port8;

/// Initialises both (command words 1 to 4) with vectors 0x20 to 0x2f and masks every input.
pub(crate) fn silence() {
    // SAFETY: interrupt controllers do no DMA; with all inputs masked they do nothing at all.
    let ports = unsafe { [(Port8::new(0x20), Port8::new(0x21)), (Port8::new(0xa0), Port8::new(0xa1))] };
    for (index, (command, data)) in ports.into_iter().enumerate() {
        let (vector, wiring) = if index == 0 { (0x20, 0x04) } else { (0x28, 0x02) };
        command.write(0x11);
        data.write(vector);
        data.write(wiring);
        data.write(0x01);
        data.write(0xff);
    }
}
