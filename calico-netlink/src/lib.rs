//! Linux networking for Calico, spoken to the kernel over netlink: no `ip`, no `nft` process.
//!
//! - [`pod`]: the network of a pod, from one call.
//! - [`nft`]: nftables.
//! - [`link`], [`address`], [`neighbour`], [`sysctl`], [`netns`]: the parts.
//! - [`rtnl`]: the connection to the kernel that they share. It is blocking: kernel calls take
//!   microseconds. Asynchronous programs use the `*_async` forms.
//!
//! ```no_run
//! use calico_netlink::pod::{self, PodSpec};
//!
//! # fn main() -> Result<(), pod::PodError> {
//! let made = pod::setup(&PodSpec {
//!     netns: "/run/netns/web".into(),
//!     ifname: "eth0".into(),
//!     host_ifname: "cali1234567890a".into(),
//!     addresses: vec![[10, 65, 0, 2].into()],
//!     ..PodSpec::default()
//! })?;
//! println!("the pod's hardware address is {}", made.container.mac);
//! # Ok(())
//! # }
//! ```

pub mod address;
pub mod dataplane;
pub mod link;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod pod;
pub mod route;
pub mod rtnl;
pub mod sysctl;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
