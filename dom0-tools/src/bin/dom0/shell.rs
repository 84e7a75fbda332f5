//! The shell on dom0's console.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use dom0_tools::ctl::{Exit, command, words};
use pv_guest_kernel::task::{Either, select};

use crate::commands::{self, Dom0};
use crate::session::{Session, Sink};
use crate::tty::{Input, Tty};

/// `^]`: leaves a guest's console.
const ESCAPE: u8 = 0x1d;
/// `^C`: gives a command up.
const INTERRUPT: u8 = 0x03;

/// The console as the place where output goes.
struct Screen {
    tty: Rc<Tty>,
    streaming: Cell<bool>,
    /// Typed while a command runs that wants no keys: for the next line.
    ahead: RefCell<Vec<u8>>,
}

impl Sink for Screen {
    fn out(&self, bytes: &[u8]) {
        self.tty.print_bytes(bytes);
    }

    fn err(&self, line: &str) {
        self.tty.print(line);
    }

    fn streaming(&self) {
        self.tty.print("(^] leaves)\n");
        self.streaming.set(true);
    }
}

/// Takes commands for ever.
pub(crate) async fn run(dom0: Rc<Dom0>) {
    loop {
        match dom0.tty.read_line(candidates).await {
            Input::Line(line) => {
                run_line(&dom0, &line).await;
            }
            Input::Cancelled => {}
        }
    }
}

fn candidates(before_cursor: &str) -> Vec<String> {
    // Only the verb is completed.
    if before_cursor.contains(' ') { Vec::new() } else { command::complete(before_cursor) }
}

/// Runs the commands of a line one after another; the first failure ends it.
pub(crate) async fn run_line(dom0: &Rc<Dom0>, line: &str) -> Exit {
    let commands = match words::split(line) {
        Ok(commands) => commands,
        Err(error) => {
            dom0.tty.print(&format!("error: {error}\n"));
            return Exit::Usage;
        }
    };
    for words in commands {
        let exit = run_one(dom0, &words).await;
        if exit != Exit::Ok {
            return exit;
        }
    }
    Exit::Ok
}

async fn run_one(dom0: &Rc<Dom0>, words: &[String]) -> Exit {
    let screen =
        Rc::new(Screen { tty: dom0.tty.clone(), streaming: Cell::new(false), ahead: RefCell::default() });
    let session = Session::new(screen.clone());
    let keys = async {
        loop {
            let bytes = dom0.tty.raw().await;
            deliver(&session, &screen, &bytes);
        }
    };
    match select(commands::execute(dom0, &session, words), keys).await {
        Either::Left(exit) => {
            dom0.tty.unread(&screen.ahead.borrow());
            commands::after_answer(dom0);
            exit
        }
        Either::Right(never) => never,
    }
}

fn deliver(session: &Session, screen: &Screen, bytes: &[u8]) {
    let leave = if screen.streaming.get() { ESCAPE } else { INTERRUPT };
    let end = bytes.iter().position(|&byte| byte == leave);
    let keys = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    if screen.streaming.get() {
        session.type_bytes(keys);
    } else if end.is_none() {
        screen.ahead.borrow_mut().extend_from_slice(keys);
    }
    if end.is_some() {
        session.cancel();
    }
}
