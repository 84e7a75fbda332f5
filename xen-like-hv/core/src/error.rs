//! How a hypercall ends.

use pv_abi::errno::Errno;

/// Arguments of a hypercall, as the guest left them in RDI, RSI, RDX, R10, R8, R9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `index` in full; 0 past the sixth.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Argument `index` where the ABI declares a 32-bit type: the upper half is not part of the argument (a C caller
    /// leaves anything there).
    #[must_use]
    pub fn low32(&self, index: usize) -> u32 {
        u32::try_from(self.get(index) & 0xffff_ffff).unwrap_or(0)
    }

    /// Argument `index` where the ABI declares `domid_t`.
    #[must_use]
    pub fn low16(&self, index: usize) -> u16 {
        u16::try_from(self.get(index) & 0xffff).unwrap_or(0)
    }
}

/// Why a hypercall does not simply return a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest's mistake, or a want of resources: an errno.
    Err(Errno),
    /// Preempted: the same call is to be made again with these arguments. Everything done so far is in them, or in
    /// the guest's memory, or in the vcpu.
    Restart(Args),
    /// Guest state that cannot be repaired.
    Crash(&'static str),
    /// The registers hold what the guest is to see (iret, a new context): nothing is stored into RAX.
    RegsReplaced,
}

impl From<Errno> for Exit {
    fn from(e: Errno) -> Self {
        Self::Err(e)
    }
}

/// What a handler returns: the value for RAX, or why there is none.
pub type HypercallResult = Result<u64, Exit>;

/// What an entry of the hypercall table returns, in two registers.
///
/// Most calls end with a value or an errno, which are the same to the guest: a word for RAX. The rest is rare, and too
/// large for registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The word for RAX.
    pub value: u64,
    /// Not 0 where there is none: how the call ends is in [`Cx::exit`](crate::Cx::exit). [`REGS_REPLACED`] is the one end
    /// after which nothing is left to do.
    pub parked: u64,
}

impl Reply {
    /// A word for RAX.
    #[must_use]
    pub const fn value(value: u64) -> Self {
        Self { value, parked: 0 }
    }

    /// An errno.
    #[must_use]
    pub const fn errno(e: Errno) -> Self {
        Self::value(e.to_ret().cast_unsigned())
    }

    /// The end is in `Cx::exit`.
    pub(crate) const PARKED: Self = Self { value: 0, parked: 1 };
    /// The registers are as the guest is to see them.
    pub(crate) const REPLACED: Self = Self { value: 0, parked: REGS_REPLACED };
}

/// [`Reply::parked`] of [`Exit::RegsReplaced`].
pub const REGS_REPLACED: u64 = 2;
