//! The request/response ring that front and back ends share.
//!
//! A ring is 64 bytes of indices followed by a power of two of slots, seen here as 32-bit atomic words. Indices count
//! without wrapping at the ring's size; a slot is `index & (size - 1)`. A producer fills slots, publishes its index and
//! notifies only if the other side's event index lies in what was published: that side has said at which index it
//! wants to be woken. A consumer that finds nothing moves its event index and looks once more, so that nothing is
//! lost between looking and sleeping.
//!
//! | word | index | written by |
//! |---|---|---|
//! | 0 | `req_prod` | front end |
//! | 1 | `req_event` | back end |
//! | 2 | `rsp_prod` | back end |
//! | 3 | `rsp_event` | front end |
//!
//! Each message is copied out once, so what is checked is what is used. An index that claims more than the ring can
//! hold is an error: the other side is broken or hostile, and the ring must be given up.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::atomic::{AtomicU32, fence};

/// Word of `req_prod`.
pub const REQ_PROD: usize = 0;
/// Word of `req_event`.
pub const REQ_EVENT: usize = 1;
/// Word of `rsp_prod`.
pub const RSP_PROD: usize = 2;
/// Word of `rsp_event`.
pub const RSP_EVENT: usize = 3;
/// Words in front of the slots.
pub const HEADER_WORDS: usize = 16;

/// What can go wrong with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The view is too small for the header and one slot.
    TooSmall,
    /// The other side's index claims more than the ring holds or than was asked for.
    BadIndex,
    /// There is no free slot.
    Full,
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "ring view too small",
            Self::BadIndex => "ring index out of range",
            Self::Full => "ring full",
        })
    }
}

impl core::error::Error for RingError {}

/// A message that travels in a slot.
pub trait Message: FromBytes + IntoBytes + Immutable {}
impl<T: FromBytes + IntoBytes + Immutable> Message for T {}

/// A protocol: which messages its ring carries.
pub trait Protocol {
    /// What the front end sends.
    type Request: Message;
    /// What the back end answers.
    type Response: Message;

    /// Words of a slot: the larger of the two messages.
    const SLOT_WORDS: usize = {
        let request = size_of::<Self::Request>();
        let response = size_of::<Self::Response>();
        assert!(request % 4 == 0 && response % 4 == 0, "messages are whole words");
        if request > response { request / 4 } else { response / 4 }
    };
}

/// How many slots a ring of `words` words has: the largest power of two that fits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "checked against 2^30")]
pub const fn slots<P: Protocol>(words: usize) -> Option<u32> {
    let Some(room) = words.checked_sub(HEADER_WORDS) else { return None };
    let fitting = room / P::SLOT_WORDS;
    if fitting == 0 || fitting > 1 << 30 {
        return None;
    }
    let mut size = 1;
    while size <= fitting / 2 {
        size *= 2;
    }
    // Lossless: at most 2^30.
    Some(size as u32)
}

/// The word of an index. Every caller has checked the view's length when it attached.
fn word(shared: &[AtomicU32], which: usize) -> Result<&AtomicU32, RingError> {
    shared.get(which).ok_or(RingError::TooSmall)
}

fn load(shared: &[AtomicU32], which: usize) -> Result<u32, RingError> {
    Ok(word(shared, which)?.load(Ordering::Acquire))
}

fn store(shared: &[AtomicU32], which: usize, value: u32) -> Result<(), RingError> {
    word(shared, which)?.store(value, Ordering::Release);
    Ok(())
}

/// The words of a slot.
fn slot<P: Protocol>(shared: &[AtomicU32], index: u32, size: u32) -> Result<&[AtomicU32], RingError> {
    let number = usize::try_from(index & (size - 1)).map_err(|_| RingError::TooSmall)?;
    let start = HEADER_WORDS + number * P::SLOT_WORDS;
    shared.get(start..start + P::SLOT_WORDS).ok_or(RingError::TooSmall)
}

/// Copies a message out of a slot, each word read once.
fn copy_out<T: Message>(words: &[AtomicU32]) -> T {
    let mut value = T::new_zeroed();
    for (bytes, word) in value.as_mut_bytes().chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    value
}

/// Copies a message into a slot, each word written once.
fn copy_in<T: Message>(value: &T, words: &[AtomicU32]) {
    for (bytes, word) in value.as_bytes().chunks_exact(4).zip(words) {
        let mut raw = [0; 4];
        raw.copy_from_slice(bytes);
        word.store(u32::from_ne_bytes(raw), Ordering::Relaxed);
    }
}

/// Publishes `new` and says whether the other side asked to be notified.
fn publish(shared: &[AtomicU32], prod: usize, event: usize, new: u32) -> Result<bool, RingError> {
    let old = word(shared, prod)?.load(Ordering::Relaxed);
    store(shared, prod, new)?;
    // The index must be visible before the event index is read, or both sides may wait for each other.
    fence(Ordering::SeqCst);
    let wanted = load(shared, event)?;
    Ok(new.wrapping_sub(wanted) < new.wrapping_sub(old))
}

/// The front end's side: it asks, and takes answers.
#[derive(Debug)]
pub struct FrontRing<P> {
    req_prod_pvt: u32,
    rsp_cons: u32,
    size: u32,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> FrontRing<P> {
    /// Prepares an empty ring: both producers at 0, both sides wanting their first message.
    pub fn init(shared: &[AtomicU32]) -> Result<Self, RingError> {
        let size = slots::<P>(shared.len()).ok_or(RingError::TooSmall)?;
        for word in shared.iter().take(HEADER_WORDS) {
            word.store(0, Ordering::Relaxed);
        }
        store(shared, REQ_EVENT, 1)?;
        store(shared, RSP_EVENT, 1)?;
        Ok(Self { req_prod_pvt: 0, rsp_cons: 0, size, protocol: PhantomData })
    }

    /// Slots of the ring.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many requests fit now.
    #[must_use]
    pub const fn free_requests(&self) -> u32 {
        self.size - self.in_flight()
    }

    /// Requests written and not yet answered.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request into the next slot; the back end sees it after [`Self::push`].
    pub fn put_request(&mut self, shared: &[AtomicU32], request: &P::Request) -> Result<(), RingError> {
        if self.free_requests() == 0 {
            return Err(RingError::Full);
        }
        copy_in(request, slot::<P>(shared, self.req_prod_pvt, self.size)?);
        self.req_prod_pvt = self.req_prod_pvt.wrapping_add(1);
        Ok(())
    }

    /// Publishes the requests written; true if the back end is to be notified.
    #[doc(alias = "RING_PUSH_REQUESTS_AND_CHECK_NOTIFY")]
    pub fn push(&mut self, shared: &[AtomicU32]) -> Result<bool, RingError> {
        publish(shared, REQ_PROD, REQ_EVENT, self.req_prod_pvt)
    }

    /// How many responses wait. More than requests are in flight is an error.
    pub fn waiting_responses(&self, shared: &[AtomicU32]) -> Result<u32, RingError> {
        let waiting = load(shared, RSP_PROD)?.wrapping_sub(self.rsp_cons);
        if waiting > self.in_flight() { Err(RingError::BadIndex) } else { Ok(waiting) }
    }

    /// Takes the next response, if there is one.
    pub fn take_response(&mut self, shared: &[AtomicU32]) -> Result<Option<P::Response>, RingError> {
        if self.waiting_responses(shared)? == 0 {
            return Ok(None);
        }
        let response = copy_out(slot::<P>(shared, self.rsp_cons, self.size)?);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(Some(response))
    }

    /// To be called before sleeping: asks for a notification of the next response; true if one waits already.
    #[doc(alias = "RING_FINAL_CHECK_FOR_RESPONSES")]
    pub fn final_check(&mut self, shared: &[AtomicU32]) -> Result<bool, RingError> {
        if self.waiting_responses(shared)? != 0 {
            return Ok(true);
        }
        store(shared, RSP_EVENT, self.rsp_cons.wrapping_add(1))?;
        fence(Ordering::SeqCst);
        Ok(self.waiting_responses(shared)? != 0)
    }
}

/// The back end's side: it takes requests, and answers.
#[derive(Debug)]
pub struct BackRing<P> {
    rsp_prod_pvt: u32,
    req_cons: u32,
    size: u32,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> BackRing<P> {
    /// Takes up a ring that a front end has prepared.
    pub fn attach(shared: &[AtomicU32]) -> Result<Self, RingError> {
        let size = slots::<P>(shared.len()).ok_or(RingError::TooSmall)?;
        Ok(Self { rsp_prod_pvt: 0, req_cons: 0, size, protocol: PhantomData })
    }

    /// Takes up a ring whose messages up to `index` have been dealt with (after a reconnection).
    pub fn attach_at(shared: &[AtomicU32], index: u32) -> Result<Self, RingError> {
        Ok(Self { rsp_prod_pvt: index, req_cons: index, ..Self::attach(shared)? })
    }

    /// Slots of the ring.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Requests taken and not yet answered.
    #[must_use]
    pub const fn in_hand(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// How many requests can be taken: never more than there will be room to answer.
    pub fn waiting_requests(&self, shared: &[AtomicU32]) -> Result<u32, RingError> {
        let prod = load(shared, REQ_PROD)?;
        // The front end cannot have asked more than a ring's worth beyond what was answered.
        if prod.wrapping_sub(self.rsp_prod_pvt) > self.size {
            return Err(RingError::BadIndex);
        }
        let waiting = prod.wrapping_sub(self.req_cons);
        if waiting > self.size - self.in_hand() { Err(RingError::BadIndex) } else { Ok(waiting) }
    }

    /// Takes the next request, if there is one: a private copy.
    pub fn take_request(&mut self, shared: &[AtomicU32]) -> Result<Option<P::Request>, RingError> {
        if self.waiting_requests(shared)? == 0 {
            return Ok(None);
        }
        let request = copy_out(slot::<P>(shared, self.req_cons, self.size)?);
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Writes a response into the next slot; the front end sees it after [`Self::push`].
    ///
    /// [`RingError::Full`] if every request taken has been answered.
    pub fn put_response(&mut self, shared: &[AtomicU32], response: &P::Response) -> Result<(), RingError> {
        if self.in_hand() == 0 {
            return Err(RingError::Full);
        }
        copy_in(response, slot::<P>(shared, self.rsp_prod_pvt, self.size)?);
        self.rsp_prod_pvt = self.rsp_prod_pvt.wrapping_add(1);
        Ok(())
    }

    /// Publishes the responses written; true if the front end is to be notified.
    #[doc(alias = "RING_PUSH_RESPONSES_AND_CHECK_NOTIFY")]
    pub fn push(&mut self, shared: &[AtomicU32]) -> Result<bool, RingError> {
        publish(shared, RSP_PROD, RSP_EVENT, self.rsp_prod_pvt)
    }

    /// To be called before sleeping: asks for a notification of the next request; true if one waits already.
    #[doc(alias = "RING_FINAL_CHECK_FOR_REQUESTS")]
    pub fn final_check(&mut self, shared: &[AtomicU32]) -> Result<bool, RingError> {
        if self.waiting_requests(shared)? != 0 {
            return Ok(true);
        }
        self.await_requests(shared, 1)
    }

    /// Asks for a notification once `count` requests wait (at least one; at most what the ring can hold makes sense);
    /// true if so many wait already.
    pub fn await_requests(&mut self, shared: &[AtomicU32], count: u32) -> Result<bool, RingError> {
        let count = count.clamp(1, self.size);
        store(shared, REQ_EVENT, self.req_cons.wrapping_add(count))?;
        fence(Ordering::SeqCst);
        Ok(self.waiting_requests(shared)? >= count)
    }
}
