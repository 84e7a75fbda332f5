//! One command over the control channel.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _, stdin, stdout};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dom0_tools::ctl::Exit;
use dom0_tools::ctl::wire::{
    ALIVE_SECONDS, Answer, AnswerBody, Decoder, Request, RequestBody, bytes_to_text, encode, text_to_bytes,
};

use crate::options::Options;
use crate::sockets;
use crate::terminal::RawMode;

/// `^]`: leaves a console.
const ESCAPE: u8 = 0x1d;
const BUFFER_BYTES: usize = 4096;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The socket cannot be opened, or went away.
    Unreachable(PathBuf, std::io::Error),
    /// Nothing came in time.
    TimedOut(Duration),
}

impl ChannelError {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable(..) => Exit::Unreachable,
            Self::TimedOut(_) => Exit::TimedOut,
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(path, error) => write!(out, "cannot reach dom0 at {}: {error}", path.display()),
            Self::TimedOut(limit) => write!(out, "no end after {} s", limit.as_secs_f32()),
        }
    }
}

/// What the threads tell the main one.
enum Event {
    Answer(Answer),
    Gone(std::io::Error),
    Typed(Vec<u8>),
    EndOfInput,
}

struct Client {
    id: u64,
    socket: UnixStream,
    path: PathBuf,
}

impl Client {
    fn lost(&self, error: std::io::Error) -> ChannelError {
        ChannelError::Unreachable(self.path.clone(), error)
    }

    fn send(&mut self, body: RequestBody) -> Result<(), ChannelError> {
        let line = encode(&Request { id: self.id, body });
        self.socket.write_all(&line).map_err(|error| self.lost(error))
    }
}

/// Runs the command; the exit status that dom0 gave.
pub(crate) fn run(options: &Options) -> Result<u8, ChannelError> {
    let deadline = options.timeout.map(|limit| (limit, Instant::now() + limit));
    let Some(claim) = sockets::claim(&options.socket, deadline.map(|(_, end)| end)) else {
        return Err(ChannelError::TimedOut(options.timeout.unwrap_or_default()));
    };
    let path = claim.socket.clone();
    let lost = |error| ChannelError::Unreachable(path.clone(), error);
    let socket = UnixStream::connect(&path).map_err(lost)?;
    let reader = socket.try_clone().map_err(lost)?;
    let mut client = Client { id: make_id(), socket, path: path.clone() };
    let (sender, events) = channel();
    let to_main = sender.clone();
    thread::spawn(move || read_answers(reader, &to_main));
    // Ends whatever an earlier client left unfinished.
    client.socket.write_all(b"\n").map_err(lost)?;
    client.send(RequestBody::Run(options.words.clone()))?;
    let result = follow(&mut client, &events, deadline, sender);
    if matches!(result, Err(ChannelError::TimedOut(_))) {
        // Nothing more can be done if this does not arrive.
        let _ = client.send(RequestBody::Cancel(true));
    }
    result
}

/// An id that another client will hardly choose.
fn make_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // JSON readers elsewhere may keep 53 bits.
    (u64::from(now.subsec_nanos()) << 22 ^ now.as_secs() << 8 ^ u64::from(std::process::id()))
        & ((1 << 52) - 1)
}

fn read_answers(mut socket: UnixStream, events: &Sender<Event>) {
    let mut decoder = Decoder::default();
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let error = match socket.read(&mut buffer) {
            Ok(0) => std::io::Error::from(ErrorKind::UnexpectedEof),
            Ok(count) => {
                for answer in decoder.feed(&buffer[..count]) {
                    if events.send(Event::Answer(answer)).is_err() {
                        return;
                    }
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        // The main thread may have ended already.
        let _ = events.send(Event::Gone(error));
        return;
    }
}

fn read_keys(events: &Sender<Event>) {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let event = match stdin().read(&mut buffer) {
            Ok(0) | Err(_) => Event::EndOfInput,
            Ok(count) => Event::Typed(buffer[..count].to_vec()),
        };
        let last = matches!(event, Event::EndOfInput);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// Carries out what happens until the command ends.
fn follow(
    client: &mut Client,
    events: &Receiver<Event>,
    mut deadline: Option<(Duration, Instant)>,
    sender: Sender<Event>,
) -> Result<u8, ChannelError> {
    let mut raw = None;
    let mut sender = Some(sender);
    let mut streaming = false;
    let mut last_sign = Instant::now();
    loop {
        if streaming && last_sign.elapsed() >= Duration::from_secs(ALIVE_SECONDS) {
            client.send(RequestBody::Alive(true))?;
            last_sign = Instant::now();
        }
        match next(events, streaming, deadline) {
            Ok(Event::Answer(answer)) if answer.id == client.id => match answer.body {
                AnswerBody::Out(text) => print(&text),
                AnswerBody::Err(text) => eprint!("{}", String::from_utf8_lossy(&text_to_bytes(&text))),
                AnswerBody::Exit(code) => return Ok(code),
                AnswerBody::Streaming(_) => {
                    streaming = true;
                    deadline = None;
                    raw = raw.or_else(RawMode::enter);
                    if let Some(sender) = sender.take() {
                        thread::spawn(move || read_keys(&sender));
                    }
                }
            },
            // An answer to somebody before us.
            Ok(Event::Answer(_)) => {}
            Ok(Event::Gone(error)) => return Err(client.lost(error)),
            Ok(Event::Typed(bytes)) => {
                let (keys, leave) = up_to_escape(&bytes, raw.is_some());
                if !keys.is_empty() {
                    client.send(RequestBody::Input(bytes_to_text(keys)))?;
                }
                if leave {
                    client.send(RequestBody::Cancel(true))?;
                    return Ok(Exit::Ok.code());
                }
            }
            Ok(Event::EndOfInput) => {}
            Err(RecvTimeoutError::Timeout) if streaming => {}
            Err(_) => {
                return Err(ChannelError::TimedOut(deadline.map_or(Duration::ZERO, |(limit, _)| limit)));
            }
        }
    }
}

fn next(
    events: &Receiver<Event>,
    streaming: bool,
    deadline: Option<(Duration, Instant)>,
) -> Result<Event, RecvTimeoutError> {
    match deadline {
        _ if streaming => events.recv_timeout(Duration::from_secs(ALIVE_SECONDS)),
        Some((_, end)) => events.recv_timeout(end.saturating_duration_since(Instant::now())),
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// Keys before the escape, and whether it was among them. Only a terminal has the escape.
fn up_to_escape(bytes: &[u8], is_terminal: bool) -> (&[u8], bool) {
    match bytes.iter().position(|&byte| byte == ESCAPE).filter(|_| is_terminal) {
        Some(at) => (&bytes[..at], true),
        None => (bytes, false),
    }
}

fn print(text: &str) {
    let mut out = stdout().lock();
    // Nobody reads any more: the command still ends as it ends.
    let _ = out.write_all(&text_to_bytes(text));
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_ends_a_console_at_a_terminal_only() {
        assert_eq!(up_to_escape(b"ab\x1dcd", true), (&b"ab"[..], true));
        assert_eq!(up_to_escape(b"ab\x1dcd", false), (&b"ab\x1dcd"[..], false));
    }
}
