//! Tasks and their queue.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use crate::local::BootLocal;
use crate::sync::IrqLock;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Index of a task that is ready to be polled. Each task is in here at most once, so room for all tasks, reserved when
/// one is spawned, means that a waker never allocates.
static READY: IrqLock<VecDeque<usize>> = IrqLock::new(VecDeque::new());

/// The root future of [`block_on`] is not in the table.
const ROOT: usize = usize::MAX;

struct TaskWaker {
    index: usize,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            READY.lock().push_back(self.index);
            if crate::arch::percpu::vcpu_id() != 0 {
                crate::event::kick_boot_vcpu();
            }
        }
    }
}

struct Task {
    /// Absent while the task is being polled.
    future: Option<LocalFuture>,
    waker: Arc<TaskWaker>,
}

#[derive(Default)]
struct Table {
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
}

static TABLE: BootLocal<RefCell<Table>> =
    BootLocal::new(RefCell::new(Table { tasks: Vec::new(), free: Vec::new() }));

struct JoinState<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The result of a spawned task, as a future. Dropping it lets the task run on.
#[must_use = "a task runs without it, but its result is lost"]
pub struct JoinHandle<T>(Rc<RefCell<JoinState<T>>>);

impl<T> JoinHandle<T> {
    /// Lets the task run on its own.
    pub fn detach(self) {}

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.borrow().value.is_some()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(value);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Starts a task. It first runs when the present one waits (or, outside of any task, in the next [`block_on`]).
///
/// # Panics
/// On a vcpu other than 0.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let state = Rc::new(RefCell::new(JoinState { value: None, waker: None }));
    let handle = JoinHandle(Rc::clone(&state));
    let whole: LocalFuture = Box::pin(async move {
        let value = future.await;
        let waker = {
            let mut state = state.borrow_mut();
            state.value = Some(value);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    insert(whole).wake();
    handle
}

fn insert(future: LocalFuture) -> Arc<TaskWaker> {
    let mut table = TABLE.get().borrow_mut();
    let index = table.free.pop().unwrap_or(table.tasks.len());
    let waker = Arc::new(TaskWaker { index, queued: AtomicBool::new(false) });
    let task = Some(Task { future: Some(future), waker: Arc::clone(&waker) });
    match table.tasks.get_mut(index) {
        Some(slot) => *slot = task,
        None => table.tasks.push(task),
    }
    reserve_ready(table.tasks.len() + 1);
    waker
}

/// Makes sure that `count` indices fit into the queue. Allocation happens outside the lock: event handlers take it.
fn reserve_ready(count: usize) {
    // Handlers of events may hold stale wakers of ended tasks; twice the room covers an index queued by both.
    let wanted = count.saturating_mul(2);
    if READY.lock().capacity() >= wanted {
        return;
    }
    let mut bigger = VecDeque::with_capacity(wanted.saturating_mul(2));
    let mut ready = READY.lock();
    bigger.extend(ready.drain(..));
    core::mem::swap(&mut *ready, &mut bigger);
    drop(ready);
}

/// Polls one task of the table; a task that is gone (a stale waker) is skipped.
fn poll_task(index: usize) {
    let taken = {
        let mut table = TABLE.get().borrow_mut();
        table.tasks.get_mut(index).and_then(Option::as_mut).and_then(|task| {
            task.waker.queued.store(false, Ordering::Release);
            task.future.take().map(|future| (future, Arc::clone(&task.waker)))
        })
    };
    let Some((mut future, task_waker)) = taken else { return };
    let waker = Waker::from(task_waker);
    let finished = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    let mut table = TABLE.get().borrow_mut();
    if finished {
        if let Some(slot) = table.tasks.get_mut(index) {
            *slot = None;
        }
        table.free.push(index);
        drop(table);
        drop(future);
    } else if let Some(Some(task)) = table.tasks.get_mut(index) {
        task.future = Some(future);
    }
}

/// Whether a [`block_on`] is under way.
static RUNNING: BootLocal<Cell<bool>> = BootLocal::new(Cell::new(false));

/// Marks that a [`block_on`] is under way, as long as it lives.
struct Running;

impl Running {
    fn begin() -> Self {
        assert!(!RUNNING.get().replace(true), "block_on within a task");
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.get().set(false);
    }
}

/// Runs `future` to its end, and every spawned task meanwhile. Blocks the vcpu when nothing is ready.
///
/// Tasks that have not ended stay and go on in the next `block_on`.
///
/// # Panics
/// On a vcpu other than 0, or when called from within a task.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let _running = Running::begin();
    let mut future = core::pin::pin!(future);
    let root = Arc::new(TaskWaker { index: ROOT, queued: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&root));
    reserve_ready(TABLE.get().borrow().tasks.len() + 1);
    root.wake_by_ref();
    loop {
        match next_ready() {
            ROOT => {
                root.queued.store(false, Ordering::Release);
                if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return value;
                }
            }
            index => poll_task(index),
        }
    }
}

/// When the executor calls the [lookout](set_lookout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Now and then between tasks: for a glance.
    Between,
    /// No task is ready, and unless this makes one ready the vcpu blocks: there is time for a short wait. Events are
    /// masked; [`event::is_any_pending`](crate::event::is_any_pending) tells when it should end.
    Idle,
}

type Lookout = Rc<dyn Fn(Look)>;

static LOOKOUT: BootLocal<RefCell<Option<Lookout>>> = BootLocal::new(RefCell::new(None));
/// Tasks that were polled, for [`Look::Between`].
static TURNS: BootLocal<Cell<usize>> = BootLocal::new(Cell::new(0));
/// Tasks between two glances.
const TURNS_BETWEEN: usize = 32;

/// Has `look` called between tasks and before the vcpu blocks: for drivers whose devices do not interrupt for a while, since
/// their answer is about to come. It replaces the one before.
///
/// # Panics
/// On a vcpu other than 0.
pub fn set_lookout(look: impl Fn(Look) + 'static) {
    *LOOKOUT.get().borrow_mut() = Some(Rc::new(look));
}

fn look(when: Look) {
    let lookout = LOOKOUT.get().borrow().clone();
    if let Some(lookout) = lookout {
        lookout(when);
    }
}

fn pop_ready() -> Option<usize> {
    READY.lock().pop_front()
}

/// The next index that is ready, blocking until there is one.
fn next_ready() -> usize {
    let turns = TURNS.get();
    turns.set(turns.get().wrapping_add(1));
    if turns.get().is_multiple_of(TURNS_BETWEEN) {
        look(Look::Between);
    }
    loop {
        let masked = crate::sync::Masked::new();
        let next = pop_ready().or_else(|| {
            look(Look::Idle);
            pop_ready()
        });
        if let Some(index) = next {
            return index;
        }
        // Events are masked since before the queue was found empty: what wakes a task now is pending, and blocking
        // returns at once.
        crate::sched::block();
        drop(masked);
    }
}
