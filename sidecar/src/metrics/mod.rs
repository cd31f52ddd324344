//! What is counted, and its text for Prometheus on the private port.
//!
//! Names are `sidecar_<noun>_<unit>`, counters end in `_total`. A label's value comes from an enum of this crate
//! and from nowhere else: no user, no path, no key can become one.

pub mod labels;
mod machine;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::status::Phase;
use crate::agent::supervision::Cause;
use crate::error::ApiError;
use labels::{Class, Fault, Route, Step};

/// The text's type, as scrapers ask for it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds: from what a processor needs to what a person gives up after.
const LATENCY_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// Counts. Clones count the same.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    received: Family<RouteLabels, Counter>,
    sent: Family<RouteLabels, Counter>,
    /// The series of the four above, by the place of the route in [`Route::ALL`].
    series: [OnceLock<Series>; Route::ALL.len()],
    connections: Gauge,
    sockets: Gauge,
    faults: Family<FaultLabels, Counter>,
    stale_epochs: Counter,
    refused_tickets: Counter,
    agent_starts: Counter,
    agent_exits: Family<CauseLabels, Counter>,
    agent_oom_kills: Counter,
    agent_missed_probes: Counter,
    agent_state: Family<StateLabels, Gauge>,
    agent_ready: Gauge,
    agent_resident: Gauge,
    own_resident: Gauge,
    group_memory: Gauge,
    volume_size: Gauge,
    volume_free: Gauge,
    boot_steps: Family<StepLabels, Gauge<f64, AtomicU64>>,
}

/// What a request of one route counts. Kept, since to find a series by its labels takes a lock and a hash.
#[derive(Debug)]
struct Series {
    /// By the place of the class in [`Class::ALL`]; made at the first request, so that no series is there without one.
    requests: [OnceLock<Counter>; Class::ALL.len()],
    latency: Histogram,
    received: Counter,
    sent: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Route,
    class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Route,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    kind: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: Step,
}

/// A request that is over.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    pub route: Route,
    pub status: u16,
    pub took: Duration,
    /// Of the bodies, as far as they said beforehand.
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// What is looked up when the text is asked for.
#[derive(Debug, Clone)]
pub struct Now {
    pub connections: usize,
    pub agent_ready: bool,
    /// `None` if another supervises the agent.
    pub agent: Option<(Phase, Option<i32>)>,
    pub volume: PathBuf,
}

/// An open socket; it is counted for as long as this lives.
#[derive(Debug)]
pub struct OpenSocket(Metrics);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.0.sockets.dec();
    }
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("sidecar"),
            requests: Family::default(),
            latency: Family::new_with_constructor(latency),
            received: Family::default(),
            sent: Family::default(),
            series: std::array::from_fn(|_| OnceLock::new()),
            connections: Gauge::default(),
            sockets: Gauge::default(),
            faults: Family::default(),
            stale_epochs: Counter::default(),
            refused_tickets: Counter::default(),
            agent_starts: Counter::default(),
            agent_exits: Family::default(),
            agent_oom_kills: Counter::default(),
            agent_missed_probes: Counter::default(),
            agent_state: Family::default(),
            agent_ready: Gauge::default(),
            agent_resident: Gauge::default(),
            own_resident: Gauge::default(),
            group_memory: Gauge::default(),
            volume_size: Gauge::default(),
            volume_free: Gauge::default(),
            boot_steps: Family::default(),
        };
        inner.register();
        // A series that is not there until the first incident cannot be alerted on.
        for cause in Cause::ALL {
            let _at_zero = inner.agent_exits.get_or_create(&CauseLabels { cause });
        }
        for &kind in Fault::ALL {
            let _at_zero = inner.faults.get_or_create(&FaultLabels { kind });
        }
        Self(Arc::new(inner))
    }
}

impl Inner {
    fn series(&self, route: Route) -> Series {
        let labels = RouteLabels { route };
        Series {
            requests: std::array::from_fn(|_| OnceLock::new()),
            latency: self.latency.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
        }
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "requests",
            "Requests of the public port, by route and class of status",
            self.requests.clone(),
        );
        r.register_with_unit(
            "request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            self.latency.clone(),
        );
        r.register_with_unit(
            "request_body",
            "Bodies of requests, as far as their length was said beforehand",
            Unit::Bytes,
            self.received.clone(),
        );
        r.register_with_unit(
            "response_body",
            "Bodies of answers, as far as their length is known beforehand",
            Unit::Bytes,
            self.sent.clone(),
        );
        r.register(
            "connections_open",
            "Connections of the public port, sockets included",
            self.connections.clone(),
        );
        r.register("sockets_open", "WebSockets between clients and the agent", self.sockets.clone());
        r.register("faults", "Answers that say that something failed here, by kind", self.faults.clone());
        r.register("epoch_refusals", "Requests refused since their epoch is over", self.stale_epochs.clone());
        r.register("ticket_refusals", "Requests without a good ticket", self.refused_tickets.clone());
        r.register("agent_starts", "Processes of the agent that were started", self.agent_starts.clone());
        r.register(
            "agent_exits",
            "Processes of the agent that have ended, by cause",
            self.agent_exits.clone(),
        );
        r.register("agent_oom_kills", "Of these, for lack of memory", self.agent_oom_kills.clone());
        r.register(
            "agent_missed_probes",
            "Looks at the agent's event loop that were not answered in time",
            self.agent_missed_probes.clone(),
        );
        r.register("agent_state", "1 for the state that the agent's process is in", self.agent_state.clone());
        r.register(
            "agent_ready",
            "Whether the agent answers over the kept connection",
            self.agent_ready.clone(),
        );
        r.register_with_unit(
            "agent_memory_resident",
            "Resident memory of the agent's process",
            Unit::Bytes,
            self.agent_resident.clone(),
        );
        r.register_with_unit(
            "memory_resident",
            "Resident memory of the sidecar",
            Unit::Bytes,
            self.own_resident.clone(),
        );
        r.register_with_unit(
            "group_memory",
            "Memory of the control group, 0 if there is none",
            Unit::Bytes,
            self.group_memory.clone(),
        );
        r.register_with_unit("volume_size", "Size of the volume", Unit::Bytes, self.volume_size.clone());
        r.register_with_unit(
            "volume_free",
            "Room on the volume for the agent and the user",
            Unit::Bytes,
            self.volume_free.clone(),
        );
        r.register_with_unit(
            "boot_step_duration",
            "How long each step of the last boot took",
            Unit::Seconds,
            self.boot_steps.clone(),
        );
    }
}

impl Metrics {
    /// Counts a request of the public port, and what its error says.
    pub fn served(&self, served: Served, error: Option<&ApiError>) {
        let Served { route, status, took, received_bytes, sent_bytes } = served;
        let (inner, class) = (&self.0, Class::of(status));
        // The place of an enum's value is within its own table.
        if let Some(series) = inner.series.get(route as usize) {
            let series = series.get_or_init(|| inner.series(route));
            if let Some(requests) = series.requests.get(class as usize) {
                let new = || inner.requests.get_or_create_owned(&RequestLabels { route, class });
                requests.get_or_init(new).inc();
            }
            series.latency.observe(took.as_secs_f64());
            series.received.inc_by(received_bytes);
            series.sent.inc_by(sent_bytes);
        }
        match error {
            Some(ApiError::StaleEpoch) => drop(inner.stale_epochs.inc()),
            Some(ApiError::NoTicket | ApiError::Ticket(_)) => drop(inner.refused_tickets.inc()),
            _ => {}
        }
        if let Some(kind) = error.filter(|_| status >= 500).map(Fault::of) {
            inner.faults.get_or_create(&FaultLabels { kind }).inc();
        }
    }

    /// Counts a socket until the answer is dropped.
    #[must_use]
    pub fn socket(&self) -> OpenSocket {
        self.0.sockets.inc();
        OpenSocket(self.clone())
    }

    pub fn agent_started(&self) {
        self.0.agent_starts.inc();
    }

    pub fn agent_exited(&self, cause: Cause) {
        self.0.agent_exits.get_or_create(&CauseLabels { cause }).inc();
        if cause == Cause::OutOfMemory {
            self.0.agent_oom_kills.inc();
        }
    }

    pub fn agent_missed_a_probe(&self) {
        self.0.agent_missed_probes.inc();
    }

    /// Notes how long a step of the boot took.
    pub fn booted(&self, step: Step, took: Duration) {
        self.0.boot_steps.get_or_create(&StepLabels { step }).set(took.as_secs_f64());
    }

    /// The text. Reads a few files of `/proc`, and asks the volume for its room.
    #[must_use]
    pub fn render(&self, now: &Now) -> String {
        let inner = &self.0;
        inner.connections.set(to_gauge(u64::try_from(now.connections).unwrap_or(u64::MAX)));
        inner.agent_ready.set(i64::from(now.agent_ready));
        for state in Phase::ALL {
            let is = now.agent.is_some_and(|(at, _)| at == state);
            inner.agent_state.get_or_create(&StateLabels { state }).set(i64::from(is));
        }
        let machine = machine::look(now.agent.and_then(|(_, pid)| pid), &now.volume);
        inner.own_resident.set(to_gauge(machine.own_resident));
        inner.agent_resident.set(to_gauge(machine.agent_resident));
        inner.group_memory.set(to_gauge(machine.group_memory));
        inner.volume_size.set(to_gauge(machine.volume_size));
        inner.volume_free.set(to_gauge(machine.volume_free));
        let mut text = String::new();
        // Writing into a string does not fail.
        let _written = encode(&mut text, &inner.registry);
        text
    }
}

fn to_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text() {
        let metrics = Metrics::default();
        let served = Served {
            route: Route::Files,
            status: 503,
            took: Duration::from_millis(7),
            received_bytes: 5,
            sent_bytes: 11,
        };
        metrics.served(served, Some(&ApiError::Draining));
        metrics.served(Served { status: 409, ..served }, Some(&ApiError::StaleEpoch));
        metrics.agent_started();
        metrics.agent_exited(Cause::OutOfMemory);
        metrics.booted(Step::Agent, Duration::from_millis(1500));
        let socket = metrics.socket();
        let volume = tempfile::tempdir().unwrap();
        let agent = Some((Phase::Running, None));
        let now = Now { connections: 3, agent_ready: true, agent, volume: volume.path().to_owned() };
        let text = metrics.render(&now);
        for line in [
            r#"sidecar_requests_total{route="files",class="5xx"} 1"#,
            r#"sidecar_requests_total{route="files",class="4xx"} 1"#,
            r#"sidecar_request_duration_seconds_bucket{le="0.01",route="files"} 2"#,
            r#"sidecar_request_body_bytes_total{route="files"} 10"#,
            r#"sidecar_response_body_bytes_total{route="files"} 22"#,
            "sidecar_connections_open 3",
            "sidecar_sockets_open 1",
            r#"sidecar_faults_total{kind="other"} 1"#,
            r#"sidecar_faults_total{kind="history"} 0"#,
            "sidecar_epoch_refusals_total 1",
            "sidecar_agent_starts_total 1",
            r#"sidecar_agent_exits_total{cause="out_of_memory"} 1"#,
            r#"sidecar_agent_exits_total{cause="clean"} 0"#,
            "sidecar_agent_oom_kills_total 1",
            r#"sidecar_agent_state{state="running"} 1"#,
            r#"sidecar_agent_state{state="waiting"} 0"#,
            "sidecar_agent_ready 1",
            r#"sidecar_boot_step_duration_seconds{step="agent"} 1.5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(socket);
        assert!(metrics.render(&now).contains("sidecar_sockets_open 0"));
        let value = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        assert!(value("sidecar_memory_resident_bytes ") > 1_000_000);
        assert!(value("sidecar_volume_size_bytes ") >= value("sidecar_volume_free_bytes "));
    }
}
