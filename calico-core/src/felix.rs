//! Settings of the node agent as they hold on one node.
//!
//! They come from layers of which the higher wins, parameter by parameter, as in upstream's node
//! agent: the resource FelixConfiguration `default`, then the oldest whose node selector takes
//! the node, then `node.<name>`, then a file of the host, then its environment.
//!
//! ```
//! use calico_core::felix::{Layers, Local};
//!
//! let mut layers = Layers::default();
//! let local = Local::default().file("[global]\nInterfacePrefix = tap\n").environment([
//!     ("FELIX_IPV6SUPPORT", "no"),
//!     ("FELIX_ROUTEREFRESHINTERVAL", "2.5"),
//! ]);
//! assert!(local.problems().is_empty());
//! layers.set_local(local);
//!
//! let settings = layers.effective("node1", None);
//! assert_eq!(settings.spec.interface_prefix, "tap");
//! assert_eq!(settings.spec.ipv6_support, Some(false));
//! assert_eq!(settings.source("routeRefreshInterval").unwrap().to_string(), "the environment");
//! ```
//!
//! Source: upstream's `felix/config`.

mod layers;
mod local;
mod parameter;
mod table;

pub use self::layers::{Layers, Settings, Source};
pub use self::local::{Local, Problem};
pub use self::parameter::{Form, Parameter};
pub use self::table::PARAMETERS;
