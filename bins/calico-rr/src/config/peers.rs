//! Peers of the speaker from options of the file.

use std::net::IpAddr;
use std::time::Duration;

use calico_bgp::rib::{AddPathFamily, NextHopMode, SendPaths};
use calico_bgp::speaker::{Distance, LimitAction, Password, PeerConfig, PrefixLimit};
use calico_bgp::wire::Family;

use super::document::Located;
use super::filters::Filters;
use super::options::{Limit, Options};
use super::values::{LimitWord, NextHopWord};
use crate::watch::{Look, Seen};

/// What a peer is made with besides its options.
#[derive(Debug)]
pub(crate) struct Maker<'f> {
    /// The speaker's AS number.
    pub(crate) local_as: u32,
    pub(crate) filters: &'f Filters,
    /// Files that the peers' configuration comes from.
    pub(crate) files: Vec<Seen>,
}

impl Maker<'_> {
    /// A peer; problems are noted where they are.
    pub(crate) fn peer(&mut self, address: IpAddr, options: &Options<'_, '_>) -> PeerConfig {
        let remote_as = value(&options.as_number).unwrap_or(self.local_as);
        let mut peer = PeerConfig::new(address, remote_as);
        peer.local_as = value(&options.local_as);
        let internal = remote_as == peer.local_as.unwrap_or(self.local_as);
        for number in [&options.as_number, &options.local_as].into_iter().flatten() {
            if number.value == 0 {
                number.problem("AS 0 is reserved (RFC 7607); use 1 to 4294967295");
            }
        }
        self.session(&mut peer, options);
        self.restart(&mut peer, options);
        self.protection(&mut peer, options);
        self.routing(&mut peer, options, internal);
        peer
    }

    fn session(&self, peer: &mut PeerConfig, options: &Options<'_, '_>) {
        if let Some(port) = &options.port {
            if port.value == 0 {
                port.problem("nobody listens on port 0; use 179 or another");
            }
            peer.port = port.value;
        }
        if let Some(source) = &options.source {
            if source.value.is_ipv4() != peer.address.is_ipv4() {
                let family = if peer.address.is_ipv4() { "IPv4" } else { "IPv6" };
                source.problem(format!("the neighbor has an {family} address; use another"));
            }
            peer.local_address = Some(source.value);
        }
        peer.passive = value(&options.passive).unwrap_or_default();
        if let Some(hold_time) = &options.hold_time {
            if matches!(hold_time.value, 1 | 2) {
                hold_time.problem("use 0 (off), or 3 and more (RFC 4271, section 4.2)");
            }
            peer.hold_time = hold_time.value;
        }
        if let Some(keepalive) = &options.keepalive_time {
            if keepalive.value == 0 || peer.hold_time > 0 && keepalive.value > peer.hold_time / 3 {
                keepalive.problem(format!(
                    "use 1 to a third of hold_time ({})",
                    (peer.hold_time / 3).max(1)
                ));
            }
            peer.keepalive_time = Some(keepalive.value);
        }
        if let Some(retry) = &options.connect_retry {
            if retry.value == 0 {
                retry.problem("use 1 and more");
            }
            peer.connect_retry = Duration::from_secs(retry.value.into());
        }
        if let Some(families) = &options.families {
            if families.value.is_empty() {
                families.problem("a session without any carries nothing; write [\"ipv4\"]");
            }
            let mut seen: Vec<Family> = Vec::new();
            for family in &families.value {
                if seen.contains(&family.value) {
                    family.problem("is there twice; leave it out");
                }
                seen.push(family.value);
            }
            peer.families = seen;
        }
        if let Some(extended) = &options.extended_next_hop {
            peer.extended_next_hop = extended.value;
        }
        if let Some(several) = &options.add_path {
            let receive = several.receive.as_ref().map_or(0, |receive| receive.value);
            let family = |family| AddPathFamily { family, receive, send: several.send };
            peer.add_path = peer.effective_families().into_iter().map(family).collect();
            // None at all is what a speaker without ADD-PATH has.
            peer.add_path.retain(|f| f.receive > 0 || f.send != SendPaths::Best);
        }
        peer.interface = options.interface.as_ref().map(|name| name.value.to_string().into());
    }

    fn restart(&self, peer: &mut PeerConfig, options: &Options<'_, '_>) {
        if let Some(time) = &options.restart_time {
            if time.value > 0x0FFF {
                time.problem("use at most 4095 (RFC 4724, section 3)");
            }
            peer.graceful_restart = (time.value > 0).then_some(time.value);
        }
        if let Some(time) = options.long_lived_time.as_ref().filter(|time| time.value > 0) {
            if time.value > 0x00FF_FFFF {
                time.problem("use at most 16777215 (RFC 9494, section 3)");
            }
            if peer.graceful_restart.is_none() {
                time.problem("needs graceful restart; set restart_time to more than 0");
            }
            peer.long_lived = Some(time.value);
        }
        if let Some(max) = &options.long_lived_max {
            peer.long_lived_max = Duration::from_secs(max.value.into());
        }
    }

    fn protection(&mut self, peer: &mut PeerConfig, options: &Options<'_, '_>) {
        peer.password = match (&options.password, &options.password_file) {
            (Some(_), Some(file)) => {
                file.problem("there is a password, too; leave one of them out");
                None
            }
            (Some(inline), None) => password(inline, &inline.value),
            (None, Some(file)) => {
                self.files.push((file.value.clone(), Look::at(&file.value)));
                match std::fs::read_to_string(&file.value) {
                    // Editors end a file with a new line.
                    Ok(text) => password(file, text.strip_suffix('\n').unwrap_or(&text)),
                    Err(error) => {
                        file.problem(format!("cannot read {}: {error}", file.value.display()));
                        None
                    }
                }
            }
            (None, None) => None,
        };
        for hops in [&options.multihop, &options.ttl_security].into_iter().flatten() {
            if hops.value == 0 {
                hops.problem("a peer is at least 1 hop away");
            }
        }
        peer.distance = match (&options.multihop, &options.ttl_security) {
            (Some(_), Some(secured)) => {
                secured.problem("there is multihop, too; leave one of them out");
                Distance::Anywhere
            }
            (Some(hops), None) => Distance::Hops(hops.value),
            (None, Some(hops)) => Distance::Secured(hops.value),
            (None, None) => Distance::Anywhere,
        };
        peer.prefix_limit = options.prefix_limit.as_ref().map(limit);
    }

    fn routing(&self, peer: &mut PeerConfig, options: &Options<'_, '_>, internal: bool) {
        peer.rr_client = value(&options.client).unwrap_or(internal);
        if let Some(client) = options.client.as_ref().filter(|c| c.value && !internal) {
            client.problem("only a neighbor in our own AS can be a client (RFC 4456)");
        }
        peer.cluster_id = value(&options.cluster_id);
        if let Some(cluster) = options.cluster_id.as_ref().filter(|_| !peer.rr_client) {
            cluster.problem("says which cluster a client is in, and this is none; leave it out");
        }
        peer.enforce_first_as = value(&options.enforce_first_as).unwrap_or_default();
        peer.graceful_shutdown = value(&options.graceful_shutdown).unwrap_or_default();
        if let Some(honor) = &options.honor_graceful_shutdown {
            peer.honor_graceful_shutdown = honor.value;
        }
        peer.next_hop = match value(&options.next_hop).unwrap_or(NextHopWord::Auto) {
            NextHopWord::Auto => match &options.next_hop_subnet {
                Some(subnet) => NextHopMode::AutoOnSubnet(subnet.value),
                None => NextHopMode::Auto,
            },
            NextHopWord::Own => NextHopMode::OwnAddress,
            NextHopWord::OwnAlways => NextHopMode::OwnAddressAlways,
            NextHopWord::Keep => NextHopMode::Keep,
        };
        let auto = matches!(peer.next_hop, NextHopMode::Auto | NextHopMode::AutoOnSubnet(_));
        if let Some(subnet) = options.next_hop_subnet.as_ref().filter(|_| !auto) {
            subnet.problem("says nothing unless next_hop is \"auto\"; leave one of them out");
        }
        peer.local_as_mode = value(&options.local_as_mode).unwrap_or_default();
        peer.local_as_prepend = value(&options.local_as_prepend).unwrap_or_default();
        if peer.local_as.is_none() {
            const WHY: &str = "says how local_as is shown; add local_as, or leave it out";
            options.local_as_mode.iter().for_each(|mode| mode.problem(WHY));
            options.local_as_prepend.iter().for_each(|prepend| prepend.problem(WHY));
        }
        peer.allow_own_as = value(&options.allow_own_as).unwrap_or_default();
        peer.override_as = value(&options.override_as).unwrap_or_default();
        peer.private_as = value(&options.private_as).unwrap_or_default();
        peer.role = value(&options.role);
        peer.strict_role = value(&options.strict_role).unwrap_or_default();
        if let Some(role) = options.role.as_ref().filter(|_| internal) {
            role.problem("only neighbors in other ASs have roles (RFC 9234); leave it out");
        }
        if let Some(strict) =
            options.strict_role.as_ref().filter(|s| s.value && peer.role.is_none())
        {
            strict.problem("needs a role; add role, or leave it out");
        }
        peer.import = self.filters.policy(options.import.as_ref());
        peer.export = self.filters.policy(options.export.as_ref());
    }
}

fn value<T: Copy>(option: &Option<Located<'_, '_, T>>) -> Option<T> {
    option.as_ref().map(|found| found.value)
}

fn password<T>(place: &Located<'_, '_, T>, text: &str) -> Option<Password> {
    match Password::new(text) {
        Ok(password) => Some(password),
        Err(error) => {
            place.problem(error.to_string());
            None
        }
    }
}

fn limit(limit: &Limit<'_, '_>) -> PrefixLimit {
    let max = limit.max.value as usize;
    let mut made = PrefixLimit::new(max);
    if let Some(warn_at) = &limit.warn_at {
        if warn_at.value > limit.max.value {
            warn_at.problem(format!("is above max; use at most {max}"));
        }
        made.warn_at = warn_at.value as usize;
    }
    if let Some(LimitWord::Warn) = value(&limit.action) {
        made.action = LimitAction::Warn;
        if let Some(idle) = &limit.idle {
            idle.problem("a session that goes on is not idle; leave it out, or cease");
        }
    } else if let Some(idle) = &limit.idle {
        made.action = LimitAction::Cease { idle: Duration::from_secs(idle.value.into()) };
    }
    made
}
