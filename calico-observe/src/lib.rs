//! What probes and Prometheus read from a running Calico program.
//!
//! [`program`] is the frame of a `main`: a log whose level may change, and errors with all causes.
//! [`Health`] collects what the parts of a program say of themselves, each within its time;
//! [`serve`] answers HTTP requests for pages such as `/readiness` and `/metrics`.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use calico_observe::{Health, Report, metrics};
//!
//! let (now, mut health) = (Instant::now(), Health::default());
//! health.register("Datastore", Duration::from_secs(30), now);
//! assert!(!health.readiness(now).is_good(), "it has not reported yet");
//! health.report("Datastore", Report::ready(), now);
//! assert_eq!(health.readiness(now).status(), 200);
//! assert!(!health.liveness(now + Duration::from_secs(31)).is_good(), "it is late");
//!
//! let mut registry = metrics::Registry::default();
//! let routes = metrics::Gauge::<i64>::default();
//! registry.register("felix_routes", "Routes in the kernel", routes.clone());
//! routes.set(3);
//! assert!(metrics::encode(&registry).contains("felix_routes 3"));
//! ```
//!
//! Source: upstream's `libcalico-go/lib/health`, and the text format of Prometheus.

mod health;
pub mod metrics;
mod process;
pub mod program;
mod server;
mod tls;

pub use self::health::{Health, Report, Verdict};
pub use self::process::Process;
pub use self::server::{Page, serve, serve_over};
pub use self::tls::{ClientCertificate, FollowedTls, Tls, TlsError, TlsFiles};
