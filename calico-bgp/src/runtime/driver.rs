//! The task that owns the speaker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connection::{AbortOnDrop, Connection, Input, Up, connect, secure};
use super::handle::{Command, Shutdown, Subscribers};
use super::listener::{Accepted, Passwords, accept_all};
use super::subscription::Shared;
use crate::session::State;
use crate::speaker::{ConnectionId, Speaker, SpeakerAction, SpeakerEvent};

/// Reads and reports that wait while the speaker is busy.
const INPUT_QUEUE: usize = 128;
/// Connections that wait to be looked at.
const ACCEPT_QUEUE: usize = 8;
/// Inputs worked off at once.
const INPUT_BATCH: usize = 64;
/// Longest time in which inputs are taken in before output is looked at.
const INPUT_TIME: Duration = Duration::from_millis(10);
/// Longest wait without any deadline.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Driver {
    speaker: Speaker,
    connections: HashMap<ConnectionId, Connection>,
    commands: mpsc::Receiver<Command>,
    accepted: mpsc::Receiver<Accepted>,
    inputs: mpsc::Receiver<Input>,
    input: mpsc::Sender<Input>,
    new_subscribers: Arc<Subscribers>,
    subscribers: Vec<Arc<Shared>>,
    /// Writers with last words to say.
    closing: Vec<JoinHandle<()>>,
    listeners: Vec<(AbortOnDrop, JoinHandle<()>)>,
    passwords: Passwords,
}

impl Driver {
    pub(super) fn new(
        speaker: Speaker,
        listeners: Vec<TcpListener>,
        commands: mpsc::Receiver<Command>,
        new_subscribers: Arc<Subscribers>,
    ) -> Self {
        let (input, inputs) = mpsc::channel(INPUT_QUEUE);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        let passwords = Passwords::new(listeners.clone());
        let listeners = listeners
            .into_iter()
            .map(|l| {
                let task = tokio::spawn(accept_all(l, accept.clone()));
                (AbortOnDrop::new(&task), task)
            })
            .collect();
        let mut speaker = speaker;
        speaker.set_following(false);
        Self {
            speaker,
            connections: HashMap::new(),
            commands,
            accepted,
            inputs,
            input,
            new_subscribers,
            subscribers: Vec::new(),
            closing: Vec::new(),
            listeners,
            passwords,
        }
    }

    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(INPUT_BATCH);
        let stopped = loop {
            self.pump();
            let deadline = self.speaker.poll_timeout();
            let sleep =
                deadline.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()).min(IDLE));
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(how, reply)) => break Some((how, reply)),
                    Some(command) => self.obey(command),
                    None => break None,
                },
                Some(accepted) = self.accepted.recv() => self.accept(accepted),
                _ = self.inputs.recv_many(&mut batch, INPUT_BATCH) => {
                    self.take_all(&mut batch).await;
                }
                () = self.new_subscribers.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
            let now = Instant::now();
            if self.speaker.poll_timeout().is_some_and(|at| at <= now) {
                self.speaker.handle_timeout(now);
            }
        };
        let (how, reply) = match stopped {
            Some((how, reply)) => (how, Some(reply)),
            None => (Shutdown::Cease(String::new()), None),
        };
        self.stop(how).await;
        drop(self);
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            let _ = reply.send(());
        }
    }

    async fn stop(&mut self, how: Shutdown) {
        let text = match &how {
            Shutdown::Cease(text) => Some(text.as_str()),
            Shutdown::GracefulRestart => None,
        };
        self.speaker.shutdown(Instant::now(), text);
        self.pump();
        self.connections.clear();
        // Whoever asked for the end may want to listen on the same port next.
        for (abort, task) in self.listeners.drain(..) {
            drop(abort);
            let _ = task.await;
        }
        // Each ends within the time for last words, and they run side by side.
        for writer in self.closing.drain(..) {
            let _ = writer.await;
        }
    }

    /// Does all that the speaker wants done now.
    fn pump(&mut self) {
        for shared in self.new_subscribers.take() {
            self.speaker.set_following(true);
            if self.speaker.is_converged() {
                // What changed before it came is in the listing.
                self.publish();
                shared.open(self.speaker.best_routes());
            }
            self.subscribers.push(shared);
        }
        loop {
            while let Some(action) = self.speaker.poll_action() {
                match action {
                    SpeakerAction::Connect { id, remote, local, transport } => {
                        let connection = connect(id, remote, local, transport, &self.input);
                        self.connections.insert(id, connection);
                    }
                    SpeakerAction::Close { id, last } => self.close(id, last),
                }
            }
            // A connection that turns out to be gone leads to more actions.
            let Some(id) = self.speaker.poll_writable() else { break };
            self.transmit(id);
        }
        self.publish();
    }

    /// Writes as much as the kernel takes.
    fn transmit(&mut self, id: ConnectionId) {
        let Some(Connection::Up(up)) = self.connections.get_mut(&id) else { return };
        if let Err(e) = up.write(|| self.speaker.poll_written(id)) {
            self.connections.remove(&id);
            self.speaker.handle_closed(Instant::now(), id, &e.to_string());
        }
    }

    fn close(&mut self, id: ConnectionId, last: Bytes) {
        if let Some(Connection::Up(up)) = self.connections.remove(&id) {
            self.closing.retain(|w| !w.is_finished());
            self.closing.push(up.close(last));
        }
    }

    fn publish(&mut self) {
        while let Some(event) = self.speaker.poll_event() {
            log(&event);
            match event {
                SpeakerEvent::RouteChanged { prefix, route } => {
                    // A subscription that was dropped is held by nobody but this list.
                    self.subscribers.retain(|s| Arc::strong_count(s) > 1);
                    if self.subscribers.is_empty() {
                        self.speaker.set_following(false);
                    }
                    self.subscribers.iter().for_each(|s| s.change(prefix, route.as_ref()));
                }
                SpeakerEvent::Converged => {
                    self.subscribers.iter().for_each(|s| s.open(self.speaker.best_routes()));
                }
                _ => {}
            }
        }
    }

    fn accept(&mut self, Accepted { stream, remote }: Accepted) {
        let now = Instant::now();
        let accepted = stream.local_addr().map_err(|e| e.to_string()).and_then(|local| {
            self.speaker.handle_accepted(now, remote, local).map_err(|e| e.to_string())
        });
        match accepted {
            Ok(id) => {
                // A connection that came before its peer was configured has none of it yet.
                let address = remote.ip().to_canonical();
                let transport = self.speaker.transport(id.peer).unwrap_or_default();
                match secure(&stream, address.is_ipv6(), remote.is_ipv6(), address, &transport) {
                    Ok(()) => {
                        let up = Up::start(id, stream, &self.input);
                        self.connections.insert(id, Connection::Up(up));
                    }
                    Err(e) => self.speaker.handle_closed(now, id, &e.to_string()),
                }
            }
            // Dropping the stream closes it. Strangers are many: this is no warning.
            Err(why) => tracing::debug!(%remote, %why, "BGP connection refused"),
        }
    }

    /// Takes in what has arrived and what arrives meanwhile, for a short time: the fewer
    /// batches, the less is written.
    async fn take_all(&mut self, batch: &mut Vec<Input>) {
        let until = Instant::now() + INPUT_TIME;
        loop {
            batch.drain(..).for_each(|input| self.take(input));
            // The readers have their turn.
            tokio::task::yield_now().await;
            while batch.len() < INPUT_BATCH
                && let Ok(input) = self.inputs.try_recv()
            {
                batch.push(input);
            }
            if batch.is_empty() {
                return;
            }
            if Instant::now() >= until {
                return batch.drain(..).for_each(|input| self.take(input));
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Connected { id, stream } => {
                if !self.connections.contains_key(&id) {
                    return;
                }
                match stream.local_addr() {
                    Ok(local) => {
                        let up = Up::start(id, stream, &self.input);
                        self.connections.insert(id, Connection::Up(up));
                        self.speaker.handle_connected(now, id, local);
                    }
                    Err(e) => {
                        self.connections.remove(&id);
                        self.speaker.handle_connect_failed(now, id, &e.to_string());
                    }
                }
            }
            Input::ConnectFailed { id, why } => {
                if self.connections.remove(&id).is_some() {
                    self.speaker.handle_connect_failed(now, id, &why);
                }
            }
            Input::Received { id, bytes } => {
                if self.connections.contains_key(&id) {
                    self.speaker.handle_bytes(now, id, &bytes);
                }
            }
            Input::Writable { id } => {
                if let Some(Connection::Up(up)) = self.connections.get_mut(&id) {
                    up.writable();
                    self.transmit(id);
                }
            }
            Input::Closed { id, why } => {
                if self.connections.remove(&id).is_some() {
                    self.speaker.handle_closed(now, id, &why);
                }
            }
        }
    }

    /// Answers that nobody waits for any more are dropped.
    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::SetPeers(peers, reply) => {
                let result = self.speaker.set_peers(now, peers);
                self.passwords.apply(&self.speaker.listen_passwords());
                let _ = reply.send(result);
            }
            Command::SetDynamic(dynamic, reply) => {
                let result = self.speaker.set_dynamic(now, dynamic);
                self.passwords.apply(&self.speaker.listen_passwords());
                let _ = reply.send(result);
            }
            Command::Refresh(peer, reply) => {
                let _ = reply.send(self.speaker.request_refresh(peer));
            }
            Command::Announce(routes, reply) => {
                let refused = routes
                    .into_iter()
                    .filter_map(|(p, a)| (!self.speaker.announce(p, a)).then_some(p));
                let _ = reply.send(refused.collect());
            }
            Command::Withdraw(prefixes, reply) => {
                for prefix in prefixes {
                    self.speaker.withdraw(prefix);
                }
                let _ = reply.send(());
            }
            Command::NextHopMetric(next_hop, metric, reply) => {
                self.speaker.set_next_hop_metric(next_hop, metric);
                let _ = reply.send(());
            }
            Command::Reset(peer, reply) => {
                let _ = reply.send(self.speaker.reset(now, peer));
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.speaker.peers().collect());
            }
            Command::Routes(Some(prefix), reply) => {
                let _ = reply.send(self.speaker.rib().route(&prefix).into_iter().collect());
            }
            Command::Routes(None, reply) => {
                let mut routes: Vec<_> = self.speaker.routes().collect();
                routes.sort_by_key(|r| r.prefix);
                let _ = reply.send(routes);
            }
            Command::RoutesWithin(prefix, reply) => {
                let mut routes: Vec<_> = self.speaker.rib().routes_within(prefix).collect();
                routes.sort_by_key(|r| r.prefix);
                let _ = reply.send(routes);
            }
            Command::Lookup(address, reply) => {
                let _ = reply.send(self.speaker.rib().lookup(address));
            }
            Command::Explain(prefix, reply) => {
                let _ = reply.send(self.speaker.rib().explain(&prefix));
            }
            Command::Received(peer, reply) => {
                let routes = self.speaker.peer_id(peer).map(|id| {
                    let mut routes = self.speaker.rib().received(id);
                    routes.sort_by_key(|r| (r.prefix, r.path_id));
                    routes
                });
                let _ = reply.send(routes);
            }
            Command::Advertised(peer, reply) => {
                let routes = self.speaker.peer_id(peer).map(|id| {
                    let mut routes = self.speaker.rib().advertised(id);
                    routes.sort_by_key(|r| (r.prefix, r.path_id));
                    routes
                });
                let _ = reply.send(routes);
            }
            Command::Inspect(look) => look(&self.speaker),
            // The loop takes this one itself.
            Command::Shutdown(..) => {}
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // In this order: a subscriber that comes too late to be taken here sees the closed queue.
        self.commands.close();
        self.subscribers.extend(self.new_subscribers.take());
        self.subscribers.iter().for_each(|s| s.close());
    }
}

fn log(event: &SpeakerEvent) {
    match event {
        SpeakerEvent::StateChanged { peer, to: State::Established, .. } => {
            tracing::info!(%peer, "BGP session established");
        }
        SpeakerEvent::StateChanged { peer, from, to } => {
            tracing::debug!(%peer, %from, %to, "BGP session state");
        }
        SpeakerEvent::SessionDown { peer, reason, routes_kept } => {
            tracing::warn!(%peer, %reason, routes_kept, "BGP session down");
        }
        SpeakerEvent::SessionFailed { peer, reason } => {
            tracing::debug!(%peer, %reason, "BGP session did not come up");
        }
        SpeakerEvent::PrefixLimit { peer, level, count, max } => {
            tracing::warn!(%peer, ?level, count, max, "BGP prefix limit");
        }
        SpeakerEvent::UpdateError { peer, error, total } => {
            tracing::warn!(%peer, %error, total, "faulty UPDATE");
        }
        SpeakerEvent::NotSent { peer, routes, error } => {
            tracing::warn!(%peer, routes, %error, "routes do not fit a message");
        }
        SpeakerEvent::Converged => tracing::info!("BGP table complete after restart"),
        SpeakerEvent::RouteChanged { .. } => {}
    }
}
