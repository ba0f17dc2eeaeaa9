//! Linux networking for Calico, spoken to the kernel over netlink: no `ip`, no `nft` process.
//!
//! - [`pod`] makes the network of a pod, in one call; [`qos`] limits its bandwidth.
//! - [`dataplane`] enforces policy with [`nft`] and programs routes with [`route`].
//! - [`monitor`] follows interfaces and routes of the kernel.
//! - [`link`], [`address`], [`neighbour`], [`sysctl`] and [`netns`] are the parts.
//! - [`rtnl`] is the connection to the kernel that they share. It is blocking: kernel calls take
//!   microseconds. Asynchronous programs use the `*_async` forms.
//! - [`iptables`] finds and removes what upstream's iptables dataplane left behind.
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
pub mod iptables;
pub mod link;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod pod;
pub mod qos;
pub mod route;
pub mod rtnl;
pub mod sysctl;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tunnel;
