//! The files of hv-core that are compiled here are told that their atomics are loom's.

fn main() {
    println!("cargo::rustc-cfg=loom");
}
