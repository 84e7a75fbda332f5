//! Links the guests with the SDK's linker script, whose folder the SDK's own build script puts on the link line.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-Tguest.ld");
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
