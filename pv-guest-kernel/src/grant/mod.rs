//! Grants: letting another domain use a frame, and using the frames of others.
//!
//! Sides: the granter makes [`GrantedPages`]; the other domain, told the references, [maps](map) them or [copies](CopyBatch)
//! from and to them. Version 1 tables only.

mod copy;
mod mapping;
mod table;

pub use copy::CopyBatch;
pub use mapping::{GrantMapping, map};
pub use table::{GrantedPages, leaked_pages};

use pv_abi::grant::GrantStatus;

use crate::hypercall::Errno;

/// What the other domain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Why a grant operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The hypervisor's verdict on this entry.
    Status(GrantStatus),
    /// The call as a whole failed.
    Call(Errno),
}

impl GrantError {
    /// Turns an entry's status into a result. A number that the ABI does not have is a general error.
    pub(crate) fn check(status: i16) -> Result<(), Self> {
        match GrantStatus::from_raw(status) {
            Some(GrantStatus::Okay) => Ok(()),
            Some(other) => Err(Self::Status(other)),
            None => Err(Self::Status(GrantStatus::GeneralError)),
        }
    }

    /// The error number that says most nearly the same.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::Call(errno) => errno,
            Self::Status(status) => match status {
                GrantStatus::BadDomain => Errno::Srch,
                GrantStatus::PermissionDenied => Errno::Acces,
                GrantStatus::NoDeviceSpace | GrantStatus::NoSpace => Errno::NoSpc,
                GrantStatus::Eagain => Errno::Again,
                GrantStatus::BadVirtAddr | GrantStatus::BadDevAddr | GrantStatus::BadPage => Errno::Fault,
                GrantStatus::AddressTooBig => Errno::Range,
                GrantStatus::BadGntref | GrantStatus::BadHandle | GrantStatus::BadCopyArg => Errno::Inval,
                GrantStatus::Okay | GrantStatus::GeneralError => Errno::Io,
            },
        }
    }
}

impl From<Errno> for GrantError {
    fn from(errno: Errno) -> Self {
        Self::Call(errno)
    }
}

impl From<GrantError> for Errno {
    fn from(error: GrantError) -> Self {
        error.errno()
    }
}

impl core::fmt::Display for GrantError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Status(status) => f.write_str(status.abi_name()),
            Self::Call(errno) => errno.fmt(f),
        }
    }
}

impl core::error::Error for GrantError {}
