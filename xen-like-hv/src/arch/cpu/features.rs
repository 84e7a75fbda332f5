//! What this CPU can do, as far as the hypervisor itself cares. Read once, on the boot processor.

use super::regs::cpuid;
use hv_core::cmdline::Options;
use spin::Once;

/// How the names of AMD's CPUs and of those like them begin.
const AMD_NAMES: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// What the hypervisor found and decided to use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    /// 1 GiB pages.
    pub(crate) huge_pages: bool,
    /// Supervisor mode execution prevention, unless switched off.
    pub(crate) smep: bool,
    /// Supervisor mode access prevention, unless switched off.
    pub(crate) smap: bool,
    /// RDFSBASE and its kin.
    pub(crate) fsgsbase: bool,
    /// XSAVE.
    pub(crate) xsave: bool,
    /// The state components of XSAVE that the CPU has and the hypervisor switches on: x87, SSE, AVX, AVX-512.
    pub(crate) xcr0: u64,
    /// RDTSCP, and the register `TSC_AUX` that it reads.
    pub(crate) rdtscp: bool,
    /// The APIC timer can compare with the time stamp counter.
    pub(crate) tsc_deadline: bool,
    /// x2APIC mode, unless switched off.
    pub(crate) x2apic: bool,
    /// The time stamp counter ticks at one rate in all power states.
    pub(crate) invariant_tsc: bool,
    /// SYSENTER exists in long mode (Intel).
    pub(crate) sysenter: bool,
    /// Loading x87 state leaves the pointers of the last x87 instruction as they are, unless an exception is pending (AMD's
    /// CPUs before `RstrFpErrPtrs`).
    pub(crate) keeps_fpu_pointers: bool,
    /// Bits of a machine address.
    pub(crate) address_bits: u32,
}

static FEATURES: Once<Features> = Once::new();

/// The features; all off before [`detect`].
pub(crate) fn get() -> Features {
    FEATURES.get().copied().unwrap_or_default()
}

/// What the hypervisor cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub(crate) &'static str);

/// Reads CPUID and applies the command line's wishes.
pub(crate) fn detect(options: &Options) -> Result<Features, Missing> {
    let basic = cpuid(1, 0);
    let structured = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { cpuid(0x8000_0000, 0) };
    let has_structured = cpuid(0, 0).eax >= 7;
    let extended_max = cpuid(0x8000_0000, 0).eax;
    let extended = cpuid(0x8000_0001, 0);
    let bit = |word: u32, n: u32| word >> n & 1 != 0;
    let required = [
        (bit(extended.edx, 20), "no-execute pages"),
        (bit(extended.edx, 11), "SYSCALL"),
        (bit(basic.edx, 9), "a local APIC"),
        (bit(basic.edx, 16), "page attribute tables"),
        (bit(basic.edx, 24), "FXSAVE"),
        (bit(basic.edx, 4), "a time stamp counter"),
    ];
    if let Some((_, what)) = required.iter().find(|(there, _)| !there) {
        return Err(Missing(what));
    }
    let features = Features {
        huge_pages: bit(extended.edx, 26),
        smep: options.smep && has_structured && bit(structured.ebx, 7),
        smap: options.smap && has_structured && bit(structured.ebx, 20),
        fsgsbase: has_structured && bit(structured.ebx, 0),
        xsave: bit(basic.ecx, 26),
        xcr0: if bit(basic.ecx, 26) { xcr0() } else { 0 },
        rdtscp: bit(extended.edx, 27),
        tsc_deadline: bit(basic.ecx, 24),
        x2apic: options.x2apic && bit(basic.ecx, 21),
        invariant_tsc: extended_max >= 0x8000_0007 && bit(cpuid(0x8000_0007, 0).edx, 8),
        sysenter: bit(basic.edx, 11),
        keeps_fpu_pointers: AMD_NAMES.contains(&cpuid(0, 0).ebx)
            && (extended_max < 0x8000_0008 || !bit(cpuid(0x8000_0008, 0).ebx, 2)),
        address_bits: if extended_max >= 0x8000_0008 { cpuid(0x8000_0008, 0).eax & 0xff } else { 36 },
    };
    FEATURES.call_once(|| features);
    Ok(features)
}

fn xcr0() -> u64 {
    let supported = cpuid(0xd, 0);
    let all = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    let mut value = all & 0x7;
    // The three parts of AVX-512 go together.
    if all & 0xe0 == 0xe0 {
        value |= 0xe0;
    }
    value
}

/// The CPU's brand string, without padding.
pub(crate) fn brand() -> ([u8; 48], usize) {
    let mut text = [0; 48];
    if cpuid(0x8000_0000, 0).eax < 0x8000_0004 {
        return (text, 0);
    }
    for (leaf, part) in (0x8000_0002u32..).zip(text.chunks_exact_mut(16)) {
        let r = cpuid(leaf, 0);
        for (word, place) in [r.eax, r.ebx, r.ecx, r.edx].iter().zip(part.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    let used = text.iter().rposition(|&b| b != 0 && b != b' ').map_or(0, |last| last + 1);
    (text, used)
}
