//! Puts the folder of the linker script on the link line of everything that depends on this crate.
//!
//! Cargo hands a search path on to dependents, but not linker arguments. A crate that builds guest binaries therefore
//! says in its own build script (for the bare-metal target only):
//!
//! ```text
//! println!("cargo::rustc-link-arg-bins=-Tguest.ld");
//! println!("cargo::rustc-link-arg-bins=-no-pie");
//! ```

fn main() {
    println!("cargo::rerun-if-changed=guest.ld");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    if let Ok(folder) = std::env::var("CARGO_MANIFEST_DIR") {
        println!("cargo::rustc-link-search={folder}");
    }
    for argument in ["-Tguest.ld", "-no-pie"] {
        println!("cargo::rustc-link-arg-examples={argument}");
    }
}
