//! The blocking part: a connection, and what is desired and known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::{Core, ROUNDS, RouteReport};
use crate::link::{self, LinkFilter};
use crate::monitor::{Event, LinkChange};
use crate::route::kernel::KernelRoute;
use crate::route::message;
use crate::route::recursive;
use crate::route::table::{Op, Standing};
use crate::rtnl::{Outcome, RtnlError};
use ipnet::IpNet;

impl Core {
    pub(super) fn resync(&mut self) -> Result<RouteReport, RtnlError> {
        let drift = self.read()?;
        Ok(RouteReport { drift, ..self.sync()? })
    }

    /// Reads interfaces and routes; returns how the routes differ from what is desired.
    pub(super) fn read(&mut self) -> Result<Vec<String>, RtnlError> {
        let links = link::list(&mut self.connection, &LinkFilter::default())?;
        let routes = self.list()?;
        self.moved = true;
        self.others.send_replace(());
        Ok(self.table.observe(&links, routes))
    }

    /// Every route of our table, whoever made it.
    pub(super) fn list(&mut self) -> Result<Vec<KernelRoute>, RtnlError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let query = message::query(family, self.table.config());
            let answers = match self.connection.dump(&query) {
                Ok(answers) => answers,
                // A table that nobody has used, or a kernel without IPv6.
                Err(RtnlError::Refused(refusal))
                    if matches!(refusal.errno, Errno::ENOENT | Errno::EOPNOTSUPP) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => message::decode(message),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Looks at these gateways again.
    fn look_up(&mut self, gateways: impl IntoIterator<Item = IpAddr>) -> Result<(), RtnlError> {
        let learned = self.table.config().via_protocol;
        for gateway in gateways {
            let hops = recursive::look_up(&mut self.connection, gateway, learned)?;
            self.table.gateway_seen(gateway, hops);
        }
        Ok(())
    }

    /// Carries out what there is to do.
    pub(super) fn sync(&mut self) -> Result<RouteReport, RtnlError> {
        let mut changed = 0;
        if std::mem::take(&mut self.moved) {
            let gateways = self.table.far_gateways();
            self.look_up(gateways)?;
        }
        for round in 1..=ROUNDS {
            let ops = self.table.plan();
            if ops.is_empty() {
                break;
            }
            let config = self.table.config();
            let requests: Vec<_> = ops.iter().map(|op| message::request(op, config)).collect();
            let outcomes = match self.connection.exchange(&requests) {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    // Unknown what was done: everything is to be looked at again.
                    self.read()?;
                    return Err(error);
                }
            };
            let mut surprised = false;
            let mut refused = Vec::new();
            for (op, outcome) in ops.into_iter().zip(outcomes) {
                match settle(&op, outcome) {
                    Ok(()) => {
                        changed += 1;
                        self.table.done(op);
                    }
                    Err(reason) => {
                        surprised |= matches!(op, Op::Add(_)) && reason.errno == Errno::EEXIST;
                        let text = explain(&op, &reason);
                        self.table.refused(&op, text.clone());
                        refused.push((op, text));
                    }
                }
            }
            // Perhaps a next hop is on no link, but something leads to it.
            let destinations = refused.iter().filter(|(op, _)| !matches!(op, Op::Remove(_)));
            let gateways: BTreeSet<IpAddr> = destinations
                .flat_map(|(op, _)| self.table.gateways(&op.route().destination))
                .collect();
            self.look_up(gateways)?;
            let again = self.table.is_dirty();
            for (op, text) in &refused {
                if round == ROUNDS || !self.table.is_dirty_at(&op.route().destination) {
                    tracing::warn!(route = %op.route(), reason = %text, "route not made");
                }
            }
            if round == ROUNDS || !(surprised || again) {
                break;
            }
            // Something is where nothing was known to be: ours (the CNI program's) or another's.
            if surprised {
                self.read()?;
            }
        }
        Ok(RouteReport { changed, drift: Vec::new(), standing: self.standing() })
    }

    pub(super) fn standing(&self) -> Vec<(IpNet, Standing)> {
        self.table.standing().map(|(at, standing)| (at, standing.clone())).collect()
    }

    pub(super) fn digest(&mut self, event: Event) -> Result<(), RtnlError> {
        if !matches!(&event, Event::Route(message) | Event::RouteGone(message)
            if message::decode(message).is_some_and(|route| self.table.owns(&route)))
        {
            self.moved = true;
            self.others.send_replace(());
        }
        match event {
            Event::Link(event) if event.change == LinkChange::Gone => {
                self.table.link_gone(event.link.index);
            }
            Event::Link(event) => self.table.link_seen(&event.link),
            Event::Route(message) => {
                if let Some(route) = message::decode(&message) {
                    self.table.route_seen(route);
                }
                // It may lead to a gateway that could not be reached before.
                self.table.retry();
            }
            Event::RouteGone(message) => {
                if let Some(route) = message::decode(&message) {
                    self.table.route_gone(&route);
                }
                self.table.retry();
            }
            Event::Resync => {
                let drift = self.read()?;
                tracing::info!(differences = drift.len(), "read routes again after a loss");
            }
        }
        Ok(())
    }
}

fn settle(op: &Op, outcome: Outcome) -> Result<(), crate::rtnl::Refusal> {
    match outcome {
        Ok(_) => Ok(()),
        // Gone already, with its interface or by another's hand.
        Err(refusal)
            if matches!(op, Op::Remove(_))
                && matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV) =>
        {
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

fn explain(op: &Op, refusal: &crate::rtnl::Refusal) -> String {
    match op {
        Op::Add(_) if refusal.errno == Errno::EEXIST => {
            "a route that is not ours is in its place; remove that one, or give ours another \
             metric"
                .into()
        }
        _ => refusal.to_string(),
    }
}
