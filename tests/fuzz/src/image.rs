//! Kernels: compressed images, ELF files, notes, and the plan of the domain that they lead to.

use pv_image::{BuildConfig, KernelImage, Plan, Role, unpack};

/// What a kernel may unpack to here.
const LIMIT: usize = 1 << 20;
/// Pages of the domain.
const PAGES: u64 = 4096;

/// See the crate.
pub(crate) fn image(input: &[u8]) {
    let Ok(file) = unpack(input, LIMIT) else { return };
    assert!(file.len() <= LIMIT.max(input.len()), "unpacked to {} bytes", file.len());
    let Ok(kernel) = KernelImage::parse(&file) else { return };
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
