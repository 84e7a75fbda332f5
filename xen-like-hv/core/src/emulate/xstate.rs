//! Extended state: which parts a guest may enable, and what CPUID leaf 0xd tells of them.

/// Parts that are switched with the vcpu: x87, SSE, AVX, and AVX-512's three.
const SWITCHED: u64 = 0xe7;
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 7 << 5;
/// Bytes of the legacy area and the header.
const FIXED_BYTES: u32 = 576;
/// Leaf 0xd, sub-leaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. Not XSAVES, which needs a register of its own.
const SUBLEAF_1: u32 = 7;

/// The parts that the machine has and that guests may enable.
pub fn allowed(hw: &dyn Fn(u32, u32) -> [u32; 4]) -> u64 {
    let [low, _, _, high] = hw(0xd, 0);
    let mut mask = (u64::from(high) << 32 | u64::from(low)) & SWITCHED;
    if mask & AVX_512 != AVX_512 {
        mask &= !AVX_512;
    }
    mask
}

/// Whether a guest may set XCR0 to a value (Intel SDM volume 1, 13.3): x87 always, AVX only with SSE, AVX-512 all or
/// nothing and only with AVX.
pub fn is_valid(value: u64, allowed: u64) -> bool {
    let has = |part: u64| value & part == part;
    value & !allowed == 0
        && has(X87)
        && (value & AVX == 0 || has(SSE))
        && (value & AVX_512 == 0 || has(AVX_512 | AVX))
}

/// Leaf 0xd.
pub(super) fn answer(hw: &dyn Fn(u32, u32) -> [u32; 4], subleaf: u32) -> [u32; 4] {
    let allowed = allowed(hw);
    if allowed == 0 {
        return [0; 4];
    }
    match subleaf {
        // EBX: bytes for what is enabled now, which the machine knows.
        0 => [u32::try_from(allowed).unwrap_or(0), hw(0xd, 0)[1], area_bytes(hw, allowed), 0],
        1 => [hw(0xd, 1)[0] & SUBLEAF_1, 0, 0, 0],
        2..=63 if allowed >> subleaf & 1 != 0 => {
            let [size, offset, _, _] = hw(0xd, subleaf);
            [size, offset, 0, 0]
        }
        _ => [0; 4],
    }
}

/// Bytes of the area with all of `parts`.
fn area_bytes(hw: &dyn Fn(u32, u32) -> [u32; 4], parts: u64) -> u32 {
    (2..63u32)
        .filter(|&part| parts >> part & 1 != 0)
        .map(|part| {
            let [size, offset, _, _] = hw(0xd, part);
            offset.saturating_add(size)
        })
        .fold(FIXED_BYTES, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn avx_512_machine(_leaf: u32, subleaf: u32) -> [u32; 4] {
        match subleaf {
            0 => [0x2e7, 0x340, 0xa80, 0],
            1 => [0xf, 0x9c0, 0x100, 0],
            2 => [0x100, 0x240, 0, 0],
            5 => [0x40, 0x440, 0, 0],
            6 => [0x200, 0x480, 0, 0],
            7 => [0x400, 0x680, 0, 0],
            9 => [8, 0xa80, 0, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn parts_that_are_not_switched_are_hidden() {
        assert_eq!(allowed(&avx_512_machine), 0xe7);
        assert_eq!(answer(&avx_512_machine, 0), [0xe7, 0x340, 0xa80, 0]);
        assert_eq!(answer(&avx_512_machine, 1), [7, 0, 0, 0]);
        assert_eq!(answer(&avx_512_machine, 2), [0x100, 0x240, 0, 0]);
        assert_eq!(answer(&avx_512_machine, 9), [0; 4]);
        assert_eq!(answer(&|_, _| [0; 4], 0), [0; 4]);
    }

    #[test]
    fn xsa_54_invalid_combinations_are_refused() {
        for good in [1, 3, 7, 0xe7] {
            assert!(is_valid(good, 0xe7), "{good:#x}");
        }
        for bad in [0, 2, 5, 6, 0x27, 0x67, 0xe3, 0x107, 1 << 63 | 1] {
            assert!(!is_valid(bad, 0xe7), "{bad:#x}");
        }
        assert!(!is_valid(7, 3));
    }
}
