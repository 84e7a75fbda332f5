//! The smallest kernel: says hello and powers off.
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::{Context, println};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    println!("hello from a guest with {} pages", context.page_count());
    println!("command line: {:?}", context.command_line());
    if let Some(module) = context.module() {
        println!("a module of {} bytes came along, the last is {:?}", module.len(), module.last());
    }
}
