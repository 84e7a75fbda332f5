//! What a user may ask for: each verb of the control language carried out.

mod devices;
mod domains;
mod files;
mod network;
mod selftest;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::Cell;

use dom0_tools::ctl::command::{self, Command, Parsed};
use dom0_tools::ctl::{Exit, render};
use dom0_tools::toolstack::ports::Hypervisor;

use crate::hv::RealHypervisor;
use crate::machine::Machine;
use crate::session::Session;
use crate::toolstack::{Failure, Toolstack};
use crate::tty::Tty;
use crate::volume::Volume;

/// All of dom0.
pub(crate) struct Dom0 {
    /// The console.
    pub(crate) tty: Rc<Tty>,
    /// The devices.
    pub(crate) machine: Rc<Machine>,
    /// The volume on the first disk.
    pub(crate) volume: Option<Rc<Volume>>,
    /// Domains.
    pub(crate) stack: Rc<Toolstack>,
    /// The machine is to be powered off once the user knows.
    powering_off: Cell<bool>,
}

impl Dom0 {
    /// Puts the parts together and starts the services.
    pub(crate) fn start(tty: Rc<Tty>, machine: Machine) -> Result<Rc<Self>, pv_abi::errno::Errno> {
        let machine = Rc::new(machine);
        let volume = machine.disks.first().cloned().map(|disk| Rc::new(Volume::new(disk)));
        let stack = Toolstack::start(tty.clone(), machine.clone(), volume.clone())?;
        Ok(Rc::new(Self { tty, machine, volume, stack, powering_off: Cell::new(false) }))
    }

    /// Whether the machine goes off as soon as the user knows.
    pub(crate) fn is_powering_off(&self) -> bool {
        self.powering_off.get()
    }
}

type Outcome = Result<(), Failure>;

/// Carries out a command and says how it ended.
pub(crate) async fn execute(dom0: &Rc<Dom0>, session: &Rc<Session>, words: &[String]) -> Exit {
    let parsed = match command::parse(words) {
        Ok(parsed) => parsed,
        Err(error) => {
            session.err(&error.to_string());
            return Exit::Usage;
        }
    };
    match carry_out(dom0, session, parsed).await {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            session.err(&failure.text);
            failure.exit
        }
    }
}

/// What remains to be done once the user has the answer.
pub(crate) fn after_answer(dom0: &Dom0) {
    if dom0.powering_off.get() {
        dom0.tty.print("dom0: powering off\n");
        pv_guest_kernel::sched::power_off();
    }
}

async fn carry_out(dom0: &Rc<Dom0>, session: &Rc<Session>, parsed: Parsed) -> Outcome {
    let (stack, format) = (&dom0.stack, parsed.format);
    match parsed.command {
        Command::List(only) => domains::list(stack, session, only.as_deref(), format),
        Command::VcpuList(only) => domains::vcpu_list(stack, session, only.as_deref(), format),
        Command::Create(create) => domains::create(stack, session, &create).await,
        Command::Destroy(who) => domains::destroy(stack, &who),
        Command::Shutdown { target, wait } => domains::shutdown(dom0, session, &target, wait).await,
        Command::Reboot { target, wait } => domains::reboot(stack, session, &target, wait).await,
        Command::Pause(who) => domains::pause(stack, &who),
        Command::Unpause(who) => domains::unpause(stack, &who),
        Command::VcpuSet { who, vcpus } => devices::vcpu_set(stack, &who, vcpus),
        Command::MemSet { who, mib } => devices::mem_set(stack, &who, mib),
        Command::BlockAttach { who, disk } => devices::block_attach(stack, &who, &disk),
        Command::BlockDetach { who, vdev, force } => {
            devices::block_detach(stack, session, &who, &vdev, force).await
        }
        Command::BlockList(who) => devices::block_list(stack, session, &who, format),
        Command::Console(who) => domains::console(stack, session, &who).await,
        Command::Log(who) => domains::log(stack, session, &who),
        Command::Wait(who) => domains::wait(stack, session, &who).await,
        Command::Domid(who) => domains::domid(stack, session, &who),
        Command::Domname(who) => domains::domname(stack, session, &who),
        Command::Info => info(session, format),
        Command::Dmesg => dmesg(session),
        Command::NetworkAttach { who, vif } => devices::network_attach(stack, session, &who, &vif),
        Command::NetworkDetach { who, vif, force } => {
            devices::network_detach(stack, session, &who, &vif, force).await
        }
        Command::NetworkList(who) => network::list(stack, session, &who, format),
        Command::Switch => {
            network::switches(stack, session, format);
            Ok(())
        }
        Command::Events => {
            domains::events(session, format);
            Ok(())
        }
        Command::Uptime => {
            session.out(&format!("up {} ns\n", pv_guest_kernel::time::now_ns()));
            Ok(())
        }
        Command::Disks => files::disks(dom0, session, format),
        Command::Ls(path) => files::list(dom0, session, &path, format).await,
        Command::Cat(path) => files::cat(dom0, session, &path).await,
        Command::Write { path, text } => files::write(dom0, &path, &text).await,
        Command::XenstoreLs(path) => files::xenstore_ls(stack, session, &path),
        Command::Echo(text) => {
            session.out(&(text + "\n"));
            Ok(())
        }
        Command::Poweroff => power_off(dom0),
        Command::SelftestCreateDestroy { rounds, file } => {
            selftest::create_destroy(stack, session, rounds, &file).await
        }
        Command::Help(topic) => {
            let text = command::help(topic.as_deref());
            session.out(&text.map_err(|error| Failure { exit: Exit::Usage, text: error.to_string() })?);
            Ok(())
        }
    }
}

fn info(session: &Session, format: command::Format) -> Outcome {
    let info = RealHypervisor.host_info().map_err(|error| Failure::new(error.name()))?;
    session.out(&render::host(&info, format));
    Ok(())
}

fn dmesg(session: &Session) -> Outcome {
    let log = RealHypervisor.read_console().map_err(|error| Failure::new(error.name()))?;
    session.out_bytes(&log);
    Ok(())
}

/// Ends everything; the machine goes off once the user has the answer.
fn power_off(dom0: &Dom0) -> Outcome {
    dom0.powering_off.set(true);
    dom0.stack.destroy_all()
}
