//! The last line of a guest.

use alloc::format;
use alloc::string::String;
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::println;

/// Why a claim did not pass.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The hypervisor did not do what is claimed.
    Failure(String),
    /// The test itself could not do its part.
    Error(String),
    /// This machine does not allow to try it.
    Skip(String),
}

/// What a claim ends with.
pub type Claim<T = ()> = Result<T, Trouble>;

impl Trouble {
    /// What turns a missing value into trouble of the test itself: `.ok_or(Trouble::error("no memory"))`.
    #[must_use]
    pub fn error(text: &str) -> Self {
        Self::Error(text.into())
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Failure(format!("a call that had to work answered {}", errno.name()))
    }
}

/// Prints the verdict. The kernel powers off when its entry returns.
pub fn report(claim: &str, outcome: Claim) {
    match outcome {
        Ok(()) => println!("VERDICT: SUCCESS {claim}"),
        Err(Trouble::Failure(text)) => println!("VERDICT: FAILURE {claim}: {text}"),
        Err(Trouble::Error(text)) => println!("VERDICT: ERROR {claim}: {text}"),
        Err(Trouble::Skip(text)) => println!("VERDICT: SKIP {claim}: {text}"),
    }
}

impl From<pv_guest_kernel::grant::GrantError> for Trouble {
    fn from(error: pv_guest_kernel::grant::GrantError) -> Self {
        Self::Failure(alloc::format!("a grant operation: {error}"))
    }
}
