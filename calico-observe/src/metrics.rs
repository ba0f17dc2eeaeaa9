//! Numbers that Prometheus reads.
//!
//! The types are those of the crate `prometheus-client`.

use prometheus_client::encoding::text;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Registry;

use crate::Page;

/// A text as the value of a label: the crate writes values as they are.
#[must_use]
pub fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The registry as the text that Prometheus reads.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    match text::encode(&mut text, registry) {
        Ok(()) => text,
        // Writing to memory does not fail; a metric's own encoder might.
        Err(_) => "# EOF\n".to_owned(),
    }
}

/// The registry as a page.
#[must_use]
pub fn page(registry: &Registry) -> Page {
    Page {
        status: 200,
        content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
        body: encode(registry),
    }
}
