//! dom0.
fn main() {}
