//! Pages for data in flight.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_abi::ids::DomId;

use crate::grant::{Access, GrantError, GrantedPages};
use crate::hypercall::Errno;

struct State {
    free: Vec<GrantedPages>,
    /// Pages made so far.
    made: usize,
    closed: bool,
    waiting: Vec<Waker>,
}

/// Pages granted to the back end, at most `limit` of them.
pub(super) struct Pool {
    backend: DomId,
    limit: usize,
    state: RefCell<State>,
}

/// Some pages of the pool. They go back when this is dropped.
pub(super) struct Loan {
    pool: Rc<Pool>,
    pages: Vec<GrantedPages>,
}

impl Pool {
    pub(super) fn new(backend: DomId, limit: usize) -> Rc<Self> {
        let state = State { free: Vec::new(), made: 0, closed: false, waiting: Vec::new() };
        Rc::new(Self { backend, limit, state: RefCell::new(state) })
    }

    /// Takes `count` pages, at most the pool's limit, waiting until there are as many.
    pub(super) async fn take(self: &Rc<Self>, count: usize) -> Result<Loan, GrantError> {
        poll_fn(|cx| match self.try_take(count) {
            Ok(None) => {
                self.state.borrow_mut().waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Ok(Some(loan)) => Poll::Ready(Ok(loan)),
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    fn try_take(self: &Rc<Self>, count: usize) -> Result<Option<Loan>, GrantError> {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return Err(Errno::Io.into());
        }
        while state.free.len() < count {
            if state.made >= self.limit {
                return Ok(None);
            }
            let page = GrantedPages::new(self.backend, 1, Access::ReadWrite)?;
            state.free.push(page);
            state.made += 1;
        }
        let rest = state.free.len() - count;
        let pages = state.free.split_off(rest);
        Ok(Some(Loan { pool: Rc::clone(self), pages }))
    }
}

impl Pool {
    /// From now on nothing is lent; whoever waits gets an error.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            core::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Loan {
    pub(super) fn pages(&self) -> &[GrantedPages] {
        &self.pages
    }

    /// Never uses the pages again: the back end may still write them.
    pub(super) fn forget(mut self) {
        core::mem::forget(core::mem::take(&mut self.pages));
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.pool.state.borrow_mut();
        state.free.append(&mut self.pages);
        let waiting = core::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }
}
