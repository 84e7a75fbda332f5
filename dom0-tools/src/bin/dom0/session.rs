//! One user of dom0: somebody at the console, or a client on the control channel.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pv_guest_kernel::task::{Either, Notify, select};

use crate::sync::Pipe;

/// Bytes typed ahead.
const INPUT_BYTES: usize = 4096;

/// Where a command's output goes. Nothing here waits.
pub(crate) trait Sink {
    /// Output.
    fn out(&self, bytes: &[u8]);
    /// A line about what went wrong, or may.
    fn err(&self, line: &str);
    /// The command streams from now on; the user's keys are wanted.
    fn streaming(&self);
}

/// The user during one command.
pub(crate) struct Session {
    sink: Rc<dyn Sink>,
    input: Pipe,
    cancelled: Notify,
}

impl Session {
    /// A user who sees what goes into `sink`.
    pub(crate) fn new(sink: Rc<dyn Sink>) -> Rc<Self> {
        Rc::new(Self { sink, input: Pipe::new(INPUT_BYTES), cancelled: Notify::new() })
    }

    /// Shows text.
    pub(crate) fn out(&self, text: &str) {
        self.sink.out(text.as_bytes());
    }

    /// Shows bytes.
    pub(crate) fn out_bytes(&self, bytes: &[u8]) {
        self.sink.out(bytes);
    }

    /// Shows a message about what went wrong; the line end is added.
    pub(crate) fn err(&self, text: &str) {
        self.sink.err(&format!("error: {text}\n"));
    }

    /// Shows a message about what may be wrong; the line end is added.
    pub(crate) fn warn(&self, text: &str) {
        self.sink.err(&format!("warning: {text}\n"));
    }

    /// Begins to stream: keys are delivered from now on.
    pub(crate) fn stream(&self) {
        self.sink.streaming();
    }

    /// The user typed.
    pub(crate) fn type_bytes(&self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// The user gave up, or went away.
    pub(crate) fn cancel(&self) {
        self.cancelled.notify();
    }

    /// Waits for keys.
    pub(crate) async fn keys(&self) -> Vec<u8> {
        self.input.read().await
    }

    /// Runs `work` unless the user gives up first.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match select(work, self.cancelled.wait()).await {
            Either::Left(value) => Some(value),
            Either::Right(()) => None,
        }
    }
}
