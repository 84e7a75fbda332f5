//! The way up: devices, services, users.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use dom0_tools::ctl::words;
use pv_abi::evtchn::VirqKind;
use pv_abi::ids::VcpuId;
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::{Context, println, task};

use crate::commands::Dom0;
use crate::machine::Machine;
use crate::tty::Tty;
use crate::{ctl, shell};

/// What the shell's line begins with.
const PROMPT: &str = "dom0> ";

/// The kernel's entry; ends with the machine.
pub(crate) fn kernel(context: &'static Context) {
    if !context.is_dom0() {
        println!("dom0: this kernel must be the first domain");
        return;
    }
    task::block_on(start(context));
}

async fn start(context: &'static Context) {
    let tty = Tty::new(PROMPT);
    tty.print(&format!("\ndom0 {}, {} MiB\n", env!("CARGO_PKG_VERSION"), context.page_count() / 256));
    match event::bind_virq(VirqKind::Console, VcpuId::new(0)) {
        Ok(channel) => task::spawn(feed(tty.clone(), channel)).detach(),
        Err(error) => tty.print(&format!("dom0: no console input: {}\n", error.name())),
    }
    let machine = Machine::find(&tty);
    let dom0 = match Dom0::start(tty.clone(), machine) {
        Ok(dom0) => dom0,
        Err(error) => {
            tty.print(&format!("dom0: the services do not start: {}\n", error.name()));
            return;
        }
    };
    for control in &dom0.machine.controls {
        task::spawn(ctl::serve(dom0.clone(), control.clone())).detach();
    }
    tty.print("dom0: ready\n");
    run_command_line(&dom0, context.command_line()).await;
    shell::run(dom0).await;
}

async fn feed(tty: Rc<Tty>, channel: EventChannel) {
    tty.fetch();
    loop {
        channel.wait().await;
        tty.fetch();
    }
}

/// Carries out what the command line asks for: `auto=FILE:FILE…` creates domains, `run="COMMAND; …"` runs commands.
async fn run_command_line(dom0: &Rc<Dom0>, line: &str) {
    let Ok(commands) = words::split(line) else {
        dom0.tty.print("dom0: the command line has a quote without its end\n");
        return;
    };
    for word in commands.into_iter().flatten() {
        let lines: Vec<String> = match word.split_once('=') {
            Some(("auto", files)) => files.split([',', ':']).map(|file| format!("create {file}")).collect(),
            Some(("run", line)) => alloc::vec![String::from(line)],
            _ => {
                dom0.tty.print(&format!("dom0: unknown word on the command line: {word}\n"));
                continue;
            }
        };
        for line in lines {
            dom0.tty.print(&format!("dom0: run: {line}\n"));
            let exit = shell::run_line(dom0, &line).await;
            dom0.tty.print(&format!("dom0: exit: {}\n", exit.code()));
        }
    }
}
