//! The console service: empties the guests' rings, keeps what they print, and connects users.
//!
//! A guest's output is kept up to a limit, also after its end, and taken at a bounded rate, so that a guest that
//! prints without end slows down itself alone.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32};
use core::time::Duration;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};
use pv_abi::io::byte_ring::ByteRing;
use pv_abi::io::console::{IN_SIZE, OUT_SIZE, XenconsInterface};
use pv_abi::io::ring::RingError;
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::memory::{Mapping, Prot, map_mfn};
use pv_guest_kernel::task::{self, Notify};
use pv_guest_kernel::time;

use crate::session::Session;

/// Bytes kept per guest.
const LOG_BYTES: usize = 64 * 1024;
/// Logs kept of guests that have ended.
const ENDED_LOGS: usize = 16;
/// A guest may print this much…
const BURST_BYTES: usize = 64 * 1024;
/// …in this time; beyond that it waits.
const BURST_TIME: Duration = Duration::from_millis(100);
/// Bytes that wait for room in a guest's input ring; what more is typed is lost.
const TYPED_BYTES: usize = 4096;

/// A guest's ring. The page goes as soon as the guest does; the task may hold the port a moment longer.
struct Ring {
    page: Mapping,
    channel: Rc<EventChannel>,
}

/// A guest's console; outlives the guest.
pub(crate) struct GuestConsole {
    dom: DomId,
    name: String,
    log: RefCell<VecDeque<u8>>,
    /// Bytes that were ever printed: positions in the log for those who follow it.
    printed: Cell<u64>,
    typed: RefCell<VecDeque<u8>>,
    ring: RefCell<Option<Ring>>,
    /// Something to do for the guest's task.
    wake: Notify,
    /// Somebody who follows has news.
    news: dom0_tools::waiters::Waiters,
}

/// The service.
#[derive(Default)]
pub(crate) struct ConsoleService {
    /// The oldest first.
    guests: RefCell<Vec<Rc<GuestConsole>>>,
}

impl Ring {
    fn index(&self, offset: usize) -> &AtomicU32 {
        self.page.area().view(offset)
    }

    fn output(&self) -> ByteRing<'_> {
        type Page = XenconsInterface;
        let data: &[AtomicU8; OUT_SIZE] = self.page.area().view(offset_of!(Page, output));
        let (cons, prod) = (offset_of!(Page, out_cons), offset_of!(Page, out_prod));
        ByteRing::new(data, self.index(cons), self.index(prod))
    }

    fn input(&self) -> ByteRing<'_> {
        type Page = XenconsInterface;
        let data: &[AtomicU8; IN_SIZE] = self.page.area().view(offset_of!(Page, input));
        let (cons, prod) = (offset_of!(Page, in_cons), offset_of!(Page, in_prod));
        ByteRing::new(data, self.index(cons), self.index(prod))
    }
}

impl GuestConsole {
    /// Moves bytes both ways; how many came from the guest, and how many went there.
    fn exchange(&self) -> Result<(usize, usize), RingError> {
        let ring = self.ring.borrow();
        let Some(ring) = ring.as_ref() else { return Ok((0, 0)) };
        let mut buffer = [0; OUT_SIZE];
        let got = ring.output().read(&mut buffer)?;
        let mut typed = self.typed.borrow_mut();
        let sent = ring.input().write(typed.make_contiguous())?;
        let gone = sent.min(typed.len());
        typed.drain(..gone);
        drop(typed);
        if got != 0 || sent != 0 {
            // Failing means that the guest is gone.
            let _ = ring.channel.notify();
        }
        self.keep(buffer.get(..got).unwrap_or_default());
        Ok((got, sent))
    }

    fn keep(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut log = self.log.borrow_mut();
        log.extend(bytes);
        let excess = log.len().saturating_sub(LOG_BYTES);
        log.drain(..excess);
        let count = u64::try_from(bytes.len()).unwrap_or(0);
        self.printed.set(self.printed.get() + count);
        drop(log);
        self.news.wake();
    }

    fn is_attached(&self) -> bool {
        self.ring.borrow().is_some()
    }

    /// What was printed from `position` on, as far as it is kept, and the position after it.
    fn since(&self, position: u64) -> (Vec<u8>, u64) {
        let log = self.log.borrow();
        let fresh = usize::try_from(self.printed.get().saturating_sub(position)).unwrap_or(usize::MAX);
        let skipped = log.len().saturating_sub(fresh);
        (log.iter().skip(skipped).copied().collect(), self.printed.get())
    }

    /// Everything that is kept.
    pub(crate) fn log(&self) -> Vec<u8> {
        self.since(0).0
    }

    async fn serve(self: Rc<Self>) {
        let mut burst = (time::now_ns(), 0);
        let mut worked = false;
        while self.is_attached() {
            match self.exchange() {
                // The guest writes nonsense into its ring: it loses its console.
                Err(_) => self.detach(),
                Ok((0, typed)) => self.wait(core::mem::take(&mut worked) || typed != 0).await,
                Ok((count, _)) => {
                    worked = true;
                    self.slow_down(&mut burst, count).await;
                    task::yield_now().await;
                }
            }
        }
    }

    /// Waits for the guest, or for something to do for it. `worked`: there was something since the last time.
    async fn wait(&self, worked: bool) {
        let channel = self.ring.borrow().as_ref().map(|ring| ring.channel.clone());
        if let Some(channel) = channel {
            task::select(channel.wait_after(worked), self.wake.wait()).await;
        }
    }

    async fn slow_down(&self, burst: &mut (u64, usize), count: usize) {
        let (since, total) = *burst;
        let elapsed = Duration::from_nanos(time::now_ns().saturating_sub(since));
        if elapsed >= BURST_TIME {
            *burst = (time::now_ns(), count);
        } else if total + count > BURST_BYTES {
            time::sleep(BURST_TIME.saturating_sub(elapsed)).await;
            *burst = (time::now_ns(), 0);
        } else {
            burst.1 = total + count;
        }
    }

    fn detach(&self) {
        *self.ring.borrow_mut() = None;
        self.wake.notify();
        self.news.wake();
    }

    /// Waits until there is more than `position`, or the guest is gone.
    async fn more_than(&self, position: u64) {
        core::future::poll_fn(|cx| {
            if self.printed.get() > position || !self.is_attached() {
                return core::task::Poll::Ready(());
            }
            self.news.add(cx.waker());
            core::task::Poll::Pending
        })
        .await;
    }

    fn type_bytes(&self, bytes: &[u8]) {
        let mut typed = self.typed.borrow_mut();
        let room = TYPED_BYTES.saturating_sub(typed.len());
        typed.extend(bytes.iter().take(room));
        drop(typed);
        self.wake.notify();
    }

    /// Shows the console to a user until the user leaves or the guest ends.
    pub(crate) async fn follow(&self, session: &Session) {
        let output = async {
            let mut position = 0;
            loop {
                let (bytes, next) = self.since(position);
                position = next;
                session.out_bytes(&bytes);
                if bytes.is_empty() && !self.is_attached() {
                    return;
                }
                self.more_than(position).await;
            }
        };
        let input = async {
            loop {
                let keys = session.keys().await;
                self.type_bytes(&keys);
            }
        };
        let both = async {
            match task::select(output, input).await {
                task::Either::Left(()) => {}
                task::Either::Right(never) => never,
            }
        };
        session.unless_cancelled(both).await;
    }
}

impl ConsoleService {
    /// Connects to a guest's ring.
    pub(crate) fn attach(&self, dom: DomId, name: &str, ring: Mfn, port: EvtchnPort) -> Result<(), Errno> {
        let page = map_mfn(dom, ring, Prot::ReadWrite)?;
        let channel = Rc::new(super::bind_port(dom, port)?);
        let console = Rc::new(GuestConsole {
            dom,
            name: name.to_string(),
            log: RefCell::default(),
            printed: Cell::new(0),
            typed: RefCell::default(),
            ring: RefCell::new(None),
            wake: Notify::new(),
            news: dom0_tools::waiters::Waiters::new(),
        });
        *console.ring.borrow_mut() = Some(Ring { page, channel });
        let mut guests = self.guests.borrow_mut();
        let ended = guests.iter().filter(|guest| !guest.is_attached()).count();
        if ended >= ENDED_LOGS
            && let Some(oldest) = guests.iter().position(|guest| !guest.is_attached())
        {
            guests.remove(oldest);
        }
        guests.push(console.clone());
        task::spawn(console.serve()).detach();
        Ok(())
    }

    /// Lets go of a guest's ring after taking what it printed last. The log stays.
    pub(crate) fn detach(&self, dom: DomId) {
        let guests = self.guests.borrow();
        for guest in guests.iter().filter(|guest| guest.dom == dom && guest.is_attached()) {
            // Nothing is left to do if the ring holds nonsense.
            let _ = guest.exchange();
            guest.detach();
        }
    }

    /// The console of a domain that is there.
    pub(crate) fn of(&self, dom: DomId) -> Option<Rc<GuestConsole>> {
        let guests = self.guests.borrow();
        guests.iter().rev().find(|guest| guest.dom == dom && guest.is_attached()).cloned()
    }

    /// The console of a guest, by number or name; the latest of that number or name.
    pub(crate) fn find(&self, who: &str) -> Option<Rc<GuestConsole>> {
        let guests = self.guests.borrow();
        let is_it = |guest: &&Rc<GuestConsole>| guest.name == who || guest.dom.raw().to_string() == who;
        guests.iter().rev().find(is_it).cloned()
    }
}
