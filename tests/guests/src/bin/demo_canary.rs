//! One of a pair. With `role=fill` it fills its memory and registers with a pattern and goes on until it is destroyed; with
//! `role=scan` it looks for that pattern, or anything else that is not its own, in fresh memory and in its registers.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall as H;
use pv_guest_kernel::memory::{direct, frames};
use pv_guest_kernel::{Context, println};
use test_guests::attempt::{Code, Regs};
use test_guests::frames::Frame;
use test_guests::{Claim, Trouble, call, canary, ensure, ensure_eq};

test_guests::claim!(nothing_of_another_domain_is_seen);

/// The filler's pattern, xored with [`VEIL`] so that a scanner's own image does not hold it.
const VEILED: u64 = 0xc0de_cafe_5eed_f00d ^ VEIL;
const VEIL: u64 = 0x1357_9bdf_0246_8ace;
const WORDS: u64 = 512;
/// Words of the x87 and SSE state that belong to the guest: all but the mask of MXCSR and the software's area.
const STATE_WORDS: u64 = 52;
const ROUNDS: u64 = 3000;

/// `fxrstor64 [rbx]` and `fxsave64 [rbx]`.
const LOAD_FPU: [u8; 4] = [0x48, 0x0f, 0xae, 0x0b];
const SAVE_FPU: [u8; 4] = [0x48, 0x0f, 0xae, 0x03];
/// `mov eax, 29; xor edi, edi; syscall`: yields with all other registers as they are.
const YIELD: [u8; 9] = [0xb8, 29, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

fn nothing_of_another_domain_is_seen(context: &'static Context) -> Claim {
    match context.option("role") {
        Some("fill") => fill(),
        Some("scan") => scan(),
        other => Err(Trouble::Error(test_guests::format!("role {other:?}"))),
    }
}

/// Rounding, flushing to zero and some of the flags of MXCSR, all exceptions masked; and the default.
const fn mxcsr(pattern: u64) -> u64 {
    0x1f80 | pattern & 0xe03f
}

const MXCSR: u64 = 0x1f80;

/// A state of x87 and SSE that is sound and full of a pattern.
fn set_state(area: &Frame, pattern: u64) {
    (0..64).for_each(|n| area.set_word(n, 0));
    // Control word, status, tags: all in use; the last instruction's pointers; MXCSR.
    area.set_word(0, 0xff_0000_037f);
    area.set_word(1, pattern & 0x7fff_ffff_ffff);
    area.set_word(2, pattern & 0x7fff_ffff_ffff);
    area.set_word(3, mxcsr(pattern >> 4));
    for register in 0..8 {
        area.set_word(4 + register * 2, pattern | 1 << 63);
        area.set_word(5 + register * 2, 0x3fff);
    }
    (20..STATE_WORDS).for_each(|n| area.set_word(n, pattern ^ n));
}

fn registers(pattern: u64) -> Regs {
    Regs {
        rbx: pattern,
        rbp: pattern ^ 1,
        r9: pattern ^ 2,
        r12: pattern ^ 3,
        r13: pattern ^ 4,
        r14: pattern ^ 5,
        r15: pattern ^ 6,
        ..Regs::default()
    }
}

fn kept(regs: &Regs) -> [u64; 7] {
    [regs.rbx, regs.rbp, regs.r9, regs.r12, regs.r13, regs.r14, regs.r15]
}

const fn told(avx: bool, rdtscp: bool) -> &'static str {
    match (avx, rdtscp) {
        (true, true) => "with AVX, with RDTSCP",
        (true, false) => "with AVX, no RDTSCP in this processor",
        (false, true) => "with RDTSCP, no AVX in this processor",
        (false, false) => "no AVX and no RDTSCP in this processor",
    }
}

fn fill() -> Claim {
    let pattern = VEILED ^ VEIL;
    let (code, area) = (Code::new()?, Frame::new()?);
    let mut pages = 0_u64;
    while enough_is_left() {
        let Some(pfn) = frames::alloc(1) else { break };
        (0..WORDS).for_each(|n| call::store(direct(pfn) + n * 8, pattern));
        pages += 1;
    }
    for register in 0..4 {
        ensure_eq!(call::call(H::SetDebugreg, [register, pattern & 0x7fff_ffff_fff8]), 0, "a breakpoint");
    }
    ensure_eq!(call::call(H::SetSegmentBase, [0, pattern & 0x7fff_ffff_ffff]), 0, "the FS base");
    set_state(&area, pattern);
    let (avx, upper) = (canary::enable_avx(&code)?, Frame::new()?);
    if avx {
        canary::load_avx(&code, &upper, |n| pattern ^ n)?;
        canary::check_avx(&code, &upper, |n| pattern ^ n)?;
    }
    let rdtscp = canary::has_rdtscp();
    println!("FILLED {pages} pages, {}", told(avx, rdtscp));
    loop {
        ensure_eq!(code.run(&LOAD_FPU, &mut Regs { rbx: area.va(), ..Regs::default() }), Ok(()), "fxrstor");
        canary::gs_across_a_yield(&code, pattern)?;
        if rdtscp {
            canary::tsc_aux_across_a_yield(&code, 0x5eed_f00d)?;
        }
        if avx {
            canary::load_avx(&code, &upper, |n| pattern ^ n)?;
        }
        ensure_eq!(code.run(&YIELD, &mut registers(pattern)), Ok(()), "yield");
    }
}

fn scan() -> Claim {
    let (code, area, saved) = (Code::new()?, Frame::new()?, Frame::new()?);
    // This kernel never touches the FPU, so its state is that of a new vcpu: nothing but the defaults.
    ensure_eq!(code.run(&SAVE_FPU, &mut Regs { rbx: saved.va(), ..Regs::default() }), Ok(()), "fxsave");
    for n in (1..STATE_WORDS).filter(|n| *n != 3) {
        ensure_eq!(saved.word(n), 0, "word {n} of a new vcpu's state");
    }
    ensure_eq!(saved.word(3) & 0xffff_ffff, MXCSR, "MXCSR of a new vcpu");
    ensure_eq!(canary::hidden_gs(&code)?, 0, "the user's GS base of a new vcpu");
    let rdtscp = canary::has_rdtscp();
    if rdtscp {
        ensure_eq!(canary::tsc_aux(&code)?, 0, "TSC_AUX of a new vcpu");
    }
    let (avx, upper) = (canary::enable_avx(&code)?, Frame::new()?);
    if avx {
        canary::check_avx(&code, &upper, |_| 0)?;
    }
    for register in 0..4 {
        ensure_eq!(call::call(H::GetDebugreg, [register]), 0, "breakpoint {register} of a new vcpu");
    }
    let pages = scan_memory()?;
    println!("SCANNED {pages} pages, {}", told(avx, rdtscp));
    for round in 0..ROUNDS {
        let own = 0x1111_2222_3333_4440 + (round << 4);
        set_state(&area, own);
        ensure_eq!(call::call(H::SetDebugreg, [round & 3, own & 0x7fff_ffff_fff8]), 0, "a breakpoint");
        ensure_eq!(call::call(H::SetSegmentBase, [0, own & 0x7fff_ffff_ffff]), 0, "the FS base");
        ensure_eq!(code.run(&LOAD_FPU, &mut Regs { rbx: area.va(), ..Regs::default() }), Ok(()), "fxrstor");
        let mut regs = registers(own);
        ensure_eq!(code.run(&YIELD, &mut regs), Ok(()), "yield");
        ensure_eq!(kept(&regs), kept(&registers(own)), "registers after a switch, round {round}");
        ensure_eq!(code.run(&SAVE_FPU, &mut Regs { rbx: saved.va(), ..Regs::default() }), Ok(()), "fxsave");
        for n in (0..STATE_WORDS).filter(|n| *n != 3) {
            // A processor that keeps the pointers only with an exception shows zeros there, never another's.
            let (now, set) = (saved.word(n), area.word(n));
            ensure!(
                now == set || ([1, 2].contains(&n) && now == 0),
                "word {n} of the state: {now:#x}, round {round}"
            );
        }
        ensure_eq!(saved.word(3) & 0xffff_ffff, mxcsr(own >> 4), "MXCSR, round {round}");
        canary::gs_across_a_yield(&code, own)?;
        if rdtscp {
            canary::tsc_aux_across_a_yield(&code, 0x1234_5600 + u32::try_from(round & 0xff).unwrap_or(0))?;
        }
        if avx {
            canary::load_avx(&code, &upper, |n| own ^ n)?;
            ensure_eq!(code.run(&YIELD, &mut Regs::default()), Ok(()), "yield");
            canary::check_avx(&code, &upper, |n| own ^ n)?;
        }
        // mov rax, dr0..dr3; rdmsr of the FS base
        let modrm = [0xc0, 0xc8, 0xd0, 0xd8][usize::try_from(round & 3).unwrap_or(0)];
        let mut regs = Regs::default();
        ensure_eq!(code.run(&[0x0f, 0x21, modrm], &mut regs), Ok(()), "reading a breakpoint");
        ensure_eq!(regs.rax, own & 0x7fff_ffff_fff8, "the breakpoint");
        let mut regs = Regs { rcx: 0xc000_0100, ..Regs::default() };
        ensure_eq!(code.run(&[0x0f, 0x32], &mut regs), Ok(()), "reading the FS base");
        ensure_eq!(regs.rdx << 32 | regs.rax & 0xffff_ffff, own & 0x7fff_ffff_ffff, "the FS base");
    }
    Ok(())
}

/// No page that comes fresh holds a word of the pattern.
fn scan_memory() -> Claim<u64> {
    let mut pages = 0_u64;
    while enough_is_left() {
        let Some(pfn) = frames::alloc(1) else { break };
        for n in 0..WORDS {
            let word = call::load(direct(pfn) + n * 8);
            ensure!(word ^ VEIL != VEILED, "another's word {n} in page {pfn}");
        }
        pages += 1;
    }
    Ok(pages)
}

/// The kernel itself still needs a little.
fn enough_is_left() -> bool {
    let (free, unmapped) = frames::available();
    free + unmapped > 256
}
