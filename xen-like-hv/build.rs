//! Hands the linker script to the bare-metal link of the image.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-changed=build.rs");
    let Ok(dir) = std::env::var("CARGO_MANIFEST_DIR") else { return };
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{dir}/link.ld");
        println!("cargo::rustc-link-arg-bins=--gc-sections");
        println!("cargo::rustc-link-arg-bins=-no-pie");
        // One page is the unit of permissions, and the file must be as contiguous as memory.
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
