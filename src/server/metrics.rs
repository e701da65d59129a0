//! Counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Service, lock};

/// Upper edges of the buckets of latencies, in seconds.
const BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1., 5., 30.];

/// What is counted as requests come and go.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Requests by latency, the last bucket without an upper edge.
    latencies: [AtomicU64; BUCKETS.len() + 1],
    latency_us: AtomicU64,
    /// Hover positions answered.
    pub hovers: AtomicU64,
    /// Hover positions that a newer one replaced.
    pub hovers_replaced: AtomicU64,
}

/// The route of a path: ids and unknown paths would make any number of series.
fn route(path: &str) -> &'static str {
    let image = path.strip_prefix("/api/v1/images/");
    match path {
        "/" => "/",
        "/health" => "/health",
        "/metrics" => "/metrics",
        "/openapi.json" => "/openapi.json",
        "/api/v1/model" => "/api/v1/model",
        "/api/v1/images" => "/api/v1/images",
        "/api/v1/segment" => "/api/v1/segment",
        "/api/v1/hover" => "/api/v1/hover",
        _ if image.is_some_and(|rest| rest.ends_with("/segment")) => "/api/v1/images/{id}/segment",
        _ if image.is_some_and(|rest| rest.ends_with("/everything")) => {
            "/api/v1/images/{id}/everything"
        }
        _ if image.is_some_and(|rest| rest.ends_with("/export")) => "/api/v1/images/{id}/export",
        _ if image.is_some() => "/api/v1/images/{id}",
        _ if path.starts_with("/assets/") => "/assets",
        _ if path.starts_with("/sam3/") => "/sam3",
        _ if path.starts_with("/v1/") => "/v1",
        _ if path.starts_with("/label-studio/") => "/label-studio",
        _ => "other",
    }
}

impl Metrics {
    /// Counts an answered request.
    pub fn count(&self, path: &str, status: StatusCode, elapsed: Duration) {
        let mut requests = lock(&self.requests);
        *requests.entry((route(path), status.as_u16())).or_default() += 1;
        let seconds = elapsed.as_secs_f64();
        let bucket = BUCKETS
            .iter()
            .position(|edge| seconds <= *edge)
            .unwrap_or(BUCKETS.len());
        self.latencies[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_us
            .fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String) {
        head(
            text,
            "sam3_requests_total",
            "counter",
            "Requests by route and status.",
        );
        for ((route, status), count) in lock(&self.requests).iter() {
            // Writing to a string cannot fail, here and below.
            let labels = format!("{{route=\"{route}\",status=\"{status}\"}}");
            let _ = writeln!(text, "sam3_requests_total{labels} {count}");
        }
        let name = "sam3_request_seconds";
        head(
            text,
            name,
            "histogram",
            "Time from the head of a request to that of its answer.",
        );
        let mut below = 0;
        for (i, count) in self.latencies.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            let edge = BUCKETS.get(i).map_or("+Inf".to_string(), f64::to_string);
            let _ = writeln!(text, "{name}_bucket{{le=\"{edge}\"}} {below}");
        }
        let _ = writeln!(text, "{name}_sum {}", seconds(&self.latency_us));
        let _ = writeln!(text, "{name}_count {below}");
        for (name, help, value) in [
            ("hovers", "Hover positions answered.", &self.hovers),
            (
                "hovers_replaced",
                "Hover positions that a newer one replaced.",
                &self.hovers_replaced,
            ),
        ] {
            let name = format!("sam3_{name}_total");
            single(text, &name, "counter", help, value.load(Ordering::Relaxed));
        }
    }
}

/// A metric of one value.
fn single(text: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    head(text, name, kind, help);
    let _ = writeln!(text, "{name} {value}");
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn seconds(us: &AtomicU64) -> f64 {
    us.load(Ordering::Relaxed) as f64 / 1e6
}

/// `GET /metrics`
pub async fn show(State(service): State<Service>) -> Response {
    let mut text = String::new();
    service.metrics.write(&mut text);
    let figures = service.engine.figures();
    for (name, help, value) in [
        ("encodes", "Pictures encoded.", &figures.encodes),
        ("jobs", "Jobs that the engine did.", &figures.jobs),
        ("refused", "Jobs refused by a full queue.", &figures.refused),
        ("panics", "Jobs that panicked.", &figures.panics),
    ] {
        let name = format!("sam3_{name}_total");
        let value = value.load(Ordering::Relaxed);
        single(&mut text, &name, "counter", help, value);
    }
    for (name, help, value) in [
        ("encode", "Time spent encoding.", &figures.encode_us),
        ("job", "Time spent on jobs.", &figures.job_us),
    ] {
        let name = format!("sam3_{name}_seconds_total");
        single(&mut text, &name, "counter", help, seconds(value));
    }
    let (urgent, patient) = service.engine.waiting();
    let (pictures, bytes) = service.images.usage();
    for (name, help, value) in [
        ("waiting_urgent", "Decodes that wait.", urgent as u64),
        (
            "waiting_patient",
            "Encodes and other long jobs that wait.",
            patient as u64,
        ),
        ("pictures", "Pictures kept.", pictures as u64),
        (
            "cache_bytes",
            "Bytes of pictures and embeddings kept.",
            bytes,
        ),
    ] {
        single(&mut text, &format!("sam3_{name}"), "gauge", help, value);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The time now as "2026-11-28T12:00:00Z".
pub fn timestamp() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    utc(since.as_secs())
}

/// Follows "days from civil" turned around,
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn utc(seconds: u64) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_795_867_200), "2026-11-28T12:00:00Z");
    }

    #[test]
    fn ids_make_no_series_of_their_own() {
        assert_eq!(
            route("/api/v1/images/00ff/segment"),
            "/api/v1/images/{id}/segment"
        );
        assert_eq!(route("/api/v1/images/00ff"), "/api/v1/images/{id}");
        assert_eq!(route("/wp-admin.php"), "other");
    }

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        for ms in [1, 20, 60_000] {
            metrics.count("/", StatusCode::OK, Duration::from_millis(ms));
        }
        let mut text = String::new();
        metrics.write(&mut text);
        assert!(
            text.contains("sam3_requests_total{route=\"/\",status=\"200\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("le=\"0.005\"} 1") && text.contains("le=\"30\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("le=\"+Inf\"} 3") && text.contains("_count 3"),
            "{text}"
        );
    }
}
