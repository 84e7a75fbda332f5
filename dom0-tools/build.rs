//! Links the dom0 image with the SDK's linker script.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-Tguest.ld");
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
