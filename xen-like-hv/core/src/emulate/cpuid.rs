//! What CPUID tells a guest: the machine's answers, cut down to what a PV guest can use.
//!
//! Features that need ring 0, a physical address space of one's own or hardware virtualisation are hidden; so is what
//! would need registers that are not switched with the vcpu (`SPEC_CTRL`, `XSS`). Everything is a list of what is allowed,
//! so that bits of CPUs to come stay hidden. The counts of cores and threads are the machine's: a process sees them
//! anyway, since CPUID traps nowhere in user mode, and kernel and processes had better see the same.

use super::xstate;

/// First leaf of the hypervisor's own range.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// Last leaf of that range that means something.
const LAST_HYPERVISOR_LEAF: u32 = HYPERVISOR_LEAF + 5;
/// Highest leaves shown of the two ranges of the CPU.
const LAST_BASIC_LEAF: u32 = 0xd;
const LAST_EXTENDED_LEAF: u32 = 0x8000_0008;
/// Version of the ABI that is offered: 4.17.
const VERSION: u32 = 4 << 16 | 17;
/// MSR by whose write a guest may ask for hypercall pages. As the ABI tells; see the MSR policy.
const HYPERCALL_MSR: u32 = 0x4000_0000;
/// Leaf 0x40000002, ECX: `MMU_PT_UPDATE_PRESERVE_AD` is known.
const PRESERVE_AD: u32 = 1;

/// What the answer depends on besides the leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Whether XSAVE, where the CPU has it, is shown as switched on.
    pub osxsave: bool,
    /// Bits of a machine address.
    pub maddr_bits: u32,
    /// Ticks of the time stamp counter in a millisecond.
    pub tsc_khz: u32,
    /// pvclock's multiplier.
    pub tsc_mul: u32,
    /// pvclock's shift.
    pub tsc_shift: i8,
}

const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < list.len() {
        mask |= 1 << list[i];
        i += 1;
    }
    mask
}

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
const ECX_XSAVE: u32 = 1 << 26;
const ECX_OSXSAVE: u32 = 1 << 27;
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: FPU, DE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MCA, CMOV, PAT, CLFLUSH, ACPI, MMX, FXSR, SSE, SSE2, self
/// snoop, HTT. Not VME, PSE, MTRR, PGE, PSE-36.
const LEAF_1_EDX: u32 = bits(&[0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 19, 22, 23, 24, 25, 26, 27, 28]);
const EDX_SEP: u32 = 1 << 11;
/// Leaf 0, EDX of AMD's and Hygon's CPUs, the middle of their names: they have no SYSENTER in long mode.
const NO_LONG_SYSENTER: [u32; 2] = [u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"nGen")];
/// Leaf 7, EBX: FSGSBASE, BMI1, AVX2, BMI2, ERMS, AVX-512 (F, DQ, IFMA, PF, ER, CD, BW, VL), RDSEED, ADX, CLFLUSHOPT,
/// CLWB, SHA. Not SMEP, SMAP, INVPCID.
const LEAF_7_EBX: u32 = bits(&[0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
/// Leaf 7, ECX: more AVX-512, GFNI, VAES, VPCLMULQDQ, MOVDIRI, MOVDIR64B. Not UMIP, PKU, LA57, RDPID.
const LEAF_7_ECX: u32 = bits(&[1, 6, 8, 9, 10, 11, 12, 14, 27, 28]);
/// Leaf 7, EDX: AVX-512 4VNNIW and 4FMAPS, FSRM, MD_CLEAR, SERIALIZE.
const LEAF_7_EDX: u32 = bits(&[2, 3, 4, 10, 14]);
/// Leaf 0x80000001, ECX: LAHF, CMP_LEGACY, ABM, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM.
const EXTENDED_ECX: u32 = bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 0x80000001, EDX: what AMD repeats of leaf 1 (as far as that is shown), SYSCALL, NX, MMXEXT, RDTSCP,
/// LM, 3DNow. Not 1 GiB pages, FFXSR.
const EXTENDED_EDX: u32 = bits(&[0, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 23, 24, 11, 20, 22, 27, 29, 30, 31]);
/// Leaf 0x80000007, EDX: invariant TSC.
const INVARIANT_TSC: u32 = 1 << 8;
/// Bits of a virtual address.
const VADDR_BITS: u32 = 48;
/// Leaf 0x80000008, EBX: CLZERO, no error pointer restore.
const LEAF_8_EBX: u32 = bits(&[0, 2]);

/// Whether a leaf's answer has anything to do with the clock: the hypervisor's own.
pub(super) const fn tells_of_the_clock(leaf: u32) -> bool {
    leaf >= HYPERVISOR_LEAF && leaf <= LAST_HYPERVISOR_LEAF
}

/// Leaf 0x80000008, ECX: the number of cores, and the bits of an APIC id that tell them apart.
const CORES: u32 = 0xf0ff;

/// The answer to a leaf and sub-leaf; `hw` gives the machine's. Order: EAX, EBX, ECX, EDX.
#[inline(always)]
pub fn answer(hw: &impl Fn(u32, u32) -> [u32; 4], view: &View, leaf: u32, subleaf: u32) -> [u32; 4] {
    match leaf {
        HYPERVISOR_LEAF..=LAST_HYPERVISOR_LEAF => hypervisor(view, leaf, subleaf),
        0..=LAST_BASIC_LEAF => basic(hw, view, leaf, subleaf),
        0x8000_0000..=LAST_EXTENDED_LEAF => extended(hw, leaf),
        _ => [0; 4],
    }
}

#[inline]
fn basic(hw: &impl Fn(u32, u32) -> [u32; 4], view: &View, leaf: u32, subleaf: u32) -> [u32; 4] {
    let [top, b, c, d] = hw(0, 0);
    let max = top.min(LAST_BASIC_LEAF);
    if leaf == 0 {
        return [max, b, c, d];
    }
    if leaf > max {
        return [0; 4];
    }
    let vendor = d;
    let [a, b, c, d] = hw(leaf, subleaf);
    match leaf {
        1 => {
            let osxsave = if view.osxsave && c & ECX_XSAVE != 0 { ECX_OSXSAVE } else { 0 };
            // All vcpus have APIC id 0, as a PV guest on Xen finds it: another would be taken for a package of its own.
            let b = b & 0xff_ffff;
            let sep = if NO_LONG_SYSENTER.contains(&vendor) { EDX_SEP } else { 0 };
            [a, b, c & LEAF_1_ECX | osxsave | ECX_HYPERVISOR, d & LEAF_1_EDX & !sep]
        }
        // Caches.
        2 | 4 => [a, b, c, d],
        7 if subleaf == 0 => [0, b & LEAF_7_EBX, c & LEAF_7_ECX, d & LEAF_7_EDX],
        0xd => xstate::answer(hw, subleaf),
        _ => [0; 4],
    }
}

fn extended(hw: &impl Fn(u32, u32) -> [u32; 4], leaf: u32) -> [u32; 4] {
    let max = hw(0x8000_0000, 0)[0].min(LAST_EXTENDED_LEAF);
    if leaf > max {
        return [0; 4];
    }
    let [a, b, c, d] = hw(leaf, 0);
    match leaf {
        0x8000_0000 => [max, b, c, d],
        0x8000_0001 => [a, b, c & EXTENDED_ECX, d & EXTENDED_EDX],
        0x8000_0002..=0x8000_0006 => [a, b, c, d],
        0x8000_0007 => [0, 0, 0, d & INVARIANT_TSC],
        // Four levels of page tables, whatever the CPU could do. ECX counts cores.
        0x8000_0008 => [a & 0xff | VADDR_BITS << 8, b & LEAF_8_EBX, c & CORES, 0],
        _ => [0; 4],
    }
}

/// The hypervisor's own leaves, which nobody asks for often (`xen/arch-x86/cpuid.h`).
#[inline(never)]
fn hypervisor(view: &View, leaf: u32, subleaf: u32) -> [u32; 4] {
    match (leaf - HYPERVISOR_LEAF, subleaf) {
        (0, _) => {
            let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
            [LAST_HYPERVISOR_LEAF, word(b"XenV"), word(b"MMXe"), word(b"nVMM")]
        }
        (1, _) => [VERSION, 0, 0, 0],
        (2, _) => [1, HYPERCALL_MSR, PRESERVE_AD, 0],
        // The counter is never emulated (mode 2), and was never in another incarnation.
        (3, 0) => [0, 2, view.tsc_khz, 0],
        (3, 1) => [0, 0, view.tsc_mul, u32::from_ne_bytes(i32::from(view.tsc_shift).to_ne_bytes())],
        (3, 2) => [view.tsc_khz, 0, 0, 0],
        (5, 0) => [0, view.maddr_bits & 0xff, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU that has every bit of everything.
    fn everything(leaf: u32, _subleaf: u32) -> [u32; 4] {
        match leaf {
            0 => [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
            0x8000_0000 => [0x8000_0021, 0, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    fn ask(leaf: u32, subleaf: u32) -> [u32; 4] {
        let view = View { osxsave: false, maddr_bits: 40, tsc_khz: 2_300_000, tsc_mul: 5, tsc_shift: -1 };
        answer(&everything, &view, leaf, subleaf)
    }

    #[test]
    fn the_signature_is_where_guests_look_for_it() {
        assert_eq!(ask(0x4000_0000, 0), [0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
        assert_eq!(ask(0x4000_0001, 0)[0], 0x4_0011);
        assert_eq!(ask(0x4000_0002, 0), [1, 0x4000_0000, 1, 0]);
        assert_eq!(ask(0x4000_0003, 1)[3], u32::MAX);
        assert_eq!(ask(0x4000_0005, 0)[1], 40);
        for leaf in [0x4000_0006, 0x4000_0100, 0x4001_0000] {
            assert_eq!(ask(leaf, 0), [0; 4]);
        }
    }

    #[test]
    fn what_needs_ring_0_is_hidden() {
        let [_, b, c, d] = ask(1, 0);
        assert_eq!(b >> 24, 0);
        // MONITOR, VMX, SMX, PCID, x2APIC, TSC deadline, OSXSAVE.
        for bit in [3, 5, 6, 17, 21, 24, 27] {
            assert_eq!(c >> bit & 1, 0, "leaf 1 ecx {bit}");
        }
        assert_eq!(c >> 31, 1);
        // VME, PSE, MTRR, PGE, PSE-36.
        for bit in [1, 3, 12, 13, 17] {
            assert_eq!(d >> bit & 1, 0, "leaf 1 edx {bit}");
        }
        let [max, b7, c7, d7] = ask(7, 0);
        // SMEP, INVPCID, SMAP; UMIP, PKU, LA57, RDPID; IBRS, STIBP, SSBD.
        assert_eq!((max, b7 & (1 << 7 | 1 << 10 | 1 << 20)), (0, 0));
        assert_eq!(c7 & (1 << 2 | 1 << 3 | 1 << 16 | 1 << 22), 0);
        assert_eq!(d7 & (7 << 26 | 1 << 31), 0);
        assert_eq!(ask(7, 1), [0; 4]);
        assert_eq!(ask(0x8000_0001, 0)[3] & (1 << 25 | 1 << 26), 0);
    }

    #[test]
    fn what_a_pv_kernel_needs_is_shown() {
        let [_, _, c, d] = ask(1, 0);
        // PAT, NX, SYSCALL, APIC, MCE, XSAVE, FSGSBASE.
        assert_eq!((c >> 26 & 1, d >> 16 & 1, d >> 9 & 1, d >> 7 & 1), (1, 1, 1, 1));
        let extended = ask(0x8000_0001, 0)[3];
        assert_eq!((extended >> 11 & 1, extended >> 20 & 1, extended >> 29 & 1), (1, 1, 1));
        assert_eq!(ask(7, 0)[1] & 1, 1);
    }

    #[test]
    fn sysenter_is_shown_where_long_mode_has_it() {
        let sep = |name: &[u8; 4]| {
            let middle = u32::from_le_bytes(*name);
            let hw = move |leaf: u32, _: u32| if leaf == 0 { [0xd, 0, 0, middle] } else { [u32::MAX; 4] };
            answer(&hw, &View::default(), 1, 0)[3] >> 11 & 1
        };
        assert_eq!((sep(b"ineI"), sep(b"enti"), sep(b"nGen")), (1, 0, 0));
    }

    #[test]
    fn osxsave_follows_the_guests_cr4() {
        let view = View { osxsave: true, ..View::default() };
        assert_eq!(answer(&everything, &view, 1, 0)[2] >> 27 & 1, 1);
        let without_xsave = |leaf: u32, s: u32| if leaf == 1 { [0; 4] } else { everything(leaf, s) };
        assert_eq!(answer(&without_xsave, &view, 1, 0)[2] >> 27 & 1, 0);
    }

    #[test]
    fn leaves_beyond_the_last_are_empty() {
        assert_eq!(ask(0, 0)[0], 0xd);
        assert_eq!(ask(0x8000_0000, 0)[0], 0x8000_0008);
        for leaf in [0xe, 0x14, 0x1f, 0x8000_000a, 0x8000_001f, 0xffff_ffff] {
            assert_eq!(ask(leaf, 0), [0; 4]);
        }
        // A CPU with fewer leaves does not get more by our maximum.
        let small = |leaf: u32, _: u32| if leaf == 0 { [4, 0, 0, 0] } else { [u32::MAX; 4] };
        assert_eq!(answer(&small, &View::default(), 7, 0), [0; 4]);
    }
}
