//! The user's terminal in raw mode, through `stty`, so that every key goes to the guest.

use std::fs::File;
use std::io::{IsTerminal as _, stdin};
use std::process::{Command, Stdio};

/// Raw mode as long as this lives; the old settings come back afterwards.
pub(crate) struct RawMode {
    saved: String,
}

impl RawMode {
    /// Switches the terminal on standard input to raw mode. `None` if there is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let saved = stty(&["-g"])?;
        stty(&["raw", "-echo"])?;
        Some(Self { saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing sensible can be done if the terminal is gone.
        let _ = stty(&[&self.saved]);
    }
}

fn stty(args: &[&str]) -> Option<String> {
    let terminal = File::open("/dev/tty").ok()?;
    let output = Command::new("stty").args(args).stdin(terminal).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
