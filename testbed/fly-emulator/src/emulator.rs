//! The emulator as a whole: what its parts share, its beginning and its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use fly_model::Fly;
use loopback::forward::Server;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::Config;
use crate::faults::Faults;
use crate::runner::Runner;
use crate::{api, driver, proxy};

/// A running emulator. Dropping it kills every machine; [`Self::stop`] is the polite way.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    api: Server,
    proxy: Server,
    driver: JoinHandle<()>,
}

/// What all parts have in common. Its locks are held for moments, and never across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    fly: Mutex<Fly>,
    faults: Mutex<Faults>,
    runners: Mutex<BTreeMap<String, Runner>>,
    /// Wakes the driver.
    pub(crate) wake: Notify,
    /// Counts changes: who waits for one looks again.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) proxied: proxy::Counts,
}

impl Shared {
    pub(crate) fn fly(&self) -> MutexGuard<'_, Fly> {
        self.fly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn runners(&self) -> MutexGuard<'_, BTreeMap<String, Runner>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the model, and has what follows from that carried out.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Fly, u64) -> T) -> T {
        let now = self.clock.now();
        let result = change(&mut self.fly(), now);
        self.wake.notify_one();
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
        result
    }

    /// Where the proxy says that it is: in the first region.
    pub(crate) fn region(&self) -> &str {
        self.config.regions.keys().next().map_or("lhr", String::as_str)
    }
}

impl Emulator {
    /// Starts the API, the proxy and the driver.
    ///
    /// # Errors
    /// When a port cannot be had, or the folder not be made.
    pub async fn start(mut config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.dir)
            .and_then(|()| config.dir.canonicalize())
            .map(|dir| config.dir = dir)
            .with_context(|| format!("cannot make {}", config.dir.display()))?;
        let clock = if config.clock_by_hand { Clock::by_hand() } else { Clock::wall(config.speed) };
        let (api_port, proxy_port) = (config.api_port, config.proxy_port);
        let shared = Arc::new(Shared {
            clock,
            fly: Mutex::new(Fly::new(config.profile(), config.seed)),
            faults: Mutex::new(Faults::new(config.seed)),
            runners: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            proxied: proxy::Counts::default(),
            config,
        });
        let router = api::router(Arc::clone(&shared));
        let api = Server::start(api_port, move |request, _| api::serve(router.clone(), request)).await?;
        let for_proxy = Arc::clone(&shared);
        let proxy = Server::start(proxy_port, move |request, context| {
            proxy::route(request, context, Arc::clone(&for_proxy))
        })
        .await?;
        let driver = tokio::spawn(driver::drive(Arc::clone(&shared)));
        Ok(Self { shared, api, proxy, driver })
    }

    /// The base of the Machines API, with `/v1`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("{}/v1", self.api.url())
    }

    /// The base of the admin routes.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("{}/_admin", self.api.url())
    }

    /// The proxy's base URL, without a slash at the end.
    #[must_use]
    pub fn proxy_url(&self) -> String {
        self.proxy.url()
    }

    /// The folder of a volume.
    #[must_use]
    pub fn volume_dir(&self, volume: &str) -> std::path::PathBuf {
        crate::launch::volume_dir(&self.shared.config.dir, volume)
    }

    /// Looks at the model.
    pub fn look<T>(&self, look: impl FnOnce(&Fly) -> T) -> T {
        look(&self.shared.fly())
    }

    /// Ends the servers, then every machine, with SIGKILL.
    pub async fn stop(mut self) {
        self.driver.abort();
        // An error means that it has ended, which is what is wanted.
        let _ = (&mut self.driver).await;
        let runners = std::mem::take(&mut *self.shared.runners());
        for (_, runner) in runners {
            runner.end().await;
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.driver.abort();
        self.shared.runners().clear();
    }
}
