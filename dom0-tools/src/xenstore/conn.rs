//! A connection: assembles requests, keeps what is to be sent, bounded.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::perms::Who;
use super::quota::Quota;
use super::txn::Transaction;
use super::wire::{self, HEADER_LEN, Header, PAYLOAD_MAX};

/// A connection's number; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) who: Who,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    pub(crate) next_tx: u32,
    pub(crate) watches: u32,
    /// Sent something that no client sends; nothing more is taken from it.
    pub(crate) broken: bool,
    /// When its allowance of changes would be full again.
    allowance_full_at_ns: u64,
    /// Events were dropped because nobody took the earlier ones.
    pub(crate) lost_events: bool,
    input: Vec<u8>,
    output: VecDeque<Vec<u8>>,
    /// Bytes of the front message that are already gone.
    sent: usize,
    queued_bytes: usize,
    /// Events in `output` of which nothing was sent yet.
    pending_events: BTreeSet<Vec<u8>>,
}

impl Conn {
    pub(crate) fn new(who: Who) -> Self {
        Self {
            who,
            transactions: BTreeMap::new(),
            next_tx: 0,
            watches: 0,
            broken: false,
            allowance_full_at_ns: 0,
            lost_events: false,
            input: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
            queued_bytes: 0,
            pending_events: BTreeSet::new(),
        }
    }

    /// Whether requests are looked at: not while the client does not take its replies.
    pub(crate) fn accepts_input(&self, quota: &Quota) -> bool {
        !self.broken && self.queued_bytes < quota.output_bytes
    }

    /// When the next request may be looked at, where it has changed the store more often than it may.
    pub(crate) fn paused_until(&self, quota: &Quota, now_ns: u64) -> Option<u64> {
        let least =
            self.allowance_full_at_ns.saturating_sub(u64::from(quota.changes) * quota.change_interval_ns);
        (least > now_ns && !self.who.is_privileged()).then_some(least)
    }

    /// Takes a request that changes the store off the allowance.
    pub(crate) fn count_change(&mut self, quota: &Quota, now_ns: u64) {
        self.allowance_full_at_ns =
            self.allowance_full_at_ns.max(now_ns).saturating_add(quota.change_interval_ns);
    }

    /// Takes bytes of the current message; gives how many, and the message when it is whole.
    pub(crate) fn assemble(&mut self, bytes: &[u8]) -> (usize, Option<(Header, Vec<u8>)>) {
        let mut used = self.extend_to(HEADER_LEN, bytes);
        let Some(header) = self.header() else { return (used, None) };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len > PAYLOAD_MAX {
            // The stream cannot be followed any further.
            self.broken = true;
            self.input = Vec::new();
            return (used, None);
        }
        used += self.extend_to(HEADER_LEN + len, bytes.get(used..).unwrap_or_default());
        if self.input.len() < HEADER_LEN + len {
            return (used, None);
        }
        let payload = self.input.split_off(HEADER_LEN);
        self.input.clear();
        (used, Some((header, payload)))
    }

    fn extend_to(&mut self, len: usize, bytes: &[u8]) -> usize {
        let missing = len.saturating_sub(self.input.len()).min(bytes.len());
        self.input.extend_from_slice(bytes.get(..missing).unwrap_or_default());
        missing
    }

    fn header(&self) -> Option<Header> {
        let bytes: &[u8; HEADER_LEN] = self.input.get(..HEADER_LEN)?.try_into().ok()?;
        Some(wire::decode(bytes))
    }

    pub(crate) fn queue_reply(&mut self, message: Vec<u8>) {
        self.queued_bytes += message.len();
        self.output.push_back(message);
    }

    /// Queues an event unless the same one is still waiting; drops it when too many are.
    pub(crate) fn queue_event(&mut self, message: Vec<u8>, quota: &Quota) {
        if self.pending_events.contains(&message) {
            return;
        }
        if self.pending_events.len() >= quota.events {
            self.lost_events = true;
            return;
        }
        self.pending_events.insert(message.clone());
        self.queue_reply(message);
    }

    /// The next bytes to send.
    pub(crate) fn front(&self) -> &[u8] {
        self.output.front().and_then(|message| message.get(self.sent..)).unwrap_or_default()
    }

    /// Notes that `count` bytes were sent.
    pub(crate) fn consume(&mut self, mut count: usize) {
        while count > 0 {
            let left = self.front().len();
            if left == 0 {
                return;
            }
            if let Some(message) = self.output.front() {
                self.pending_events.remove(message);
            }
            let step = count.min(left);
            self.sent += step;
            self.queued_bytes -= step;
            count -= step;
            if step == left {
                self.output.pop_front();
                self.sent = 0;
            }
        }
    }

    /// Takes one whole message (local connections).
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.output.front()?.clone();
        self.consume(message.len());
        Some(message)
    }

    /// Recount for the audit.
    pub(crate) fn queue_is_consistent(&self) -> bool {
        let total: usize = self.output.iter().map(Vec::len).sum();
        total.checked_sub(self.sent) == Some(self.queued_bytes)
            && self.input.len() <= HEADER_LEN + PAYLOAD_MAX
    }
}
