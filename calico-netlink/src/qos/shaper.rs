//! Keeps the kernel's token buckets as endpoints say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use calico_core::dataplane::{EndpointId, Limits, Transaction, Update};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{apply, forget, sweep};
use crate::monitor::{Event, Follow, LinkChange, Monitor};
use crate::rtnl::{Connection, RtnlError};

/// How often that is tried again which the kernel refused.
const AGAIN: Duration = Duration::from_secs(10);

/// Follows endpoints and interfaces, and brings bandwidths into force: when an endpoint changes, and
/// when its interface appears. Ends with this value; limits in the kernel stay.
#[derive(Debug)]
pub struct Shaper {
    orders: mpsc::UnboundedSender<Order>,
    endpoints: Mutex<Endpoints>,
    task: JoinHandle<()>,
}

/// What is known of endpoints.
#[derive(Debug, Default)]
struct Endpoints {
    interfaces: BTreeMap<EndpointId, (Arc<str>, bool)>,
    /// The newest claim holds.
    owners: BTreeMap<Arc<str>, EndpointId>,
    complete: bool,
}

#[derive(Debug)]
enum Order {
    /// These limits are to hold at the interface.
    Shape(Arc<str>, Limits),
    /// The interface is nobody's any more.
    Forget(Arc<str>),
    /// Everything wanted has been said: what is left of an earlier run can go.
    Sweep,
}

struct Worker {
    connection: Connection,
    wanted: BTreeMap<Arc<str>, Limits>,
    failed: BTreeMap<Arc<str>, String>,
}

impl Shaper {
    /// Starts in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open() -> Result<Self, RtnlError> {
        let monitor = Monitor::open(Follow::default())?;
        let worker = Worker {
            connection: Connection::open()?,
            wanted: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        let (orders, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(worker.run(received, monitor));
        Ok(Self { orders, endpoints: Mutex::default(), task })
    }

    /// Takes over what a transaction says of endpoints.
    pub fn follow(&self, transaction: &Transaction) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for update in &transaction.updates {
            for order in endpoints.orders(update) {
                // Fails only once the task has ended, with the runtime.
                let _ = self.orders.send(order);
            }
        }
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoints {
    fn orders(&mut self, update: &Update) -> Vec<Order> {
        match update {
            Update::Endpoint(endpoint) => {
                let interface = &endpoint.interface;
                let limits = endpoint.limits;
                let shaped = [limits.ingress, limits.egress].iter().any(|l| l.bandwidth.is_some());
                let before =
                    self.interfaces.insert(endpoint.id.clone(), (Arc::clone(interface), shaped));
                let mut orders = Vec::new();
                let mut was_shaped = false;
                if let Some((old, shaped)) = before {
                    if old == *interface {
                        was_shaped = shaped;
                    } else {
                        orders.extend(self.release(&endpoint.id, old));
                    }
                }
                let before = self.owners.insert(Arc::clone(interface), endpoint.id.clone());
                was_shaped |= before.is_some_and(|before| before != endpoint.id);
                // Of an earlier run, something may be there that is not wanted any more.
                if shaped || was_shaped || !self.complete {
                    orders.push(Order::Shape(Arc::clone(interface), limits));
                }
                orders
            }
            Update::EndpointRemoved(id) => {
                let before = self.interfaces.remove(id);
                before.and_then(|(interface, _)| self.release(id, interface)).into_iter().collect()
            }
            Update::InSync => {
                self.complete = true;
                vec![Order::Sweep]
            }
            _ => Vec::new(),
        }
    }

    fn release(&mut self, id: &EndpointId, interface: Arc<str>) -> Option<Order> {
        if self.owners.get(&interface) != Some(id) {
            return None;
        }
        self.owners.remove(&interface);
        Some(Order::Forget(interface))
    }
}

impl Worker {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut monitor: Monitor) {
        let mut again = Instant::now() + AGAIN;
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order),
                    None => return,
                },
                event = monitor.next() => match event {
                    Ok(event) => self.noticed(&event),
                    Err(error) => {
                        tracing::warn!(%error, "new interfaces get their bandwidth late");
                        tokio::time::sleep(AGAIN).await;
                    }
                },
                () = tokio::time::sleep_until(again) => {
                    again = Instant::now() + AGAIN;
                    let failed: BTreeSet<_> = self.failed.keys().cloned().collect();
                    failed.into_iter().for_each(|interface| self.shape(&interface));
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Shape(interface, limits) => {
                self.wanted.insert(Arc::clone(&interface), limits);
                self.shape(&interface);
            }
            Order::Forget(interface) => {
                self.failed.remove(&interface);
                if self.wanted.remove(&interface).is_some() {
                    // Its interface goes with the workload; or stays, for nobody.
                    if let Err(error) = apply(&mut self.connection, &interface, &Limits::default())
                    {
                        tracing::debug!(%error, %interface, "a bandwidth stays");
                    }
                }
            }
            Order::Sweep => match sweep(&mut self.connection) {
                Ok(removed) if removed.is_empty() => {}
                Ok(removed) => {
                    tracing::info!(?removed, "removed devices of interfaces that are gone")
                }
                Err(error) => {
                    tracing::warn!(%error, "devices of interfaces that are gone may be left")
                }
            },
        }
    }

    fn noticed(&mut self, event: &Event) {
        let Event::Link(event) = event else { return };
        let name = event.link.name.as_str();
        let Some((interface, _)) = self.wanted.get_key_value(name) else { return };
        let interface = Arc::clone(interface);
        match event.change {
            LinkChange::Gone => {
                if let Err(error) = forget(&mut self.connection, &interface) {
                    tracing::debug!(%error, %interface, "a device of an interface stays");
                }
            }
            // A packet's size is part of a bucket.
            LinkChange::New | LinkChange::Up | LinkChange::Changed => self.shape(&interface),
            LinkChange::Down => {}
        }
    }

    fn shape(&mut self, interface: &Arc<str>) {
        let Some(limits) = self.wanted.get(interface) else { return };
        match apply(&mut self.connection, interface, limits) {
            Ok(_) => {
                if self.failed.remove(interface).is_some() {
                    tracing::info!(%interface, "the bandwidth is limited now");
                }
            }
            // Gone while it was looked at; told of soon.
            Err(error) if error.is_absent() => {}
            Err(error) => {
                let reason = error.to_string();
                if self.failed.get(interface) != Some(&reason) {
                    tracing::warn!(%interface, reason, "the bandwidth is not limited");
                    self.failed.insert(Arc::clone(interface), reason);
                }
            }
        }
    }
}
