//! The control protocol: what `calicoctl` and other programs ask a running `calico-agent`, and
//! about BGP a running `calico-rr`, too.
//!
//! One JSON value per line each way, on a unix socket. A [`Request`] is answered by [`Reply`]s:
//! one, or for lists as many pages as it takes and then [`Reply::End`]. [`Request::Verdicts`] is
//! answered until somebody hangs up. New fields may come; whoever reads ignores those that it does
//! not know.
//!
//! ```no_run
//! use calico_control::{Client, Request};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_control::AskError> {
//! let mut client = Client::connect("/run/calico-rr/control.sock".as_ref()).await?;
//! let peers = client.peers().await?;
//! let up = peers.peers.iter().filter(|peer| peer.state == "Established").count();
//! println!("{up} of {} sessions are up", peers.peers.len());
//! let routes = client.routes(&Request::BgpRoutes { within: None }).await?;
//! println!("{} destinations", routes.len());
//!
//! let mut agent = Client::connect("/var/run/calico/control.sock".as_ref()).await?;
//! println!("ready: {}", agent.status().await?.ready);
//! # Ok(())
//! # }
//! ```

mod agent;
mod client;
mod peer;
mod request;
mod route;
mod verdicts;

pub use agent::{BgpStatus, EndpointStatus, LearnedStatus, PeerStatus, Recorded, Status};
pub use client::{AskError, Client};
pub use peer::{PeerInfo, Peers, Session};
pub use request::{Direction, NeighborRoutes, Reply, Request};
pub use route::{Attributes, Explanation, NeighborRoute, Path, Route, Told};
pub use verdicts::{Heard, Verdicts};
