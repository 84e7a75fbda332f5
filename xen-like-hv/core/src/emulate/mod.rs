//! Privileged instructions, MSRs, CPUID.

use crate::cx::Cx;
use crate::port::Machine;

/// What became of an instruction that the hypervisor was asked to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// Carried out; RIP is behind it.
    Done,
    /// It raises an exception; RIP is at it.
    Inject {
        /// Vector.
        vector: u8,
        /// Error code, where the vector has one.
        error_code: u32,
        /// Address, for a page fault.
        cr2: u64,
    },
    /// Not one that the hypervisor emulates.
    NotMine,
}

/// Carries out the privileged instruction at RIP that raised #GP.
pub fn privileged_instruction<M: Machine>(cx: &mut Cx<'_, M>) -> Emulation {
    let _ = cx;
    Emulation::NotMine
}

/// Carries out the instruction behind a forced-emulation prefix at RIP that raised #UD.
pub fn forced_emulation<M: Machine>(cx: &mut Cx<'_, M>) -> Emulation {
    let _ = cx;
    Emulation::NotMine
}
