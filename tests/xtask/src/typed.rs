//! A domain's console as somebody types into it: `pvctl console` on pipes.

use crate::failure::{Failure, Result};
use crate::system::System;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How much of a console is shown when something that should come does not.
const SHOWN: usize = 4000;

/// A console with a shell at its other end.
pub(crate) struct Typed {
    client: Child,
    keys: ChildStdin,
    pieces: Receiver<Vec<u8>>,
    seen: String,
    commands: u32,
}

impl Typed {
    /// Attaches to a domain's console; what it has shown so far comes first.
    pub(crate) fn attach(system: &System, domain: &str) -> Result<Self> {
        let mut command = system.pvctl_command(&["console", domain]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = command.spawn()?;
        let (Some(keys), Some(mut output)) = (client.stdin.take(), client.stdout.take()) else {
            return Err(Failure::new("pvctl console has no pipes"));
        };
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { client, keys, pieces, seen: String::new(), commands: 0 })
    }

    /// Waits until the console shows `text` beyond position `from`; the position after it.
    pub(crate) fn wait_from(&mut self, from: usize, text: &str, limit: Duration) -> Result<usize> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen.get(from..).and_then(|news| news.find(text)) {
                return Ok(from + at + text.len());
            }
            match self.pieces.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece).replace('\r', "")),
                Err(_) => return Err(self.missing(text)),
            }
        }
    }

    /// Waits until the console has shown `text` at any time.
    pub(crate) fn wait(&mut self, text: &str, limit: Duration) -> Result<usize> {
        self.wait_from(0, text, limit)
    }

    /// Waits until the console has shown `mark` and the line that it is on is whole; what follows the mark there.
    pub(crate) fn line(&mut self, mark: &str, limit: Duration) -> Result<String> {
        let at = self.wait(mark, limit)?;
        let end = self.wait_from(at, "\n", limit)?;
        Ok(self.seen.get(at..end).unwrap_or_default().trim().to_owned())
    }

    /// What the console has shown up to a position.
    pub(crate) fn shown(&self, to: usize) -> &str {
        self.seen.get(..to).unwrap_or_default()
    }

    /// Types text as it is.
    pub(crate) fn keys(&mut self, text: &str) -> Result<()> {
        self.keys.write_all(text.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// Where the console's news will begin.
    pub(crate) fn position(&self) -> usize {
        self.seen.len()
    }

    /// Types a command for the shell; what it printed and its status.
    pub(crate) fn run(&mut self, line: &str, limit: Duration) -> Result<(String, i32)> {
        self.commands += 1;
        let from = self.position();
        // The quotes keep the echo of the line from looking like its end.
        self.keys(&format!("{line}; echo \"@@\"{}:$?:\n", self.commands))?;
        let mark = format!("@@{}:", self.commands);
        let at = self.wait_from(from, &mark, limit)?;
        let end = self.wait_from(at, ":", limit)?;
        // The next prompt: what is typed before it would be echoed before it.
        self.wait_from(end, "# ", limit)?;
        let status = self.seen.get(at..end - 1).and_then(|text| text.trim().parse().ok());
        let status = status.ok_or_else(|| Failure::new(format!("{line}: no status")))?;
        // The first line is the echo.
        let text = self.seen.get(from..at - mark.len()).unwrap_or_default();
        let text = text.split_once('\n').map_or("", |(_, output)| output);
        Ok((text.to_owned(), status))
    }

    /// Types a command that has to succeed; what it printed, trimmed.
    pub(crate) fn must(&mut self, line: &str, limit: Duration) -> Result<String> {
        match self.run(line, limit)? {
            (text, 0) => Ok(text.trim().to_owned()),
            (text, status) => Err(Failure::new(format!("in the guest: {line}: status {status}\n{text}"))),
        }
    }

    fn missing(&self, text: &str) -> Failure {
        let mut from = self.seen.len().saturating_sub(SHOWN);
        while !self.seen.is_char_boundary(from) {
            from += 1;
        }
        Failure::new(format!("the guest's console does not show {text:?}:\n{}", &self.seen[from..]))
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        // Killing fails only when it has ended already, which is what is wanted.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
