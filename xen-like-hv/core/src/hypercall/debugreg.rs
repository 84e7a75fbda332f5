//! `set_debugreg`, `get_debugreg`.
//!
//! A guest's breakpoint must neither fire in the hypervisor nor stop it (XSA-12, XSA-444): addresses are the guest's own,
//! general detect is refused, reserved bits are forced. I/O breakpoints are refused too: a guest's port accesses are
//! emulated and would never meet them.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::GuestVa;

use super::guest_ptr::access_ok;
use crate::cx::Cx;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;

/// Bits of DR6 that always read 1.
const DR6_FIXED: u64 = 0xffff_0ff0;
/// Bits of DR6 that can be written: B0–B3, BD, BS, BT.
const DR6_WRITABLE: u64 = 0xe00f;
/// Bit of DR7 that always reads 1.
const DR7_FIXED: u64 = 0x400;
/// Bits of DR7 that can be written: enables, exact, lengths and kinds.
const DR7_WRITABLE: u64 = 0xffff_03ff;
/// DR7: general detect.
const DR7_GD: u64 = 1 << 13;
/// CR4: debugging extensions.
const CR4_DE: u64 = 1 << 3;
/// Kind of a breakpoint on port accesses.
const KIND_IO: u64 = 2;

/// `set_debugreg`: `(register, value)`.
///
/// # Errors
/// `EPERM` for a value that a guest may not have, `ENODEV` for a register that is not there.
#[inline(always)]
pub fn set_debugreg<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let index = register(cx, args.low32(0))?;
    let value = checked(index, args.get(1))?;
    if let Some(slot) = cx.vcpu.entry.debug.get(usize::from(index)) {
        slot.store(value, Relaxed);
    }
    cx.m.write_debug_register(index, value);
    Ok(0)
}

/// `get_debugreg`: `(register)`; returns its value.
///
/// # Errors
/// `ENODEV` for a register that is not there.
#[inline(always)]
pub fn get_debugreg<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let index = register(cx, args.low32(0))?;
    Ok(cx.vcpu.entry.debug.get(usize::from(index)).map_or(0, |slot| slot.load(Relaxed)))
}

/// The register that a number names: 4 and 5 are other names of 6 and 7 unless debugging extensions are on.
fn register<M: Machine>(cx: &Cx<'_, M>, number: u32) -> Result<u8, Errno> {
    let extensions = cx.vcpu.entry.cr4.load(Relaxed) & CR4_DE != 0;
    let index = match number {
        4 | 5 if !extensions => number + 2,
        0..=3 | 6 | 7 => number,
        _ => return Err(Errno::NoDev),
    };
    u8::try_from(index).map_err(|_| Errno::NoDev)
}

/// The value as it may stand in register `index`.
///
/// # Errors
/// `EPERM`.
pub fn checked(index: u8, value: u64) -> Result<u64, Errno> {
    match index {
        6 => Ok(value & DR6_WRITABLE | DR6_FIXED),
        7 => checked_control(value),
        _ if access_ok(GuestVa::new(value), 1) => Ok(value),
        _ => Err(Errno::Perm),
    }
}

fn checked_control(value: u64) -> Result<u64, Errno> {
    if value & DR7_GD != 0 {
        return Err(Errno::Perm);
    }
    let io = (0..4_u32).any(|n| value >> (16 + 4 * n) & 3 == KIND_IO);
    if io { Err(Errno::Perm) } else { Ok(value & DR7_WRITABLE | DR7_FIXED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_in_the_hypervisor_are_refused() {
        for va in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 0xffff_87ff_ffff_ffff, 0x8000_0000_0000] {
            assert_eq!(checked(0, va), Err(Errno::Perm), "{va:#x}");
        }
        for va in [0, 0x7fff_ffff_ffff, 0xffff_8800_0000_0000, u64::MAX] {
            assert_eq!(checked(3, va), Ok(va));
        }
    }

    #[test]
    fn xsa_12_reserved_bits_of_dr7_are_forced() {
        assert_eq!(checked(7, !DR7_GD & !0xcccc_0000 & !0x2222_0000), Ok(0x1111_07ff));
        assert_eq!(checked(7, DR7_GD), Err(Errno::Perm));
        assert_eq!(checked(7, KIND_IO << 20), Err(Errno::Perm));
        assert_eq!(checked(6, 0), Ok(0xffff_0ff0));
    }
}
