//! `cargo xtask`: the one door to building, running, testing and measuring the project.
//!
//! Every verb is a small module: [`worlds`] knows how to compile for bare metal on this machine, [`images`] builds
//! and collects what QEMU starts, [`qemu`] starts it and reads its console, and the rest put these together.

mod advisories;
mod bad_kernels;
mod bench;
mod beside;
mod boot;
mod check;
mod claims;
mod cli;
mod cpio;
mod demo;
mod distribution;
mod domu;
mod domu_cases;
mod failure;
mod fuzz;
mod grub;
mod guests;
mod host;
mod images;
mod lint;
mod linux;
mod linux_devices;
mod linux_vcpus;
mod live;
mod live_linux;
mod machines;
mod networks;
mod on_xen;
mod paths;
mod qemu;
mod setup;
mod stretch;
mod suite;
mod symbols;
mod system;
mod systems;
mod throughput;
mod tooling;
mod tools;
mod typed;
mod unsafety;
mod volume;
mod worlds;
mod xl;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().verb.run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
