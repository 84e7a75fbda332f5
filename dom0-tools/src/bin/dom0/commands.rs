//! What a user may ask for: each verb of the control language carried out.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dom0_tools::ctl::command::{self, Command, Format, Parsed};
use dom0_tools::ctl::{Exit, render};
use dom0_tools::toolstack::ports::Hypervisor;

use crate::hv::RealHypervisor;
use crate::machine::Machine;
use crate::session::Session;
use crate::tty::Tty;
use crate::volume::Volume;

/// Longest file that `cat` shows.
const MAX_CAT_BYTES: u64 = 1 << 20;

/// All of dom0.
pub(crate) struct Dom0 {
    /// The console.
    pub(crate) tty: Rc<Tty>,
    /// The devices.
    pub(crate) machine: Machine,
    /// The volume on the first disk.
    pub(crate) volume: Option<Volume>,
}

impl Dom0 {
    /// Puts the parts together.
    pub(crate) fn new(tty: Rc<Tty>, machine: Machine) -> Rc<Self> {
        let volume = machine.disks.first().cloned().map(Volume::new);
        Rc::new(Self { tty, machine, volume })
    }
}

/// Why a command failed: how it exits and what it says.
pub(crate) struct Failure {
    exit: Exit,
    text: String,
}

impl<E: ToString> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, text: error.to_string() }
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
pub(crate) async fn after_answer(_dom0: &Rc<Dom0>) {}

async fn carry_out(dom0: &Rc<Dom0>, session: &Rc<Session>, parsed: Parsed) -> Outcome {
    let format = parsed.format;
    match parsed.command {
        Command::Help(topic) => session.out(&command::help(topic.as_deref())?),
        Command::Echo(text) => session.out(&(text + "\n")),
        Command::Info => {
            let info = RealHypervisor.host_info().map_err(|error| error.name().to_string())?;
            session.out(&render::host(&info, format));
        }
        Command::Dmesg => {
            let log = RealHypervisor.read_console().map_err(|error| error.name().to_string())?;
            session.out_bytes(&log);
        }
        Command::Disks => session.out(&disks(dom0, format)),
        Command::Ls(path) => list_files(dom0, session, &path, format).await?,
        Command::Cat(path) => {
            let content = volume(dom0)?.read(&path, MAX_CAT_BYTES).await?;
            session.out_bytes(&content);
        }
        Command::Poweroff => pv_guest_kernel::sched::power_off(),
        other => return Err(Failure::from(format!("not there yet: {other:?}"))),
    }
    Ok(())
}

fn volume(dom0: &Dom0) -> Result<&Volume, Failure> {
    dom0.volume.as_ref().ok_or_else(|| Failure::from("there is no disk with a volume"))
}

fn disks(dom0: &Dom0, format: Format) -> String {
    let row = |disk: &Rc<crate::virtio::blk::Disk>| {
        let mode = if disk.is_read_only() { "r" } else { "rw" };
        alloc::vec![disk.name().to_string(), disk.sectors().to_string(), mode.to_string()]
    };
    let rows: Vec<Vec<String>> = dom0.machine.disks.iter().map(row).collect();
    render::table(&["Disk", "Sectors", "Mode"], &rows, format)
}

async fn list_files(dom0: &Dom0, session: &Session, path: &str, format: Format) -> Outcome {
    let entries = volume(dom0)?.list(path).await?;
    let row = |entry: &crate::volume::Entry| {
        let kind = if entry.is_directory { "dir" } else { "file" };
        alloc::vec![entry.name.clone(), entry.size.to_string(), kind.to_string()]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    session.out(&render::table(&["Name", "Size", "Kind"], &rows, format));
    Ok(())
}
