//! Hypercalls with arguments of any kind, wrong ones included.

#![expect(unsafe_code, reason = "a test hands the hypervisor what a sound kernel would not")]

use crate::{Claim, Trouble};
use alloc::format;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::DomId;
use pv_abi::mmu::{MmuUpdate, MmuextOp};
use pv_abi::pte::Pte;
use pv_guest_kernel::hypercall::{Errno, raw};

/// Issues a call by its number and gives RAX back.
///
/// This is a safe function although the call may do harm: a test guest that writes over itself spoils its own claim
/// and nothing else. Callers keep the memory alive that right addresses among the arguments name.
#[must_use]
// A loop that measures calls shall not measure this one's way there.
#[inline(always)]
pub fn number<const N: usize>(number: u64, args: [u64; N]) -> i64 {
    let mut all = [0; 5];
    for (slot, value) in all.iter_mut().zip(args) {
        *slot = value;
    }
    // SAFETY: see above.
    unsafe { raw::call(number, all) }
}

/// Issues a call of the table.
#[must_use]
#[inline(always)]
pub fn call<const N: usize>(call: Hypercall, args: [u64; N]) -> i64 {
    number(call.raw(), args)
}

/// Issues a call of the table that has to answer 0.
///
/// # Errors
/// Any other answer.
#[inline(always)]
pub fn succeed<const N: usize>(call: Hypercall, args: [u64; N]) -> Claim {
    match number(call.raw(), args) {
        0 => Ok(()),
        other => failed(call, other),
    }
}

#[cold]
#[inline(never)]
fn failed(call: Hypercall, answer: i64) -> Claim {
    Err(Trouble::Failure(format!("{call:?} answered {answer} instead of 0")))
}

/// The address of a value that lives through the call.
#[must_use]
pub fn address<T: ?Sized>(value: &T) -> u64 {
    (&raw const *value).cast::<u8>().expose_provenance() as u64
}

/// The address of a value that the call writes.
#[must_use]
pub fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    (&raw mut *value).cast::<u8>().expose_provenance() as u64
}

/// Checks that a call answered exactly this error.
pub fn refused(what: &str, returned: i64, errno: Errno) -> Claim {
    if returned == errno.to_ret() {
        return Ok(());
    }
    let got = match Errno::from_ret(returned) {
        Some(other) => other.name().into(),
        None => format!("{returned}"),
    };
    Err(Trouble::Failure(format!("{what} answered {got} instead of {}", errno.name())))
}

/// Checks that a call answered some error, whichever.
pub fn refused_somehow(what: &str, returned: i64) -> Claim {
    if returned < 0 {
        Ok(())
    } else {
        Err(Trouble::Failure(format!("{what} answered {returned}, not an error")))
    }
}

/// Checks that a call worked and gives its value.
pub fn granted(what: &str, returned: i64) -> Claim<u64> {
    u64::try_from(returned).map_err(|_| {
        let name = Errno::from_ret(returned).map_or("an unknown error", Errno::name);
        Trouble::Failure(format!("{what} answered {name}"))
    })
}

/// `mmu_update` on oneself; the answer and how many were done.
#[must_use]
pub fn mmu_update(updates: &[MmuUpdate]) -> (i64, u32) {
    let mut done = 0_u32;
    let args = [address(updates), updates.len() as u64, address_mut(&mut done), u64::from(DomId::SELF.raw())];
    (call(Hypercall::MmuUpdate, args), done)
}

/// `mmuext_op` on oneself; the answer and how many were done.
#[must_use]
pub fn mmuext_op(operations: &[MmuextOp]) -> (i64, u32) {
    let mut done = 0_u32;
    let args =
        [address(operations), operations.len() as u64, address_mut(&mut done), u64::from(DomId::SELF.raw())];
    (call(Hypercall::MmuextOp, args), done)
}

/// `update_va_mapping` with its flags.
#[must_use]
pub fn update_va_mapping(va: u64, value: Pte, flags: u64) -> i64 {
    call(Hypercall::UpdateVaMapping, [va, value.raw(), flags])
}

/// Writes a word at an address that may not be writable; the vector of the exception if there was one.
pub fn store(address: u64, value: u64) {
    let pointer = core::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(address).unwrap_or(0));
    // SAFETY: as for `number`: what is hit is the test's own, or the write faults, which is what is tried.
    unsafe { pointer.write_volatile(value) };
}

/// Reads a word at an address that must be mapped.
#[must_use]
pub fn load(address: u64) -> u64 {
    let pointer = core::ptr::with_exposed_provenance::<u64>(usize::try_from(address).unwrap_or(0));
    // SAFETY: as for `store`.
    unsafe { pointer.read_volatile() }
}
