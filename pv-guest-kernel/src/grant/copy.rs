//! Copying from and to granted frames without mapping them.

#![expect(unsafe_code, reason = "the hypervisor writes into memory of ours")]

use alloc::vec::Vec;
use core::marker::PhantomData;

use pv_abi::grant::{GntcopyFlags, GnttabCopy, GnttabCopyPtr, GnttabOp};
use pv_abi::ids::{DomId, GrantRef};

use super::GrantError;
use crate::hypercall::{self, Errno};
use crate::memory::pages::Area;
use crate::memory::{PAGE_SIZE, p2m};

/// Copies that are carried out in one hypercall. Each stays within one page on both sides.
#[derive(Debug, Default)]
pub struct CopyBatch<'a> {
    entries: Vec<GnttabCopy>,
    memory: PhantomData<&'a ()>,
}

impl<'a> CopyBatch<'a> {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new(), memory: PhantomData }
    }

    /// An empty batch with room for so many copies.
    #[must_use]
    pub fn with_capacity(copies: usize) -> Self {
        Self { entries: Vec::with_capacity(copies), memory: PhantomData }
    }

    /// Appends: `length` bytes from `offset` of the granted frame to `at` of `to`.
    pub fn read(
        &mut self,
        from: (DomId, GrantRef, usize),
        to: (Area<'a>, usize),
        length: usize,
    ) -> Result<&mut Self, GrantError> {
        let entry = GnttabCopy {
            source: granted(from, length)?,
            dest: own(to, length)?,
            len: small(length)?,
            flags: GntcopyFlags::SOURCE_GREF.bits(),
            ..GnttabCopy::default()
        };
        self.entries.push(entry);
        Ok(self)
    }

    /// Appends: `length` bytes from `at` of `from` to `offset` of the granted frame.
    pub fn write(
        &mut self,
        from: (Area<'a>, usize),
        to: (DomId, GrantRef, usize),
        length: usize,
    ) -> Result<&mut Self, GrantError> {
        let entry = GnttabCopy {
            source: own(from, length)?,
            dest: granted(to, length)?,
            len: small(length)?,
            flags: GntcopyFlags::DEST_GREF.bits(),
            ..GnttabCopy::default()
        };
        self.entries.push(entry);
        Ok(self)
    }

    /// How many copies the batch has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the batch has no copies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Carries the copies out; one result for each, in order.
    pub fn run(mut self) -> Result<Vec<Result<(), GrantError>>, GrantError> {
        self.issue()?;
        Ok(self.entries.iter().map(|entry| GrantError::check(entry.status)).collect())
    }

    /// Carries the copies out; the first error of any is the result.
    pub fn run_all(mut self) -> Result<(), GrantError> {
        self.issue()?;
        self.entries.iter().try_for_each(|entry| GrantError::check(entry.status))
    }

    fn issue(&mut self) -> Result<(), GrantError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        // SAFETY: what is ours in the entries lies in areas that may change at any time and that live long enough.
        unsafe { hypercall::grant_table_op(GnttabOp::Copy, &mut self.entries) }?;
        Ok(())
    }
}

fn small(number: usize) -> Result<u16, GrantError> {
    u16::try_from(number).map_err(|_| Errno::Inval.into())
}

/// A range within one page.
fn within_page(offset: usize, length: usize) -> Result<u16, GrantError> {
    if offset.checked_add(length).is_none_or(|end| end > PAGE_SIZE) {
        return Err(Errno::Inval.into());
    }
    small(offset)
}

fn granted(end: (DomId, GrantRef, usize), length: usize) -> Result<GnttabCopyPtr, GrantError> {
    let (domain, gref, offset) = end;
    Ok(GnttabCopyPtr {
        u: gref.raw().into(),
        domid: domain.raw(),
        offset: within_page(offset, length)?,
        ..GnttabCopyPtr::default()
    })
}

fn own(end: (Area<'_>, usize), length: usize) -> Result<GnttabCopyPtr, GrantError> {
    let (area, at) = end;
    let va = area.address(at, length).ok_or(Errno::Inval)?;
    let frame = p2m::va_to_mfn(va).ok_or(Errno::Fault)?;
    let offset = usize::try_from(va).map_err(|_| Errno::Inval)? % PAGE_SIZE;
    Ok(GnttabCopyPtr {
        u: frame.raw(),
        domid: DomId::SELF.raw(),
        offset: within_page(offset, length)?,
        ..GnttabCopyPtr::default()
    })
}
