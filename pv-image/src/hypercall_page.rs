//! Contents of the hypercall page: 128 slots of 32 bytes, slot `i` calls hypercall `i`.

use pv_abi::frame::PAGE_SIZE;

const SLOT: usize = 32;
/// The hypercall that does not return: `iret`.
const IRET: u32 = 23;

/// Writes the stubs. Bytes between stubs stay as the image had them, as on Xen.
pub fn fill(page: &mut [u8; PAGE_SIZE]) {
    for (number, slot) in (0u32..).zip(page.chunks_exact_mut(SLOT)) {
        if number == IRET {
            fill_iret(slot);
        } else {
            fill_call(slot, number);
        }
    }
}

/// push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
fn fill_call(slot: &mut [u8], number: u32) {
    put(slot, 0, &[0x51, 0x41, 0x53, 0xb8]);
    put(slot, 4, &number.to_le_bytes());
    put(slot, 8, &[0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]);
}

/// push rcx; push r11; push rax; mov eax, iret; syscall. Is jumped to and never comes back.
fn fill_iret(slot: &mut [u8]) {
    put(slot, 0, &[0x51, 0x41, 0x53, 0x50, 0xb8]);
    put(slot, 5, &IRET.to_le_bytes());
    put(slot, 9, &[0x0f, 0x05]);
}

fn put(slot: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = slot.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_the_documented_instructions() {
        let mut page = [0u8; PAGE_SIZE];
        fill(&mut page);
        assert_eq!(page[..14], [0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0, 0x0f, 5, 0x41, 0x5b, 0x59, 0xc3]);
        assert_eq!(page[32 * 26 + 4], 26);
        assert_eq!(page[32 * 23..32 * 23 + 11], [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 5]);
        assert_eq!(page[32 * 127 + 4], 127);
    }
}
