//! `/metrics`: Prometheus' text format, by its naming conventions: base units, `_total` for counters, and labels from small
//! sets only. No name, hash, URL or address of a peer is a label.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
};

use super::{
    access,
    openapi::{Routes, get},
    state::ApiState,
};
use crate::queue::{Filter, Page, Seeding, StateName};

pub(super) fn router(state: &ApiState) -> Router {
    routes()
        .into_router()
        .layer(from_fn_with_state(state.clone(), access::require))
        .with_state(state.clone())
}

pub(super) fn routes() -> Routes {
    let metrics = get(metrics, "Metrics in the text format of Prometheus");
    Routes::default().at("/metrics", [metrics.gives_type(200, "text/plain")])
}

async fn metrics(State(state): State<ApiState>) -> Response {
    let text = render(&state);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Samples of one metric.
type Samples = Vec<(String, f64)>;

#[derive(Default)]
struct Text(String);

impl Text {
    fn add(&mut self, name: &str, kind: &str, help: &str, samples: Samples) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating-point numbers")]
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, "gauge", help, vec![(String::new(), value as f64)]);
    }

    #[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating-point numbers")]
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, "counter", help, vec![(String::new(), value as f64)]);
    }
}

fn render(state: &ApiState) -> String {
    let mut text = Text::default();
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    text.add("bae_build_info", "gauge", "Version of the program.", vec![(version, 1.0)]);
    add_downloads(&mut text, state);
    let totals = state.queue().totals();
    text.counter(
        "bae_received_bytes_total",
        "Bytes received from peers and servers since the start.",
        totals.received,
    );
    text.counter("bae_sent_bytes_total", "Bytes sent to peers since the start.", totals.sent);
    text.counter(
        "bae_downloads_completed_total",
        "Downloads that were completed since the start.",
        totals.completed,
    );
    let failures = totals.failures.into_iter();
    #[allow(clippy::cast_precision_loss, reason = "counts of failures are small")]
    let failures = failures.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count as f64));
    text.add(
        "bae_download_failures_total",
        "counter",
        "Failed tries of downloads since the start, by kind.",
        failures.collect(),
    );
    let memory = state.engine().memory_use();
    text.gauge("bae_memory_budget_bytes", "Most payload bytes in memory.", memory.0);
    text.gauge("bae_memory_held_bytes", "Payload bytes in memory.", memory.1);
    add_process(&mut text);
    text.0
}

#[allow(clippy::cast_precision_loss, reason = "numbers of downloads are small")]
fn add_downloads(text: &mut Text, state: &ApiState) {
    let listed = state.queue().list(&Filter::default(), Page::default()).downloads;
    let mut by_state: BTreeMap<StateName, u64> =
        StateName::ALL.into_iter().map(|name| (name, 0)).collect();
    let mut by_storage: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut seeding, mut peers) = (0, 0);
    for download in &listed {
        *by_state.entry(download.state.name()).or_default() += 1;
        *by_storage.entry(&download.settings.storage).or_default() += 1;
        seeding += u64::from(download.seeding == Seeding::Active);
        peers += download.progress.peers as u64;
    }
    let label = |name: &str, value: &str, count: u64| {
        (format!("{{{name}=\"{}\"}}", escaped(value)), count as f64)
    };
    let states = by_state.iter().map(|(name, count)| label("state", name.as_str(), *count));
    text.add("bae_downloads", "gauge", "Downloads in the queue, by state.", states.collect());
    let storages = by_storage.iter().map(|(name, count)| label("storage", name, *count));
    text.add(
        "bae_storage_downloads",
        "gauge",
        "Downloads in the queue, by storage.",
        storages.collect(),
    );
    text.gauge("bae_seeding_downloads", "Downloads that are seeded.", seeding);
    text.gauge("bae_peers", "Connected peers and servers.", peers);
}

/// A value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The process, by the names that all exporters use.
fn add_process(text: &mut Text) {
    let page = rustix::param::page_size() as u64;
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    if let Some(resident) = resident {
        text.gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            resident * page,
        );
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Number of open file descriptors.", files.count() as u64);
    }
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program in parentheses may contain spaces.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (ticks(11), ticks(12)) {
        // Linux reports hundredths of a second on all systems.
        let seconds = (user + system) / 100.0;
        let help = "Total user and system CPU time spent in seconds.";
        text.add("process_cpu_seconds_total", "counter", help, vec![(String::new(), seconds)]);
    }
}
