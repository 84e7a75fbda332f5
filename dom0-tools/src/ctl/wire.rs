//! Requests and answers as lines of JSON.
//!
//! The channel is a plain byte stream that does not tell when its other end comes or goes. So each request carries
//! an id that its client made up, every answer repeats it, and a client skips answers that are not its own. A
//! client that streams a console must give a sign of life now and then. Bytes that need not be text (a console's)
//! travel as one character each, U+0000 to U+00FF.
//!
//! A client begins with a line feed, which ends whatever an earlier client left unfinished.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Longest line.
pub const MAX_LINE: usize = 64 * 1024;
/// A client of a streaming command sends something at least this often, in seconds.
pub const ALIVE_SECONDS: u64 = 2;
/// dom0 gives a streaming client up after this silence, in seconds.
pub const PATIENCE_SECONDS: u64 = 7;

/// From `pvctl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which client; made up by it.
    pub id: u64,
    /// What it says.
    #[serde(flatten)]
    pub body: RequestBody,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestBody {
    /// Carry out a command.
    Run(Vec<String>),
    /// Typed bytes for the command that runs.
    Input(String),
    /// Still here.
    Alive(bool),
    /// Give the command up.
    Cancel(bool),
}

/// From dom0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose request.
    pub id: u64,
    /// What dom0 says.
    #[serde(flatten)]
    pub body: AnswerBody,
}

/// What dom0 says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerBody {
    /// For standard output.
    Out(String),
    /// For standard error.
    Err(String),
    /// The command streams from now on: input is taken, signs of life are expected.
    Streaming(bool),
    /// The end, with the exit status.
    Exit(u8),
}

/// Bytes as characters, one each.
#[must_use]
pub fn bytes_to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// The bytes again. Characters that stand for none become `?`.
#[must_use]
pub fn text_to_bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(b'?')).collect()
}

/// A message as a line.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // None of the types above can fail to be written.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Lines out of a byte stream.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    /// The line became too long; it is skipped.
    skipping: bool,
}

impl Decoder {
    /// Takes bytes and gives the messages they complete. Lines that are no message are dropped.
    pub fn feed<T: for<'de> Deserialize<'de>>(&mut self, bytes: &[u8]) -> Vec<T> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.skipping |= self.line.len() >= MAX_LINE;
                if !self.skipping {
                    self.line.push(byte);
                }
                continue;
            }
            if !core::mem::take(&mut self.skipping) {
                messages.extend(serde_json::from_slice(&self.line).ok());
            }
            self.line.clear();
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn messages_survive_any_cut() {
        let request = Request { id: 7, body: RequestBody::Run(vec!["list".to_string(), "ä\n".to_string()]) };
        let answer = Answer { id: 7, body: AnswerBody::Out(bytes_to_text(&[0, 10, 13, 27, 255])) };
        let mut decoder = Decoder::default();
        let bytes = encode(&request);
        let found: Vec<Request> = bytes.iter().flat_map(|&byte| decoder.feed(&[byte])).collect();
        assert_eq!(found, vec![request]);
        let found: Vec<Answer> = decoder.feed(&encode(&answer));
        assert_eq!(found, vec![answer]);
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(text_to_bytes(&bytes_to_text(&all)), all);
    }

    #[test]
    fn garbage_and_giants_are_dropped() {
        let good = encode(&Request { id: 1, body: RequestBody::Alive(true) });
        let mut decoder = Decoder::default();
        let mut stream = b"half a li\n{\"id\":1}\n\xff\xfe\n".to_vec();
        stream.extend(core::iter::repeat_n(b'x', MAX_LINE + 5));
        stream.push(b'\n');
        stream.extend(&good);
        let found: Vec<Request> = decoder.feed(&stream);
        assert_eq!(found.len(), 1);
    }
}
