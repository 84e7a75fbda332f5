//! The toolstack on real ports: the library's operations with dom0's services behind them.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use dom0_tools::cfg::{DomainConfig, parse_config};
use dom0_tools::ctl::Exit;
use dom0_tools::toolstack::ports::{DiskInfo, Services};
use dom0_tools::toolstack::{
    self, CreateJob, CreateOptions, Env, Error, Lifecycle, LifecycleEvent, MAX_KERNEL, Progress,
    RestartRequest,
};
use dom0_tools::waiters::Waiters;
use pv_abi::errno::Errno;
use pv_abi::evtchn::VirqKind;
use pv_abi::ids::{DomId, EvtchnPort, Mfn, VcpuId};
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::task::race;
use pv_guest_kernel::{arch, task, time};

use crate::hv::RealHypervisor;
use crate::machine::Machine;
use crate::services::block::BlockService;
use crate::services::console::ConsoleService;
use crate::services::net::NetService;
use crate::services::xenstore::StoreService;
use crate::tty::Tty;
use crate::volume::Volume;

/// After how long a domain that could not be ended is tried again: at first, and in the long run.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Longest configuration file.
const MAX_CONFIG_BYTES: u64 = 64 * 1024;

/// Why a command failed: how it exits and what it says.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit status.
    pub(crate) exit: Exit,
    /// What to tell the user.
    pub(crate) text: String,
}

impl Failure {
    /// A plain failure.
    pub(crate) fn new(text: impl ToString) -> Self {
        Self { exit: Exit::Failed, text: text.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: error.exit(), text: error.to_string() }
    }
}

/// What a domain starts from, in memory.
pub(crate) struct Images {
    kernel: Vec<u8>,
    ramdisk: Option<Vec<u8>>,
}

/// The toolstack and the services it tells about domains.
pub(crate) struct Toolstack {
    /// xenstore.
    pub(crate) store: Rc<StoreService>,
    /// The guests' consoles.
    pub(crate) consoles: ConsoleService,
    blocks: BlockService,
    /// Guests' interfaces and the switches.
    pub(crate) nets: NetService,
    machine: Rc<Machine>,
    volume: Option<Rc<Volume>>,
    lifecycle: RefCell<Lifecycle>,
    tty: Rc<Tty>,
    /// Rung whenever a domain may have stopped.
    stopped: Waiters,
    uuid_state: Cell<u64>,
}

/// The toolstack's view of dom0's services.
struct RealServices<'a>(&'a Toolstack);

impl Services for RealServices<'_> {
    fn store_introduce(&mut self, dom: DomId, ring: Mfn, port: EvtchnPort) -> Result<(), Errno> {
        self.0.store.introduce(dom, ring, port)
    }

    fn store_release(&mut self, dom: DomId) {
        self.0.store.release(dom);
    }

    fn console_attach(&mut self, dom: DomId, name: &str, ring: Mfn, port: EvtchnPort) -> Result<(), Errno> {
        self.0.consoles.attach(dom, name, ring, port)
    }

    fn console_detach(&mut self, dom: DomId) {
        self.0.consoles.detach(dom);
    }

    fn disk_info(&mut self, target: &str) -> Result<DiskInfo, Errno> {
        let disk = self.0.machine.disk(target).ok_or(Errno::NoEnt)?;
        // The store tells whose it is; whoever was detached by force may be connected for a moment longer.
        if self.0.blocks.is_written(&disk) {
            return Err(Errno::Busy);
        }
        // dom0 itself writes to the volume.
        let is_volume = self.0.machine.disks.first().is_some_and(|first| Rc::ptr_eq(first, &disk));
        let physical_device = disk.name().to_string();
        let read_only = disk.is_read_only() || is_volume;
        Ok(DiskInfo { sectors: disk.sectors(), physical_device, read_only })
    }

    fn disks_detach(&mut self, dom: DomId) {
        self.0.blocks.detach(dom);
    }

    fn vifs_detach(&mut self, dom: DomId) {
        self.0.nets.detach(dom);
    }

    fn now_ns(&mut self) -> u64 {
        time::now_ns()
    }

    fn random_uuid(&mut self) -> [u8; 16] {
        let (high, low) = (self.0.random(), self.0.random());
        let mut uuid = [0; 16];
        for (to, from) in uuid.iter_mut().zip(high.to_le_bytes().into_iter().chain(low.to_le_bytes())) {
            *to = from;
        }
        // Version 4, the usual variant.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

impl Toolstack {
    /// Starts the services.
    pub(crate) fn start(
        tty: Rc<Tty>,
        machine: Rc<Machine>,
        volume: Option<Rc<Volume>>,
    ) -> Result<Rc<Self>, Errno> {
        let store = StoreService::new();
        let blocks = BlockService::start(store.clone(), machine.clone())?;
        let nets = NetService::start(store.clone(), &machine)?;
        let stack = Rc::new(Self {
            store,
            consoles: ConsoleService::default(),
            blocks,
            nets,
            machine,
            volume,
            lifecycle: RefCell::default(),
            tty,
            stopped: Waiters::new(),
            uuid_state: Cell::new(arch::cpu::rdtsc_ordered()),
        });
        stack.with_env(toolstack::init_dom0).map_err(|_| Errno::Io)?;
        let channel = event::bind_virq(VirqKind::DomExc, VcpuId::new(0))?;
        task::spawn(stack.clone().watch(channel)).detach();
        Ok(stack)
    }

    /// Runs an operation of the library. Nothing else of dom0 runs meanwhile.
    pub(crate) fn with_env<T>(&self, operation: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let (mut hv, mut store, mut services) = (RealHypervisor, self.store.handle(), RealServices(self));
        operation(&mut Env { hv: &mut hv, store: &mut store, services: &mut services })
    }

    /// A number that does not repeat soon; mixes the time stamp counter in.
    fn random(&self) -> u64 {
        let mut value = self.uuid_state.get() ^ arch::cpu::rdtsc_ordered();
        value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        self.uuid_state.set(value);
        value
    }

    fn volume(&self) -> Result<&Volume, Failure> {
        self.volume.as_deref().ok_or_else(|| Failure::new("there is no disk with a volume"))
    }

    /// Reads a configuration; warnings go to `warn`.
    pub(crate) async fn configuration(
        &self,
        file: &str,
        overrides: &[String],
        warn: impl Fn(&str),
    ) -> Result<DomainConfig, Failure> {
        let bytes = self.volume()?.read(file, MAX_CONFIG_BYTES).await.map_err(Failure::new)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::new(format!("{file}: this is no UTF-8 text, so no configuration")))?;
        let (config, warnings) = parse_config(file, &text, overrides).map_err(Failure::new)?;
        warnings.iter().for_each(|warning| warn(&warning.to_string()));
        Ok(config)
    }

    async fn module(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let limit = u64::try_from(MAX_KERNEL).unwrap_or(u64::MAX);
        self.volume()?.read(path, limit).await.map_err(Failure::new)
    }

    /// Reads and unpacks what a domain starts from.
    pub(crate) async fn images(&self, config: &DomainConfig) -> Result<Images, Failure> {
        let kernel = {
            let file = self.module(&config.kernel).await?;
            let unpacked = pv_image::unpack_owned(file, MAX_KERNEL);
            let advice = |error: &pv_image::ImageError| match error {
                pv_image::ImageError::OutOfMemory => "; give dom0 more (dom0_mem)",
                _ => "",
            };
            unpacked.map_err(|error| Failure::new(format!("{}: {error}{}", config.kernel, advice(&error))))?
        };
        let ramdisk = match &config.ramdisk {
            Some(path) => Some(self.module(path).await?),
            None => None,
        };
        Ok(Images { kernel, ramdisk })
    }

    /// Makes a domain and looks after it from then on.
    pub(crate) async fn create(
        &self,
        config: &DomainConfig,
        images: &Images,
        options: CreateOptions,
        quick_runs: u32,
    ) -> Result<DomId, Failure> {
        let mut job = CreateJob::new(config, &images.kernel, images.ramdisk.as_deref(), options)?;
        loop {
            if let Progress::Done(dom) = self.with_env(|env| job.step(env))? {
                let mut lifecycle = self.lifecycle.borrow_mut();
                self.with_env(|env| lifecycle.adopt(env, dom, config.clone(), quick_runs));
                return Ok(dom);
            }
            task::yield_now().await;
        }
    }

    /// Changes what a domain will be when it starts again.
    pub(crate) fn amend(&self, dom: DomId, change: impl FnOnce(&mut DomainConfig)) {
        self.lifecycle.borrow_mut().amend(dom, change);
    }

    /// Ends a domain at once.
    pub(crate) fn destroy(&self, dom: DomId) -> Result<(), Failure> {
        let result = self.with_env(|env| toolstack::destroy(env, dom));
        self.lifecycle.borrow_mut().forget(dom);
        self.stopped.wake();
        Ok(result?)
    }

    /// Ends all domains but dom0.
    pub(crate) fn destroy_all(&self) -> Result<(), Failure> {
        let all = self.with_env(|env| env.hv.list_domains()).map_err(|error| Failure::new(error.name()))?;
        for dom in all.iter().map(|info| info.domid).filter(|dom| *dom != DomId::DOM0) {
            self.destroy(dom)?;
        }
        Ok(())
    }

    /// Whether a domain has stopped or is gone.
    fn has_stopped(&self, dom: DomId) -> bool {
        match self.with_env(|env| env.hv.domain_info(dom)) {
            Ok(info) => info.dying || info.shutdown.is_some(),
            Err(_) => true,
        }
    }

    /// Waits until a domain has stopped.
    pub(crate) async fn wait_for_stop(&self, dom: DomId) {
        core::future::poll_fn(|cx| {
            if self.has_stopped(dom) {
                return core::task::Poll::Ready(());
            }
            self.stopped.add(cx.waker());
            core::task::Poll::Pending
        })
        .await;
    }

    /// Looks after domains that stop by themselves.
    async fn watch(self: Rc<Self>, channel: EventChannel) {
        let mut again = None;
        loop {
            match again {
                None => channel.wait().await,
                Some(pause) => race(channel.wait(), time::sleep(pause)).await,
            }
            self.store.domain_died();
            let events = {
                let mut lifecycle = self.lifecycle.borrow_mut();
                self.with_env(|env| lifecycle.poll(env))
            };
            self.stopped.wake();
            match events {
                Ok(events) => {
                    let failed = events.iter().any(|event| matches!(event, LifecycleEvent::Failed { .. }));
                    let longer = again.map_or(FIRST_RETRY, |pause: Duration| (pause * 2).min(LAST_RETRY));
                    again = failed.then_some(longer);
                    events.into_iter().for_each(|event| self.clone().follow(event));
                }
                Err(error) => self.say(&error.to_string()),
            }
        }
    }

    fn say(&self, text: &str) {
        self.tty.print(&format!("dom0: {text}\n"));
    }

    /// Does what an event asks for.
    fn follow(self: Rc<Self>, event: LifecycleEvent) {
        match event {
            LifecycleEvent::Destroyed { dom, name, reason } => {
                self.say(&format!("domain {} '{name}' ended: {reason:?}", dom.raw()));
            }
            LifecycleEvent::Preserved { dom, name, reason } => {
                self.say(&format!("domain {} '{name}' stopped and is kept: {reason:?}", dom.raw()));
            }
            LifecycleEvent::GaveUp { dom, name } => {
                self.say(&format!("domain {} '{name}' restarts too often and was ended", dom.raw()));
            }
            LifecycleEvent::Failed { dom, error } => {
                self.say(&format!("domain {} could not be ended: {error}", dom.raw()));
            }
            LifecycleEvent::Restart { dom, reason, request } => {
                let name = request.config.name.clone();
                self.say(&format!("domain {} '{name}' stopped: {reason:?}; starting it again", dom.raw()));
                task::spawn(self.restart(request)).detach();
            }
        }
    }

    async fn restart(self: Rc<Self>, request: RestartRequest) {
        let made = async {
            let images = self.images(&request.config).await?;
            self.create(&request.config, &images, CreateOptions::default(), request.quick_runs).await
        };
        if let Err(failure) = made.await {
            self.say(&format!("'{}' could not be started again: {}", request.config.name, failure.text));
        }
    }
}
