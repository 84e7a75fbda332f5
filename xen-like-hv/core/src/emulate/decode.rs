//! Decoding of the few privileged instructions that are emulated.
//!
//! The code that runs in ring 3 of a 64-bit guest is decoded as 64-bit code. For an instruction that faulted this is also
//! right in compatibility mode: a REX byte would there be an instruction of its own and could not have faulted. String
//! instructions, whose addresses do depend on the mode, are left to the caller's check.

use crate::port::PortWidth;

/// Most bytes of an instruction.
pub const MAX_BYTES: usize = 15;

/// A general register by its number in the encoding, 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr(u8);

impl Gpr {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A segment whose base counts in 64-bit mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Base 0.
    Flat,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the register or memory.
    In,
    /// Out of it.
    Out,
}

/// The port of an I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOperand {
    /// An immediate byte.
    Immediate(u8),
    /// DX.
    Dx,
}

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "instructions by their mnemonics")]
pub enum Instruction {
    /// IN and OUT.
    PortIo {
        direction: Direction,
        port: PortOperand,
        width: PortWidth,
    },
    /// INS and OUTS, with the segment of OUTS's source.
    StringIo {
        direction: Direction,
        width: PortWidth,
        repeated: bool,
        short_addresses: bool,
        segment: Segment,
    },
    Cli,
    Sti,
    Clts,
    Wbinvd,
    Rdmsr,
    Wrmsr,
    Rdtsc,
    Rdtscp,
    Cpuid,
    Xsetbv,
    MovFromCr {
        cr: u8,
        gpr: Gpr,
    },
    MovToCr {
        cr: u8,
        gpr: Gpr,
    },
    MovFromDr {
        dr: u8,
        gpr: Gpr,
    },
    MovToDr {
        dr: u8,
        gpr: Gpr,
    },
}

/// An instruction and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it does.
    pub instruction: Instruction,
    /// How long it is, prefixes included.
    pub length: usize,
}

/// Prefixes seen so far.
#[derive(Clone, Copy)]
struct Prefixes {
    operand_16: bool,
    address_32: bool,
    repeat: bool,
    lock: bool,
    segment: Segment,
    rex: u8,
}

const NO_PREFIXES: Prefixes = Prefixes {
    operand_16: false,
    address_32: false,
    repeat: false,
    lock: false,
    segment: Segment::Flat,
    rex: 0,
};

/// Reads bytes one by one, at most [`MAX_BYTES`].
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at).filter(|_| self.at < MAX_BYTES)?;
        self.at += 1;
        Some(byte)
    }

    fn back(&mut self) {
        self.at -= 1;
    }
}

/// Decodes the instruction at the start of `bytes`; `None` for one that is not emulated, or that goes on behind them.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Decoded> {
    let mut reader = Reader { bytes, at: 0 };
    // Most have none.
    let prefixes = match bytes.first() {
        Some(0x0f | 0xec..=0xef) => NO_PREFIXES,
        _ => prefixes(&mut reader)?,
    };
    // LOCK makes all of these undefined.
    if prefixes.lock {
        return None;
    }
    let instruction = match reader.next()? {
        0x0f => two_bytes(&mut reader, prefixes)?,
        opcode => one_byte(&mut reader, opcode, prefixes)?,
    };
    Some(Decoded { instruction, length: reader.at })
}

fn prefixes(reader: &mut Reader<'_>) -> Option<Prefixes> {
    let mut p = NO_PREFIXES;
    loop {
        match reader.next()? {
            0x66 => p.operand_16 = true,
            0x67 => p.address_32 = true,
            0xf2 | 0xf3 => p.repeat = true,
            0xf0 => p.lock = true,
            // ES, CS, SS and DS have base 0.
            0x26 | 0x2e | 0x36 | 0x3e => p.segment = Segment::Flat,
            0x64 => p.segment = Segment::Fs,
            0x65 => p.segment = Segment::Gs,
            rex @ 0x40..=0x4f => {
                // REX counts only right in front of the opcode.
                p.rex = rex;
                if !is_prefix(reader.next()?) {
                    reader.back();
                    return Some(p);
                }
                reader.back();
                p.rex = 0;
            }
            _ => {
                reader.back();
                return Some(p);
            }
        }
    }
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x40..=0x4f)
}

/// Bit 0 of an I/O opcode says "more than a byte".
fn width(opcode: u8, p: Prefixes) -> PortWidth {
    match (opcode & 1, p.operand_16) {
        (0, _) => PortWidth::Byte,
        (_, true) => PortWidth::Word,
        (_, false) => PortWidth::Dword,
    }
}

fn one_byte(reader: &mut Reader<'_>, opcode: u8, p: Prefixes) -> Option<Instruction> {
    let direction = if opcode & 2 == 0 { Direction::In } else { Direction::Out };
    Some(match opcode {
        0x6c..=0x6f => Instruction::StringIo {
            direction,
            width: width(opcode, p),
            repeated: p.repeat,
            short_addresses: p.address_32,
            segment: p.segment,
        },
        0xe4..=0xe7 => {
            let port = PortOperand::Immediate(reader.next()?);
            Instruction::PortIo { direction, port, width: width(opcode, p) }
        }
        0xec..=0xef => Instruction::PortIo { direction, port: PortOperand::Dx, width: width(opcode, p) },
        0xfa => Instruction::Cli,
        0xfb => Instruction::Sti,
        _ => return None,
    })
}

fn two_bytes(reader: &mut Reader<'_>, p: Prefixes) -> Option<Instruction> {
    Some(match reader.next()? {
        0x01 => match reader.next()? {
            // Undefined with these prefixes.
            0xd1 if !p.operand_16 && !p.repeat => Instruction::Xsetbv,
            0xf9 => Instruction::Rdtscp,
            _ => return None,
        },
        0x06 => Instruction::Clts,
        // INVD would lose what others wrote; writing back first is what a guest may have instead.
        0x08 | 0x09 => Instruction::Wbinvd,
        opcode @ 0x20..=0x23 => move_special(opcode, reader.next()?, p.rex),
        0x30 => Instruction::Wrmsr,
        0x31 => Instruction::Rdtsc,
        0x32 => Instruction::Rdmsr,
        0xa2 => Instruction::Cpuid,
        _ => return None,
    })
}

/// MOV to and from control and debug registers: the ModRM byte's mode field is ignored (Intel SDM volume 2, "MOV").
fn move_special(opcode: u8, modrm: u8, rex: u8) -> Instruction {
    let gpr = Gpr(modrm & 7 | (rex & 1) << 3);
    let special = modrm >> 3 & 7 | (rex & 4) << 1;
    match opcode {
        0x20 => Instruction::MovFromCr { cr: special, gpr },
        0x21 => Instruction::MovFromDr { dr: special, gpr },
        0x22 => Instruction::MovToCr { cr: special, gpr },
        _ => Instruction::MovToDr { dr: special, gpr },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Option<(Instruction, usize)> {
        decode(bytes).map(|d| (d.instruction, d.length))
    }

    #[test]
    fn xsetbv_is_undefined_with_prefixes() {
        assert_eq!(one(&[0x0f, 0x01, 0xd1]), Some((Instruction::Xsetbv, 3)));
        for prefix in [0x66, 0xf2, 0xf3] {
            assert_eq!(one(&[prefix, 0x0f, 0x01, 0xd1]), None);
        }
    }

    #[test]
    fn port_instructions_have_width_direction_and_port() {
        use Direction::{In, Out};
        use PortOperand::{Dx, Immediate};
        use PortWidth::{Byte, Dword, Word};
        let io = |direction, port, width| Instruction::PortIo { direction, port, width };
        assert_eq!(one(&[0xec]), Some((io(In, Dx, Byte), 1)));
        assert_eq!(one(&[0x66, 0xef, 0x90]), Some((io(Out, Dx, Word), 2)));
        assert_eq!(one(&[0xe5, 0x60]), Some((io(In, Immediate(0x60), Dword), 2)));
        assert_eq!(one(&[0xe6, 0x80]), Some((io(Out, Immediate(0x80), Byte), 2)));
        assert_eq!(one(&[0x48, 0xed]), Some((io(In, Dx, Dword), 2)));
        assert_eq!(one(&[0xe6]), None);
    }

    #[test]
    fn string_instructions_keep_their_prefixes() {
        let s = |direction, width, repeated, short_addresses, segment| {
            Some(Instruction::StringIo { direction, width, repeated, short_addresses, segment })
        };
        let insn = |bytes: &[u8]| one(bytes).map(|d| d.0);
        assert_eq!(insn(&[0xf3, 0x66, 0x6d]), s(Direction::In, PortWidth::Word, true, false, Segment::Flat));
        assert_eq!(insn(&[0x65, 0x67, 0x6e]), s(Direction::Out, PortWidth::Byte, false, true, Segment::Gs));
        assert_eq!(
            insn(&[0x65, 0x3e, 0x6f]),
            s(Direction::Out, PortWidth::Dword, false, false, Segment::Flat)
        );
    }

    #[test]
    fn system_instructions_are_known() {
        for (bytes, insn) in [
            (&[0xfa][..], Instruction::Cli),
            (&[0xfb], Instruction::Sti),
            (&[0x0f, 0x06], Instruction::Clts),
            (&[0x0f, 0x09], Instruction::Wbinvd),
            (&[0x0f, 0x30], Instruction::Wrmsr),
            (&[0x0f, 0x31], Instruction::Rdtsc),
            (&[0x0f, 0x32], Instruction::Rdmsr),
            (&[0x0f, 0xa2], Instruction::Cpuid),
            (&[0x0f, 0x01, 0xd1], Instruction::Xsetbv),
            (&[0x0f, 0x01, 0xf9], Instruction::Rdtscp),
        ] {
            assert_eq!(one(bytes), Some((insn, bytes.len())));
        }
    }

    #[test]
    fn special_registers_take_rex_bits() {
        assert_eq!(one(&[0x0f, 0x20, 0xe0]), Some((Instruction::MovFromCr { cr: 4, gpr: Gpr(0) }, 3)));
        assert_eq!(one(&[0x41, 0x0f, 0x22, 0xdf]), Some((Instruction::MovToCr { cr: 3, gpr: Gpr(15) }, 4)));
        assert_eq!(one(&[0x44, 0x0f, 0x20, 0xc0]), Some((Instruction::MovFromCr { cr: 8, gpr: Gpr(0) }, 4)));
        assert_eq!(one(&[0x0f, 0x23, 0xfa]), Some((Instruction::MovToDr { dr: 7, gpr: Gpr(2) }, 3)));
    }

    #[test]
    fn what_is_not_emulated_is_not_decoded() {
        for bytes in [
            &[0x90][..],
            &[0xf4],
            &[0x0f, 0x01, 0x10],
            &[0x0f, 0x00, 0xd8],
            &[0xf0, 0xfa],
            &[0x66; 15],
            &[0x0f],
            &[],
            // A REX byte before another prefix does not count, but neither does it spoil what follows.
        ] {
            assert_eq!(one(bytes), None, "{bytes:x?}");
        }
        let bytes = [0x41, 0x66, 0x0f, 0x22, 0xd8];
        assert_eq!(one(&bytes), Some((Instruction::MovToCr { cr: 3, gpr: Gpr(0) }, 5)));
    }

    #[test]
    fn an_instruction_has_at_most_fifteen_bytes() {
        let mut bytes = [0x66; 16];
        bytes[14] = 0xec;
        assert!(decode(&bytes).is_some_and(|d| d.length == 15));
        bytes[14] = 0x66;
        bytes[15] = 0xec;
        assert_eq!(decode(&bytes), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_fall_over(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)) {
            if let Some(d) = decode(&bytes) {
                assert!((1..=MAX_BYTES).contains(&d.length) && d.length <= bytes.len());
                // What is decoded does not depend on what follows.
                assert_eq!(decode(&bytes[..d.length]), Some(d));
            }
        }
    }
}
