//! Kernels: compressed images, ELF files, notes, and the plan of the domain that they lead to.
//!
//! The first byte of an input says what the others are: a file, or the payload of a bzImage, whose header of a
//! kilobyte no fuzzer would write.

use std::borrow::Cow;

use pv_image::{BuildConfig, KernelImage, Plan, Role, unpack};

/// What a kernel may unpack to here.
const LIMIT: usize = 1 << 20;
/// Pages of the domain.
const PAGES: u64 = 4096;

/// See the crate.
pub(crate) fn image(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let file = if kind & 1 == 0 { Cow::Borrowed(rest) } else { Cow::Owned(bzimage(rest)) };
    let Ok(unpacked) = unpack(&file, LIMIT) else { return };
    assert!(unpacked.len() <= LIMIT.max(file.len()), "unpacked to {} bytes", unpacked.len());
    let Ok(kernel) = KernelImage::parse(&unpacked) else { return };
    let role = Role::DomU { store_port: 1, console_port: 2 };
    let Ok(plan) = Plan::new(kernel, None, BuildConfig { role, nr_pages: PAGES, cmdline: b"x" }) else {
        return;
    };
    assert!(plan.used_pages() <= PAGES, "{} pages used", plan.used_pages());
    assert!(plan.l4().raw() < PAGES, "{:?}", plan.l4());
    assert!(plan.hypercall_page().is_none_or(|p| p.raw() < PAGES), "{:?}", plan.hypercall_page());
    let entries = plan.page_table_entries().count();
    assert!(entries < 1 << 16, "{entries} entries for {PAGES} pages");
}

/// A Linux bzImage of boot protocol 2.15 around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(payload);
    file
}
