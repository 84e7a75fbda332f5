//! What to do about speculative execution, by what the CPU says of itself.
//!
//! Facts in, decisions out; the image reads CPUID and one MSR, and carries the decisions out (`arch/cpu/speculation.rs`).
//! Nothing is done that the CPU does not advertise. What is not defended is told in the support status.

/// What a CPU says: CPUID words and `IA32_ARCH_CAPABILITIES` (0 where there is none).
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Leaf 7, EDX.
    pub leaf_7_edx: u32,
    /// Leaf 0x80000008, EBX.
    pub extended_8_ebx: u32,
    /// Leaf 0x80000021, EAX.
    pub extended_21_eax: u32,
    /// The MSR.
    pub capabilities: u64,
}

/// Leaf 7, EDX.
mod leaf_7 {
    pub(super) const MD_CLEAR: u32 = 1 << 10;
    pub(super) const IBRS_IBPB: u32 = 1 << 26;
    pub(super) const STIBP: u32 = 1 << 27;
    pub(super) const ARCH_CAPABILITIES: u32 = 1 << 29;
}

/// Leaf 0x80000008, EBX.
mod extended_8 {
    pub(super) const IBPB: u32 = 1 << 12;
    pub(super) const STIBP: u32 = 1 << 15;
    pub(super) const IBPB_CLEARS_RETURNS: u32 = 1 << 30;
}

/// Leaf 0x80000021, EAX: automatic IBRS.
const AUTOMATIC_IBRS: u32 = 1 << 8;

/// `IA32_ARCH_CAPABILITIES`.
mod capabilities {
    pub(super) const IBRS_ALL: u64 = 1 << 1;
    pub(super) const TSX_CTRL: u64 = 1 << 7;
}

/// `IA32_SPEC_CTRL`.
mod spec_ctrl {
    pub(super) const IBRS: u64 = 1 << 0;
    pub(super) const STIBP: u64 = 1 << 1;
}

/// What is done once, on each pcpu.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The value of `IA32_SPEC_CTRL`; 0 is not written. It holds for guests too: they have no register of their own.
    pub spec_ctrl: u64,
    /// Set EFER.AIBRSE.
    pub automatic_ibrs: bool,
    /// Switch transactional memory off (`IA32_TSX_CTRL`).
    pub no_transactions: bool,
}

/// What is done where a pcpu goes from one vcpu to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barriers {
    /// Empty the branch predictors (`IA32_PRED_CMD`).
    pub branches: bool,
    /// Fill the stack of return predictions, which the barrier leaves as it is.
    pub returns: bool,
    /// Overwrite buffers inside the CPU (VERW).
    pub buffers: bool,
}

impl Facts {
    /// Whether `IA32_ARCH_CAPABILITIES` can be read.
    #[must_use]
    pub const fn has_capabilities(&self) -> bool {
        self.leaf_7_edx & leaf_7::ARCH_CAPABILITIES != 0
    }

    const fn intel(&self, bit: u32) -> bool {
        self.leaf_7_edx & bit != 0
    }

    const fn amd(&self, bit: u32) -> bool {
        self.extended_8_ebx & bit != 0
    }

    /// What to set.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        let mut spec_ctrl = 0;
        // IBRS that is set once and stays; the older kind would have to be written at each entry.
        if self.intel(leaf_7::IBRS_IBPB) && self.capabilities & capabilities::IBRS_ALL != 0 {
            spec_ctrl |= spec_ctrl::IBRS;
        }
        if self.intel(leaf_7::STIBP) || self.amd(extended_8::STIBP) {
            spec_ctrl |= spec_ctrl::STIBP;
        }
        Settings {
            spec_ctrl,
            automatic_ibrs: self.extended_21_eax & AUTOMATIC_IBRS != 0,
            no_transactions: self.capabilities & capabilities::TSX_CTRL != 0,
        }
    }

    /// What to do between vcpus.
    #[must_use]
    pub const fn barriers(&self) -> Barriers {
        let branches = self.intel(leaf_7::IBRS_IBPB) || self.amd(extended_8::IBPB);
        Barriers {
            branches,
            returns: self.amd(extended_8::IBPB) && !self.amd(extended_8::IBPB_CLEARS_RETURNS),
            buffers: self.intel(leaf_7::MD_CLEAR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Facts = Facts { leaf_7_edx: 0, extended_8_ebx: 0, extended_21_eax: 0, capabilities: 0 };

    #[test]
    fn nothing_is_done_that_is_not_advertised() {
        assert_eq!((NOTHING.settings(), NOTHING.barriers()), (Settings::default(), Barriers::default()));
        // Bits of other meaning change nothing.
        let others = Facts {
            leaf_7_edx: !(1 << 10 | 1 << 26 | 1 << 27 | 1 << 29),
            extended_8_ebx: !(1 << 12 | 1 << 15),
            extended_21_eax: !(1 << 8),
            capabilities: !(1 << 1 | 1 << 7),
        };
        assert_eq!((others.settings(), others.barriers()), (Settings::default(), Barriers::default()));
        assert!(!others.has_capabilities());
    }

    #[test]
    fn xsa_479_predictors_are_emptied_between_vcpus() {
        for facts in [Facts { leaf_7_edx: 1 << 26, ..NOTHING }, Facts { extended_8_ebx: 1 << 12, ..NOTHING }]
        {
            assert!(facts.barriers().branches);
        }
    }

    #[test]
    fn xsa_422_a_barrier_that_leaves_returns_is_completed() {
        let old = Facts { extended_8_ebx: 1 << 12, ..NOTHING };
        let new = Facts { extended_8_ebx: 1 << 12 | 1 << 30, ..NOTHING };
        assert_eq!((old.barriers().returns, new.barriers().returns), (true, false));
    }

    #[test]
    fn xsa_305_transactions_are_switched_off() {
        let facts = Facts { leaf_7_edx: 1 << 29, capabilities: 1 << 7, ..NOTHING };
        assert!(facts.has_capabilities() && facts.settings().no_transactions);
    }

    #[test]
    fn restriction_stays_set_where_the_cpu_allows_that() {
        let older = Facts { leaf_7_edx: 1 << 26 | 1 << 27 | 1 << 29, ..NOTHING };
        assert_eq!(older.settings().spec_ctrl, 2, "STIBP alone");
        let newer = Facts { capabilities: 1 << 1, ..older };
        assert_eq!(newer.settings().spec_ctrl, 3);
        let amd = Facts { extended_8_ebx: 1 << 15, extended_21_eax: 1 << 8, ..NOTHING };
        let Settings { spec_ctrl, automatic_ibrs, .. } = amd.settings();
        assert_eq!((spec_ctrl, automatic_ibrs), (2, true));
    }

    #[test]
    fn buffers_are_overwritten_where_verw_does_it() {
        assert!(Facts { leaf_7_edx: 1 << 10, ..NOTHING }.barriers().buffers);
    }
}
