//! The control channels: commands from the host, one after another on each.
//!
//! The channel does not tell when its other end goes away. A client that streams gives signs of life; a command
//! that does not stream runs to its end whoever listens. A new client's command takes the place of one whose client
//! went silent.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use dom0_tools::ctl::wire::{
    Answer, AnswerBody, Decoder, PATIENCE_SECONDS, Request, RequestBody, bytes_to_text, encode, text_to_bytes,
};
use pv_guest_kernel::task::{self, Channel, Either, select};
use pv_guest_kernel::time;

use crate::commands::{self, Dom0};
use crate::session::{Session, Sink};
use crate::virtio::console::Console;

/// Longest piece of output in one answer.
const CHUNK: usize = 2048;
/// So many pieces of a stream wait at most for a client that reads slowly; what comes then is lost, and it is told so.
const MOST_WAITING: usize = 512;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// How long the last answer may take to reach the host.
const FAREWELL: Duration = Duration::from_millis(200);

/// One client's side of the channel.
struct Wire {
    id: u64,
    outgoing: Channel<Vec<u8>>,
    streaming: Cell<bool>,
    last_sign: Cell<u64>,
    /// Bytes of a stream that did not fit and were not told yet.
    lost: Cell<usize>,
}

impl Wire {
    fn new(id: u64, outgoing: Channel<Vec<u8>>) -> Rc<Self> {
        let (streaming, last_sign, lost) = (Cell::new(false), Cell::new(0), Cell::new(0));
        Rc::new(Self { id, outgoing, streaming, last_sign, lost })
    }

    fn answer(&self, body: AnswerBody) {
        self.outgoing.send(encode(&Answer { id: self.id, body }));
    }

    fn piece(&self, bytes: &[u8]) {
        if self.streaming.get() && self.outgoing.len() >= MOST_WAITING {
            self.lost.set(self.lost.get() + bytes.len());
            return;
        }
        self.tell_lost();
        self.answer(AnswerBody::Out(bytes_to_text(bytes)));
    }

    fn tell_lost(&self) {
        let lost = self.lost.take();
        if lost > 0 {
            let came = "they came faster than they were read";
            self.err(&alloc::format!("error: {lost} bytes were lost here: {came}\n"));
        }
    }
}

impl Sink for Wire {
    fn out(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            self.piece(chunk);
        }
    }

    fn err(&self, line: &str) {
        self.answer(AnswerBody::Err(bytes_to_text(line.as_bytes())));
    }

    fn streaming(&self) {
        self.streaming.set(true);
        self.last_sign.set(time::now_ns());
        self.answer(AnswerBody::Streaming(true));
    }
}

/// A command that runs, and its client.
struct Running {
    wire: Rc<Wire>,
    session: Rc<Session>,
}

/// Serves the channel for ever.
pub(crate) async fn serve(dom0: Rc<Dom0>, console: Rc<Console>) {
    let outgoing = Channel::new();
    task::spawn(write_all(console.clone(), outgoing.clone())).detach();
    let requests = Channel::new();
    task::spawn(read_all(console, requests.clone())).detach();
    let mut waiting: Option<Request> = None;
    loop {
        let request: Request = match waiting.take() {
            Some(request) => request,
            None => requests.receive().await,
        };
        if let RequestBody::Run(words) = request.body {
            let wire = Wire::new(request.id, outgoing.clone());
            waiting = run(&dom0, wire, &words, &requests).await;
        }
    }
}

async fn write_all(console: Rc<Console>, outgoing: Channel<Vec<u8>>) {
    loop {
        let line = outgoing.receive().await;
        console.write(&line).await;
    }
}

async fn read_all(console: Rc<Console>, requests: Channel<Request>) {
    let mut decoder = Decoder::default();
    loop {
        let bytes = console.read().await;
        decoder.feed(&bytes).into_iter().for_each(|request| requests.send(request));
    }
}

/// Runs one command to its end. Returns a request of another client that came meanwhile.
async fn run(
    dom0: &Rc<Dom0>,
    wire: Rc<Wire>,
    words: &[String],
    requests: &Channel<Request>,
) -> Option<Request> {
    let running = Running { session: Session::new(wire.clone()), wire };
    let mut next = None;
    let command = commands::execute(dom0, &running.session, words);
    let listen = async {
        loop {
            if let Some(request) = running.listen(requests).await {
                next = Some(request);
                running.session.cancel();
            }
        }
    };
    let exit = match select(command, listen).await {
        Either::Left(exit) => exit,
        Either::Right(never) => never,
    };
    running.wire.tell_lost();
    running.wire.answer(AnswerBody::Exit(exit.code()));
    if dom0.is_powering_off() {
        // The answer should reach the host first.
        time::sleep(FAREWELL).await;
    }
    commands::after_answer(dom0);
    next
}

impl Running {
    /// Takes one request or a silence into account; returns a request that is for the next command.
    async fn listen(&self, requests: &Channel<Request>) -> Option<Request> {
        let patience = time::sleep(Duration::from_secs(PATIENCE_SECONDS));
        match select(requests.receive(), patience).await {
            Either::Left(request) if request.id == self.wire.id => {
                self.wire.last_sign.set(time::now_ns());
                match request.body {
                    RequestBody::Input(text) => self.session.type_bytes(&text_to_bytes(&text)),
                    RequestBody::Cancel(_) => self.session.cancel(),
                    RequestBody::Alive(_) | RequestBody::Run(_) => {}
                }
                None
            }
            // Only one client can be connected: ours is gone.
            Either::Left(request) => matches!(request.body, RequestBody::Run(_)).then_some(request),
            Either::Right(()) => {
                let silence = time::now_ns().saturating_sub(self.wire.last_sign.get());
                if self.wire.streaming.get() && silence >= PATIENCE_SECONDS * NS_PER_SECOND {
                    self.session.cancel();
                }
                None
            }
        }
    }
}
