//! Exceptions and system calls, handled by stubs of a few instructions.

use crate::stubs;
use pv_guest_kernel::memory::Prot;
use pv_guest_kernel::memory::user::UserSpace;
use pv_guest_kernel::memory::vmap::Range;
use test_guests::Claim;
use test_guests::meter::Meter;

/// Where the user program is, and its data.
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;

/// One round of a loop in user mode.
struct Round {
    name: &'static str,
    code: &'static [u8],
}

const ROUNDS: [Round; 4] = [
    Round { name: "user_system_call", code: &[0x0f, 0x05] },
    Round { name: "user_int80", code: &[0xcd, 0x80] },
    Round { name: "user_breakpoint", code: &[0xcc] },
    // mov eax, [0x600000]: nothing is mapped there
    Round { name: "user_page_fault", code: &[0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00] },
];
/// `dec ebx; jnz -(4 + code)`, whose last byte depends on the code, and `ud2`, which ends the loop.
const LOOP_END: [u8; 6] = [0xff, 0xcb, 0x75, 0x00, 0x0f, 0x0b];

pub(crate) fn measure(meter: &Meter) -> Claim {
    let hole = Range::reserve(1)?;
    stubs::take_traps()?;
    meter.row("kernel_invalid_opcode", 1, || {
        stubs::invalid_opcode();
        Ok(())
    })?;
    meter.row("kernel_breakpoint", 1, || {
        stubs::breakpoint();
        Ok(())
    })?;
    meter.row("kernel_page_fault", 1, || {
        stubs::page_fault(hole.start());
        Ok(())
    })?;
    let mut space = UserSpace::new()?;
    space.map(CODE, 1, Prot::ReadExecute)?;
    space.map(DATA, 1, Prot::ReadWrite)?;
    space.activate()?;
    for round in &ROUNDS {
        let mut program = round.code.to_vec();
        program.extend_from_slice(&LOOP_END);
        // The distance back, from behind the jump.
        let back = round.code.len() + 4;
        if let (Some(byte), Ok(back)) = (program.get_mut(round.code.len() + 3), i8::try_from(back)) {
            *byte = (-back).cast_unsigned();
        }
        space.write(CODE, &program)?;
        meter.loop_row(round.name, |rounds| {
            stubs::user_loop(CODE, DATA + 4096, rounds, round.code.len() as u64);
            Ok(())
        })?;
    }
    Ok(())
}
