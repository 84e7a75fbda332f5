//! Requests and their answers, watches, transactions.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Deref;

use pv_abi::ids::{DomId, EvtchnPort, Mfn};
use pv_abi::io::xenstore::{PAYLOAD_MAX, XsType};

use super::message::{Link, Message};
use super::{Permission, ring};
use crate::Context;
use crate::hypercall::{Errno, Result};
use crate::task::{self, Channel, Either, OneShot, oneshot, select};

struct Inner {
    link: Link,
    waiting: RefCell<BTreeMap<u32, OneShot<Message>>>,
    /// By token.
    watches: RefCell<BTreeMap<String, Channel<String>>>,
    next_id: Cell<u32>,
}

/// A connection to a store. Clones share it. Requests made through it directly belong to no transaction.
#[derive(Clone)]
pub struct Client {
    view: View,
}

/// The store as seen inside of a transaction, or outside of any.
#[derive(Clone)]
pub struct View {
    inner: Rc<Inner>,
    transaction: u32,
}

/// A transaction: what is written shows only when it is committed. Dropping it aborts it.
pub struct Transaction {
    view: View,
    ended: bool,
}

/// A watch: tells of changes at a path and below. Dropping it ends it.
pub struct Watch {
    inner: Rc<Inner>,
    path: String,
    token: String,
    events: Channel<String>,
}

impl Client {
    /// Connects over the ring of start_info. ENODEV if there is none, as in dom0.
    pub fn connect(context: &Context) -> Result<Self> {
        ring::start(context).map(Self::over)
    }

    /// Connects over a link; the store is whoever serves the other end.
    #[must_use]
    pub fn over(link: Link) -> Self {
        let inner = Rc::new(Inner {
            link,
            waiting: RefCell::default(),
            watches: RefCell::default(),
            next_id: Cell::new(1),
        });
        task::spawn(dispatch(Rc::clone(&inner))).detach();
        Self { view: View { inner, transaction: 0 } }
    }

    /// Starts a transaction.
    pub async fn transaction(&self) -> Result<Transaction> {
        let answer = self.request(XsType::TransactionStart, b"\0").await?;
        let transaction = text(&answer)?.parse().map_err(|_| Errno::BadMsg)?;
        Ok(Transaction { view: View { inner: Rc::clone(&self.view.inner), transaction }, ended: false })
    }

    /// Runs `body` in transactions until one of them is not disturbed by others.
    pub async fn transact<T>(&self, mut body: impl AsyncFnMut(&View) -> Result<T>) -> Result<T> {
        loop {
            let transaction = self.transaction().await?;
            let value = body(&transaction).await?;
            match transaction.commit().await {
                Err(Errno::Again) => {}
                Ok(()) => return Ok(value),
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts a watch. It fires once at once, which tells that it stands.
    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let inner = &self.view.inner;
        let token = format!("w{}", inner.new_id());
        let events = Channel::new();
        inner.watches.borrow_mut().insert(token.clone(), events.clone());
        let watch = Watch { inner: Rc::clone(inner), path: path.to_string(), token, events };
        self.request(XsType::Watch, &strings(&[path, &watch.token])).await?;
        Ok(watch)
    }

    /// The path of a domain's part of the tree, such as `/local/domain/3`.
    pub async fn domain_path(&self, domain: DomId) -> Result<String> {
        let answer = self.request(XsType::GetDomainPath, &strings(&[&format!("{}", domain.raw())])).await?;
        text(&answer).map(str::to_string)
    }

    /// Tells the store about a domain and its ring. For the toolstack.
    pub async fn introduce(&self, domain: DomId, ring: Mfn, port: EvtchnPort) -> Result {
        let numbers = [domain.raw().to_string(), ring.raw().to_string(), port.raw().to_string()];
        self.request(XsType::Introduce, &strings(&[&numbers[0], &numbers[1], &numbers[2]])).await.map(drop)
    }

    /// Tells the store that a domain is gone. For the toolstack.
    pub async fn release(&self, domain: DomId) -> Result {
        self.request(XsType::Release, &strings(&[&domain.raw().to_string()])).await.map(drop)
    }
}

impl Deref for Client {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Deref for Transaction {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Inner {
    fn new_id(&self) -> u32 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        id
    }

    fn send(&self, kind: XsType, transaction: u32, payload: &[u8]) -> Result<task::OneShotReceiver<Message>> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Errno::TooBig);
        }
        if self.link.is_closed() {
            return Err(Errno::NotConn);
        }
        let request_id = self.new_id();
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().insert(request_id, sender);
        self.link.requests.send(Message { kind, request_id, transaction, payload: payload.to_vec() });
        Ok(receiver)
    }
}

/// Hands answers to whoever asked and watch events to their watches.
async fn dispatch(inner: Rc<Inner>) {
    loop {
        let message = match select(inner.link.answers.receive(), inner.link.closed()).await {
            Either::Left(message) => message,
            Either::Right(()) => {
                // Whoever waits learns that there will be no answer.
                drop(core::mem::take(&mut *inner.waiting.borrow_mut()));
                return;
            }
        };
        if message.kind == XsType::WatchEvent {
            let mut parts = message.payload.split(|byte| *byte == 0).map(core::str::from_utf8);
            if let (Some(Ok(path)), Some(Ok(token))) = (parts.next(), parts.next()) {
                let events = inner.watches.borrow().get(token).cloned();
                if let Some(events) = events {
                    events.send(path.to_string());
                }
            }
            continue;
        }
        let sender = inner.waiting.borrow_mut().remove(&message.request_id);
        if let Some(sender) = sender {
            sender.send(message);
        }
    }
}

impl View {
    async fn request(&self, kind: XsType, payload: &[u8]) -> Result<Vec<u8>> {
        let receiver = self.inner.send(kind, self.transaction, payload)?;
        let answer = receiver.receive().await.ok_or(Errno::NotConn)?;
        match answer.error() {
            Some(error) => Err(error),
            None if answer.kind == kind => Ok(answer.payload),
            None => Err(Errno::BadMsg),
        }
    }

    /// The value of a node.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.request(XsType::Read, &strings(&[path])).await
    }

    /// The value of a node as text.
    pub async fn read_text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path).await?).map_err(|_| Errno::IlSeq)
    }

    /// The value of a node as a number in decimal.
    pub async fn read_number<T: core::str::FromStr>(&self, path: &str) -> Result<T> {
        self.read_text(path).await?.trim().parse().map_err(|_| Errno::Inval)
    }

    /// Writes a node; nodes above it that are missing are made.
    pub async fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result {
        let mut payload = strings(&[path]);
        payload.extend_from_slice(value.as_ref());
        self.request(XsType::Write, &payload).await.map(drop)
    }

    /// Makes an empty node if there is none.
    pub async fn make(&self, path: &str) -> Result {
        self.request(XsType::Mkdir, &strings(&[path])).await.map(drop)
    }

    /// Removes a node and everything below.
    pub async fn remove(&self, path: &str) -> Result {
        self.request(XsType::Rm, &strings(&[path])).await.map(drop)
    }

    /// The names of the nodes below.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>> {
        let whole = match self.request(XsType::Directory, &strings(&[path])).await {
            Err(Errno::TooBig) => self.directory_in_parts(path).await?,
            other => other?,
        };
        let names = whole.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| core::str::from_utf8(name).map(str::to_string).map_err(|_| Errno::IlSeq)).collect()
    }

    /// A list of names that does not fit into one answer comes in parts, each with the generation of the node.
    async fn directory_in_parts(&self, path: &str) -> Result<Vec<u8>> {
        let (mut names, mut generation) = (Vec::new(), None);
        loop {
            let offset = names.len().to_string();
            let part = self.request(XsType::DirectoryPart, &strings(&[path, &offset])).await?;
            let split = part.iter().position(|byte| *byte == 0).ok_or(Errno::BadMsg)?;
            let (number, rest) = (&part[..split], &part[split + 1..]);
            if generation.as_deref().is_some_and(|old: &[u8]| old != number) {
                // The node changed meanwhile: from the start.
                (names, generation) = (Vec::new(), None);
                continue;
            }
            generation = Some(number.to_vec());
            names.extend_from_slice(rest);
            // The last part ends with an empty name.
            if rest.is_empty() || rest.ends_with(b"\0\0") || rest == b"\0" {
                return Ok(names);
            }
        }
    }

    /// The permissions of a node: the owner with what everybody else may, then exceptions.
    pub async fn permissions(&self, path: &str) -> Result<Vec<(DomId, Permission)>> {
        let answer = self.request(XsType::GetPerms, &strings(&[path])).await?;
        let parts = answer.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        parts.map(|part| parse_permission(part).ok_or(Errno::BadMsg)).collect()
    }

    /// Sets the permissions of a node.
    pub async fn set_permissions(&self, path: &str, permissions: &[(DomId, Permission)]) -> Result {
        let mut payload = strings(&[path]);
        for (domain, permission) in permissions {
            payload.extend_from_slice(format!("{}{}\0", permission.letter(), domain.raw()).as_bytes());
        }
        self.request(XsType::SetPerms, &payload).await.map(drop)
    }
}

fn parse_permission(part: &[u8]) -> Option<(DomId, Permission)> {
    let (letter, number) = part.split_first()?;
    let domain = core::str::from_utf8(number).ok()?.parse().ok()?;
    Some((DomId::new(domain), Permission::from_letter(*letter)?))
}

impl Transaction {
    /// Makes the changes visible. EAGAIN: somebody changed what this transaction read or wrote, and nothing was done.
    pub async fn commit(mut self) -> Result {
        self.ended = true;
        self.view.request(XsType::TransactionEnd, b"T\0").await.map(drop)
    }

    /// Forgets the changes.
    pub async fn abort(mut self) -> Result {
        self.ended = true;
        self.view.request(XsType::TransactionEnd, b"F\0").await.map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            // The answer goes nowhere.
            let _ = self.view.inner.send(XsType::TransactionEnd, self.view.transaction, b"F\0");
        }
    }
}

impl Watch {
    /// Waits for the next event; gives the path that changed.
    pub async fn next(&mut self) -> String {
        self.events.receive().await
    }

    /// The path that is watched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.watches.borrow_mut().remove(&self.token);
        let _ = self.inner.send(XsType::Unwatch, 0, &strings(&[&self.path, &self.token]));
    }
}

/// Strings, each with its NUL.
fn strings(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> Result<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).map_err(|_| Errno::IlSeq)
}

#[cfg(test)]
mod tests {
    use super::{parse_permission, strings, text};
    use crate::hypercall::Errno;
    use crate::xenstore::Permission;
    use pv_abi::ids::DomId;

    #[test]
    fn permissions_are_a_letter_and_a_domain() {
        assert_eq!(parse_permission(b"r12"), Some((DomId::new(12), Permission::Read)));
        assert_eq!(parse_permission(b"n0"), Some((DomId::new(0), Permission::None)));
        assert_eq!(parse_permission(b"x1"), None);
        assert_eq!(parse_permission(b"b70000"), None);
        assert_eq!(parse_permission(b""), None);
    }

    #[test]
    fn strings_end_with_nul() {
        assert_eq!(strings(&["a", "", "bc"]), b"a\0\0bc\0");
        assert_eq!(text(b"one\0two"), Ok("one"));
        assert_eq!(text(b"\xff\0"), Err(Errno::IlSeq));
    }
}
