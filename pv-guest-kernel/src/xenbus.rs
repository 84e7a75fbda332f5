//! How a front end and a back end find each other: states in the store.

use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use pv_abi::ids::DomId;
pub use pv_abi::io::xenbus::XenbusState;

use crate::hypercall::{Errno, Result};
use crate::xenstore::{Client, View, Watch};

/// The front end's half of a device.
pub struct Device {
    store: Client,
    path: String,
    backend: DomId,
    backend_path: String,
    backend_state: Watch,
}

impl Device {
    /// Finds the back end of the device at `path`, such as `device/vbd/51712`.
    pub async fn open(store: &Client, path: &str) -> Result<Self> {
        let backend: u16 = store.read_number(&format!("{path}/backend-id")).await?;
        let backend_path = store.read_text(&format!("{path}/backend")).await?;
        let backend_state = store.watch(&format!("{backend_path}/state")).await?;
        let (store, path) = (store.clone(), path.to_string());
        Ok(Self { store, path, backend: DomId::new(backend), backend_path, backend_state })
    }

    /// The domain of the back end.
    #[must_use]
    pub const fn backend(&self) -> DomId {
        self.backend
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Client {
        &self.store
    }

    /// The path of a node of the front end.
    #[must_use]
    pub fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The path of a node of the back end.
    #[must_use]
    pub fn backend_node(&self, name: &str) -> String {
        format!("{}/{name}", self.backend_path)
    }

    /// A number that the back end published, if it did.
    pub async fn backend_number<T: core::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.store.read_number(&self.backend_node(name)).await {
            Ok(number) => Ok(Some(number)),
            Err(Errno::NoEnt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Publishes the state of the front end.
    pub async fn set_state(&self, state: XenbusState) -> Result {
        set_state(&self.store, &self.path, state).await
    }

    /// Waits until the back end has let go of everything that the front end shares with it: it is closing, or gone.
    pub async fn backend_let_go(&self) -> Result {
        const INTERVAL: Duration = Duration::from_millis(10);
        loop {
            let state = read_state(&self.store, &self.backend_path).await?;
            if matches!(state, XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown) {
                return Ok(());
            }
            crate::time::sleep(INTERVAL).await;
        }
    }

    /// Waits until the back end's state is one that `wanted` accepts. ENODEV if it goes away instead.
    pub async fn wait_backend(&mut self, wanted: impl Fn(XenbusState) -> bool) -> Result<XenbusState> {
        loop {
            let state = read_state(&self.store, &self.backend_path).await?;
            if wanted(state) {
                return Ok(state);
            }
            if matches!(state, XenbusState::Closing | XenbusState::Closed) {
                return Err(Errno::NoDev);
            }
            self.backend_state.next().await;
        }
    }
}

/// The state at a device's path; [`XenbusState::Unknown`] if there is none.
pub async fn read_state(store: &View, path: &str) -> Result<XenbusState> {
    match store.read_number(&format!("{path}/state")).await {
        Ok(number) => Ok(XenbusState::from_raw(number).unwrap_or(XenbusState::Unknown)),
        Err(Errno::NoEnt) => Ok(XenbusState::Unknown),
        Err(error) => Err(error),
    }
}

/// Publishes a device's state.
pub async fn set_state(store: &View, path: &str, state: XenbusState) -> Result {
    store.write(&format!("{path}/state"), format!("{}", state.raw())).await
}
