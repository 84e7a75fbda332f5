//! Writes of a guest's kernel to its own page tables, carried out for it (`VMASST_TYPE_writable_pagetables`).
//!
//! The guest's tables are mapped read-only to it. A store to an L1 faults; where the instruction is one of those below,
//! the changed entry goes through the same checks as in `mmu_update`. The decoder knows the forms that compilers and
//! kernels use to change a word in memory, and no others; the guest gets its fault for the rest.
//!
//! What is decoded may differ from what faulted, if the guest changes its code meanwhile. That is harmless: the result
//! is a checked change of an entry of the guest's own L1 either way.

use crate::regs::UserRegs;

/// Longest instruction.
pub const MAX_INSTRUCTION: usize = 15;

/// What the instruction does to the memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Mov,
    Xchg,
    CmpXchg,
    Add,
    Or,
    And,
    Sub,
    Xor,
    Bts,
    Btr,
    Btc,
}

/// The other operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A general register by number.
    Reg(u8),
    /// AH, CH, DH or BH.
    HighByte(u8),
    Imm(u64),
}

/// A decoded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    op: Op,
    source: Source,
    /// Bytes of the memory operand.
    pub size: usize,
    /// Bytes of the instruction.
    pub len: usize,
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand16: bool,
    rex: u8,
    lock: bool,
}

/// The bytes of an instruction, read front to back.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let b = *self.all.get(self.at)?;
        self.at += 1;
        Some(b)
    }

    /// A little-endian immediate of 1, 2 or 4 bytes, sign-extended.
    fn immediate(&mut self, size: usize) -> Option<u64> {
        let bytes = self.all.get(self.at..self.at + size)?;
        self.at += size;
        let mut value = if bytes.last()? & 0x80 != 0 { u64::MAX } else { 0 };
        for b in bytes.iter().rev() {
            value = value << 8 | u64::from(*b);
        }
        Some(value)
    }
}

/// Decodes a store to memory. `None` for anything else.
#[must_use]
pub fn decode(code: &[u8]) -> Option<Instruction> {
    let mut bytes = Bytes { all: code.get(..code.len().min(MAX_INSTRUCTION))?, at: 0 };
    let (prefixes, first) = prefixes(&mut bytes)?;
    let mut insn = if first == 0x0f {
        let second = bytes.next()?;
        two_byte(&mut bytes, prefixes, second)?
    } else {
        one_byte(&mut bytes, prefixes, first)?
    };
    if prefixes.lock && insn.op == Op::Mov {
        return None;
    }
    insn.len = bytes.at;
    Some(insn)
}

fn prefixes(bytes: &mut Bytes<'_>) -> Option<(Prefixes, u8)> {
    let mut p = Prefixes::default();
    loop {
        match bytes.next()? {
            0x66 => p.operand16 = true,
            0xf0 => p.lock = true,
            // Segments and address size: the address comes from the fault.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
            b if b & 0xf0 == 0x40 => {
                p.rex = b;
                return Some((p, bytes.next()?));
            }
            b => return Some((p, b)),
        }
    }
}

/// Size of the operands: byte forms have an even opcode.
fn operand_size(p: Prefixes, opcode: u8) -> usize {
    match (opcode & 1, p.rex & 8 != 0, p.operand16) {
        (0, ..) => 1,
        (_, true, _) => 8,
        (_, _, true) => 2,
        _ => 4,
    }
}

fn one_byte(bytes: &mut Bytes<'_>, p: Prefixes, opcode: u8) -> Option<Instruction> {
    let size = operand_size(p, opcode);
    let op = match opcode {
        0x00 | 0x01 => Op::Add,
        0x08 | 0x09 => Op::Or,
        0x20 | 0x21 => Op::And,
        0x28 | 0x29 => Op::Sub,
        0x30 | 0x31 => Op::Xor,
        0x86 | 0x87 => Op::Xchg,
        0x88 | 0x89 => Op::Mov,
        0x80 | 0x81 | 0x83 => return group1(bytes, opcode, size),
        0xc6 | 0xc7 => return mov_immediate(bytes, size),
        _ => return None,
    };
    with_register(bytes, p, op, size)
}

fn two_byte(bytes: &mut Bytes<'_>, p: Prefixes, opcode: u8) -> Option<Instruction> {
    let word = operand_size(p, 1);
    match opcode {
        0xb0 | 0xb1 => with_register(bytes, p, Op::CmpXchg, operand_size(p, opcode)),
        0xab => with_register(bytes, p, Op::Bts, word),
        0xb3 => with_register(bytes, p, Op::Btr, word),
        0xbb => with_register(bytes, p, Op::Btc, word),
        0xba => bit_immediate(bytes, word),
        _ => None,
    }
}

fn with_register(bytes: &mut Bytes<'_>, p: Prefixes, op: Op, size: usize) -> Option<Instruction> {
    let reg = modrm(bytes)?;
    let source = match (size, p.rex, reg) {
        (1, 0, 4..=7) => Source::HighByte(reg - 4),
        _ => Source::Reg(reg | (p.rex & 4) << 1),
    };
    Some(Instruction { op, source, size, len: 0 })
}

fn group1(bytes: &mut Bytes<'_>, opcode: u8, size: usize) -> Option<Instruction> {
    let op = match modrm(bytes)? {
        0 => Op::Add,
        1 => Op::Or,
        4 => Op::And,
        5 => Op::Sub,
        6 => Op::Xor,
        _ => return None,
    };
    let source = Source::Imm(bytes.immediate(if opcode == 0x81 { size.min(4) } else { 1 })?);
    Some(Instruction { op, source, size, len: 0 })
}

fn mov_immediate(bytes: &mut Bytes<'_>, size: usize) -> Option<Instruction> {
    if modrm(bytes)? != 0 {
        return None;
    }
    let source = Source::Imm(bytes.immediate(size.min(4))?);
    Some(Instruction { op: Op::Mov, source, size, len: 0 })
}

fn bit_immediate(bytes: &mut Bytes<'_>, size: usize) -> Option<Instruction> {
    let op = match modrm(bytes)? {
        5 => Op::Bts,
        6 => Op::Btr,
        7 => Op::Btc,
        _ => return None,
    };
    Some(Instruction { op, source: Source::Imm(bytes.immediate(1)?), size, len: 0 })
}

/// Skips the ModRM byte of a memory operand with all that belongs to it; returns its register field.
fn modrm(bytes: &mut Bytes<'_>) -> Option<u8> {
    let byte = bytes.next()?;
    let (mode, rm) = (byte >> 6, byte & 7);
    if mode == 3 {
        return None;
    }
    let base = if rm == 4 { bytes.next()? & 7 } else { rm };
    let displacement = match (mode, base) {
        (0, 5) => 4,
        (0, _) => 0,
        (1, _) => 1,
        _ => 4,
    };
    bytes.at += displacement;
    Some(byte >> 3 & 7)
}

/// RFLAGS bits that arithmetic sets.
mod flag {
    pub(super) const CF: u64 = 1;
    pub(super) const PF: u64 = 1 << 2;
    pub(super) const AF: u64 = 1 << 4;
    pub(super) const ZF: u64 = 1 << 6;
    pub(super) const SF: u64 = 1 << 7;
    pub(super) const OF: u64 = 1 << 11;
    pub(super) const ALL: u64 = CF | PF | AF | ZF | SF | OF;
}

/// What an instruction makes of the word that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The whole 8-byte word after it; `None` where it is not written.
    pub word: Option<u64>,
    /// RFLAGS after it.
    rflags: u64,
    /// A register that gets a value: XCHG's, or RAX of a failed CMPXCHG.
    register: Option<(Source, u64)>,
}

impl Instruction {
    /// Carries the instruction out on `word`, at `offset` bytes into it.
    #[must_use]
    pub fn apply(&self, regs: &UserRegs, word: u64, offset: usize) -> Option<Effect> {
        if offset.checked_add(self.size)? > 8 {
            return None;
        }
        let shift = u32::try_from(offset * 8).ok()?;
        let bits = u32::try_from(self.size * 8).ok()?;
        let mask = u64::MAX >> (64 - bits);
        let old = word >> shift & mask;
        let source = self.source_value(regs)? & mask;
        let merge = |value: u64| word & !(mask << shift) | (value & mask) << shift;
        let rflags = regs.rflags;
        let logic = |value: u64| (Some(merge(value)), with_flags(rflags, result_flags(value & mask, bits)));
        let (word, rflags) = match self.op {
            Op::Mov => (Some(merge(source)), rflags),
            Op::Xchg => {
                let register = Some((self.source, old));
                return Some(Effect { word: Some(merge(source)), rflags, register });
            }
            Op::CmpXchg => return Some(self.compare_exchange(regs, old, source, mask, bits, merge)),
            Op::Or => logic(old | source),
            Op::And => logic(old & source),
            Op::Xor => logic(old ^ source),
            Op::Add => {
                let sum = old.wrapping_add(source) & mask;
                (Some(merge(sum)), with_flags(rflags, add_flags(old, source, sum, bits)))
            }
            Op::Sub => {
                let rest = old.wrapping_sub(source) & mask;
                (Some(merge(rest)), with_flags(rflags, sub_flags(old, source, rest, bits)))
            }
            Op::Bts | Op::Btr | Op::Btc => {
                let bit = 1_u64.checked_shl(u32::try_from(source % u64::from(bits)).ok()?)?;
                let value = match self.op {
                    Op::Bts => old | bit,
                    Op::Btr => old & !bit,
                    _ => old ^ bit,
                };
                (Some(merge(value)), rflags & !flag::CF | u64::from(old & bit != 0))
            }
        };
        Some(Effect { word, rflags, register: None })
    }

    fn compare_exchange(
        &self,
        regs: &UserRegs,
        old: u64,
        source: u64,
        mask: u64,
        bits: u32,
        merge: impl Fn(u64) -> u64,
    ) -> Effect {
        let expected = regs.rax & mask;
        let difference = expected.wrapping_sub(old) & mask;
        let rflags = with_flags(regs.rflags, sub_flags(expected, old, difference, bits));
        if expected == old {
            Effect { word: Some(merge(source)), rflags, register: None }
        } else {
            Effect { word: None, rflags, register: Some((Source::Reg(0), old)) }
        }
    }

    fn source_value(&self, regs: &UserRegs) -> Option<u64> {
        match self.source {
            Source::Imm(value) => Some(value),
            Source::Reg(n) => read(regs, n),
            Source::HighByte(n) => Some(read(regs, n)? >> 8 & 0xff),
        }
    }

    /// Puts the effect on registers and flags into effect and goes past the instruction.
    pub fn retire(&self, regs: &mut UserRegs, effect: &Effect) {
        if let Some((to, value)) = effect.register {
            self.write_register(regs, to, value);
        }
        regs.rflags = effect.rflags;
        regs.rip = regs.rip.wrapping_add(u64::try_from(self.len).unwrap_or(0));
    }

    fn write_register(&self, regs: &mut UserRegs, to: Source, value: u64) {
        let (n, shift) = match to {
            Source::Reg(n) => (n, 0),
            Source::HighByte(n) => (n, 8),
            Source::Imm(_) => return,
        };
        let Some(reg) = regs.general_mut(n) else { return };
        // A 32-bit result clears the upper half, narrower ones keep the rest (SDM volume 1, section 3.4.1.1).
        *reg = match self.size {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => *reg & !0xffff | value & 0xffff,
            _ => *reg & !(0xff << shift) | (value & 0xff) << shift,
        };
    }
}

fn with_flags(rflags: u64, set: u64) -> u64 {
    rflags & !flag::ALL | set
}

/// Zero, sign and parity.
fn result_flags(value: u64, bits: u32) -> u64 {
    let mut f = 0;
    if value == 0 {
        f |= flag::ZF;
    }
    if value >> (bits - 1) & 1 != 0 {
        f |= flag::SF;
    }
    if (value & 0xff).count_ones().is_multiple_of(2) {
        f |= flag::PF;
    }
    f
}

fn add_flags(a: u64, b: u64, sum: u64, bits: u32) -> u64 {
    let mut f = result_flags(sum, bits) | (a ^ b ^ sum) & flag::AF;
    if sum < a {
        f |= flag::CF;
    }
    if (a ^ sum) & (b ^ sum) & 1 << (bits - 1) != 0 {
        f |= flag::OF;
    }
    f
}

fn sub_flags(a: u64, b: u64, rest: u64, bits: u32) -> u64 {
    let mut f = result_flags(rest, bits) | (a ^ b ^ rest) & flag::AF;
    if a < b {
        f |= flag::CF;
    }
    if (a ^ b) & (a ^ rest) & 1 << (bits - 1) != 0 {
        f |= flag::OF;
    }
    f
}

fn read(regs: &UserRegs, n: u8) -> Option<u64> {
    let mut copy = *regs;
    copy.general_mut(n).map(|r| *r)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: &[u8], regs: &mut UserRegs, word: u64) -> Option<u64> {
        let insn = decode(code)?;
        assert_eq!(insn.len, code.len(), "length of {code:x?}");
        let effect = insn.apply(regs, word, 0)?;
        insn.retire(regs, &effect);
        effect.word
    }

    #[test]
    fn the_forms_of_linux_are_known() {
        let mut r = UserRegs { rax: 0x1111, rdx: 0x2222, ..UserRegs::default() };
        assert_eq!(run(&[0x48, 0x89, 0x17], &mut r, 5), Some(0x2222), "mov %rdx,(%rdi)");
        assert_eq!(run(&[0x48, 0x89, 0x54, 0xc8, 0x08], &mut r, 5), Some(0x2222), "mov %rdx,8(%rax,%rcx,8)");
        assert_eq!(run(&[0x48, 0xc7, 0x07, 0, 0, 0, 0], &mut r, 5), Some(0), "movq $0,(%rdi)");
        assert_eq!(run(&[0x48, 0x87, 0x17], &mut r, 5), Some(0x2222), "xchg %rdx,(%rdi)");
        assert_eq!(r.rdx, 5);
        assert_eq!(
            run(&[0xf0, 0x80, 0x27, 0xfd], &mut r, 0x8000_0067),
            Some(0x8000_0065),
            "lock andb $0xfd,(%rdi)"
        );
        assert_eq!(run(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], &mut r, 0x67), Some(0x47), "lock btr $5,(%rdi)");
        assert_eq!(r.rflags & flag::CF, 1);
    }

    #[test]
    fn cmpxchg_writes_on_a_match_and_reports_on_a_miss() {
        let code = [0xf0, 0x48, 0x0f, 0xb1, 0x17];
        let mut r = UserRegs { rax: 7, rdx: 9, ..UserRegs::default() };
        assert_eq!(run(&code, &mut r, 7), Some(9));
        assert_ne!(r.rflags & flag::ZF, 0);
        assert_eq!(run(&code, &mut r, 8), None);
        assert_eq!((r.rax, r.rflags & flag::ZF), (8, 0));
        assert_eq!(r.rip, 10);
    }

    #[test]
    fn parts_of_a_word_are_merged() {
        let insn = decode(&[0x88, 0x27]).unwrap();
        let r = UserRegs { rax: 0xaa00, ..UserRegs::default() };
        assert_eq!(insn.apply(&r, 0, 3).unwrap().word, Some(0xaa00_0000), "mov %ah,(%rdi)");
        let wide = decode(&[0x48, 0x89, 0x07]).unwrap();
        assert_eq!(wide.apply(&r, 0, 1), None, "across the word's end");
    }

    #[test]
    fn register_forms_and_strangers_are_refused() {
        for code in [
            &[0x48, 0x89, 0xc7][..],   // mov %rax,%rdi
            &[0x48, 0x8b, 0x07],       // a load
            &[0xf3, 0x48, 0xab],       // rep stos
            &[0xff, 0x37],             // push (%rdi)
            &[0xf0, 0x48, 0x89, 0x07], // lock mov
            &[0x48, 0x89],             // cut short
            &[0x66; 20],
            &[],
        ] {
            assert_eq!(decode(code), None, "{code:x?}");
        }
    }

    #[test]
    fn a_cut_displacement_is_not_past_the_end() {
        assert_eq!(decode(&[0x48, 0xc7, 0x87, 1, 2, 3]), None);
        let insn = decode(&[0x48, 0x89, 0x87, 1, 2]);
        assert!(insn.is_none_or(|i| i.len <= 15));
    }
}
