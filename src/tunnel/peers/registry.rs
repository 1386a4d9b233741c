//! Who may connect, and who is connected? The server's view of its clients, made from the
//! configuration.
//!
//! ```text
//!  by id       ─> client, key    for a ClientHello: looked up, not tried one after the other
//!  by address  ─> client         for a packet: exact addresses, then networks behind clients
//! ```
//!
//! Only the client that receives an address's packets may send from that address.
//!
//! A reload makes all of this anew. A client of the same name keeps its connection, its counters
//! and the hellos that were answered. The state of a ratcheted key moves over with its file.

use crate::config::settings::{Peer, ServerSettings};
use crate::config::state_file::{self, StateFile};
use crate::os::clock::Moment;
use crate::os::lock::{Lock, Rank};
use crate::os::log::RateLimitedLog;
use crate::packet::ip;
use crate::packet::subnet::Subnet;
use crate::protocol::key_schedule::{Id, Root};
use crate::protocol::ratchet::ServerState;
use crate::tunnel::observe::counters::TrafficCounters;
use crate::tunnel::peers::address_pool::AddressPool;
use crate::tunnel::peers::ratchet_store::ServerRatchet;
use crate::tunnel::session::sender::SessionSender;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Lines in the log that a client can cause by connecting again and again, in each interval.
const LINES: u32 = 20;
/// That interval.
const LINES_INTERVAL: Duration = Duration::from_secs(10);
/// The number of answered hellos that are remembered for each client.
const REMEMBERED: usize = 64;

/// A configured client, connected or not.
pub struct Client {
    /// Its name.
    pub name: String,
    /// Its tunnel addresses, with the prefix lengths of their networks.
    pub addresses: Vec<Subnet>,
    /// Networks behind it.
    pub routes: Vec<Subnet>,
    /// The networks that it may reach. `None`: all.
    allow: Option<Vec<Subnet>>,
    /// Its traffic since the server started.
    pub traffic: Arc<TrafficCounters>,
    /// For lines that it can cause at will: it fills no disk, and hides no line of another client.
    pub log: Arc<RateLimitedLog>,
    /// The file of its ratcheted key, if it has one, and the key once [`Clients::open_states`] has
    /// run.
    ratchet_file: Option<PathBuf>,
    ratchet: OnceLock<SharedRatchet>,
    state: Arc<Lock<State>>,
}

/// A ratcheted key.
type SharedRatchet = Arc<Lock<ServerRatchet>>;
/// The result of a lookup by id. It has the key, unless the ratchet has left that behind.
type Found = (SharedRatchet, Option<Arc<Root>>);

#[derive(Default)]
struct State {
    /// Nonces of hellos that were answered, the newest last.
    answered: VecDeque<[u8; 32]>,
    /// The number of handshakes begun, and that of the newest that has finished.
    begun: u64,
    finished: u64,
    connection: Option<Arc<Connected>>,
    /// The connection before that one, which may still be waiting for its end.
    replaced: Weak<SessionSender>,
}

/// A handshake that began later has finished already.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLate;

/// A client's connection.
pub struct Connected {
    /// The peer's address.
    pub from: SocketAddr,
    /// Its sender.
    pub sender: Arc<SessionSender>,
    /// The id of the key with which it was made.
    pub key: Id,
    /// When it was made.
    pub since: Moment,
}

impl Client {
    /// Makes a client. `before` has the clients until now.
    fn new(
        peer: &Peer,
        settings: &ServerSettings,
        addresses: Vec<Subnet>,
        before: &[Arc<Client>],
    ) -> Client {
        let same = before.iter().find(|client| client.name == peer.name);
        let ratcheted = before
            .iter()
            .find(|client| peer.ratchet.is_some() && client.ratchet_file == peer.ratchet);
        Client {
            name: peer.name.clone(),
            addresses,
            routes: peer.routes.clone(),
            allow: peer.allow.clone().or_else(|| settings.allow.clone()),
            traffic: same
                .map(|client| Arc::clone(&client.traffic))
                .unwrap_or_default(),
            log: match same {
                Some(client) => Arc::clone(&client.log),
                None => Arc::new(RateLimitedLog::new(LINES, LINES_INTERVAL)),
            },
            ratchet_file: peer.ratchet.clone(),
            ratchet: ratcheted
                .map(|client| client.ratchet.clone())
                .unwrap_or_default(),
            state: match same {
                Some(client) => Arc::clone(&client.state),
                None => Arc::new(Lock::new(Rank::ClientState, State::default())),
            },
        }
    }

    /// The ratcheted key, if the client has one. Opens its file if that is not open yet.
    fn open_ratchet(&self) -> Result<Option<&SharedRatchet>, String> {
        let Some(path) = &self.ratchet_file else {
            return Ok(None);
        };
        if self.ratchet.get().is_none() {
            let (file, stored) = StateFile::open(path)?;
            let ratchet = ServerRatchet::open(&stored, Box::new(file))?;
            let _ = self
                .ratchet
                .set(Arc::new(Lock::new(Rank::ServerRatchet, ratchet)));
        }
        let ratchet = self.ratchet.get();
        if let Some(ratchet) = ratchet
            && let Some(stored) = state_file::new_key(path)?
        {
            ratchet.lock().reset(&stored)?;
            state_file::forget_new_key(path);
        }
        Ok(ratchet)
    }

    /// Whether the client may reach this address, by `allow`. Everything that a client reaches by
    /// the server has to pass this, whatever carries it.
    pub fn may_reach(&self, destination: IpAddr) -> bool {
        let listed = |allow: &Vec<Subnet>| allow.iter().any(|own| own.contains(destination));
        self.allow.as_ref().is_none_or(listed)
    }

    /// Numbers a handshake whose hello is about to be answered, or `None` if its nonce was answered
    /// before.
    pub fn begin(&self, nonce: &[u8; 32]) -> Option<u64> {
        let mut state = self.state.lock();
        if state.answered.contains(nonce) {
            return None;
        }
        if state.answered.len() == REMEMBERED {
            state.answered.pop_front();
        }
        state.answered.push_back(*nonce);
        state.begun += 1;
        Some(state.begun)
    }

    /// Registers a connection whose handshake has finished. Returns the one that it replaces. Only
    /// one replaced connection may wait until its peer hangs up. So a client that connects again
    /// and again has two connections, not hundreds.
    ///
    /// # Errors
    /// [`TooLate`], and nothing has changed.
    pub fn connect(
        &self,
        number: u64,
        connection: &Arc<Connected>,
    ) -> Result<Option<Arc<Connected>>, TooLate> {
        let mut state = self.state.lock();
        if number <= state.finished {
            return Err(TooLate);
        }
        state.finished = number;
        let replaced = state.connection.replace(Arc::clone(connection));
        let Some(replaced) = replaced else {
            return Ok(None);
        };
        let earlier = std::mem::replace(&mut state.replaced, Arc::downgrade(&replaced.sender));
        drop(state);
        if let Some(earlier) = earlier.upgrade() {
            earlier.abort();
        }
        Ok(Some(replaced))
    }

    /// Forgets a connection that has ended, unless a newer one has taken its place.
    pub fn disconnect(&self, connection: &Arc<Connected>) {
        let mut state = self.state.lock();
        let current = state.connection.as_ref();
        if current.is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.connection = None;
        }
    }

    /// The connection, if there is one.
    pub fn connection(&self) -> Option<Arc<Connected>> {
        self.state.lock().connection.clone()
    }

    /// Its sender, if it is connected.
    pub fn sender(&self) -> Option<Arc<SessionSender>> {
        self.state
            .lock()
            .connection
            .as_ref()
            .map(|connected| Arc::clone(&connected.sender))
    }

    /// The step of its ratcheted key. `None` if it has none, or if its next step just waits for the
    /// disk.
    pub fn step(&self) -> Option<u64> {
        let ratchet = self.ratchet.get()?.try_lock()?;
        Some(ratchet.step())
    }
}

/// All clients of a configuration.
pub struct Clients {
    all: Vec<Arc<Client>>,
    by_id: HashMap<Id, (Arc<Client>, Root)>,
    /// The same for ratcheted keys, whose ids change. The clients before a reload share it, because
    /// a handshake may still use them. The keys are here as well, so that a stranger never waits
    /// for another client's disk.
    ratcheted: Arc<Lock<HashMap<Id, Found>>>,
    by_address: HashMap<IpAddr, Arc<Client>>,
    networks: Vec<(Subnet, Arc<Client>)>,
    /// The tunnel's own networks.
    tunnel: Vec<Subnet>,
}

impl Clients {
    /// Makes clients of the configuration's peers, and leases their addresses. They take over
    /// counters, connections and ratcheted keys from those `before` a reload.
    ///
    /// # Errors
    /// Fails if settings contradict each other, or no address is left.
    pub fn new(before: Option<&Clients>, settings: &ServerSettings) -> Result<Clients, String> {
        settings.consistent()?;
        let mut pool = AddressPool::new(&settings.addresses);
        // Fixed addresses come first, so that no lease takes them.
        let fixed: Vec<Vec<Subnet>> = settings
            .peers
            .iter()
            .map(|peer| {
                peer.addresses
                    .iter()
                    .filter_map(|own| pool.take(*own))
                    .collect()
            })
            .collect();
        let mut clients = Clients {
            all: Vec::new(),
            by_id: HashMap::new(),
            ratcheted: match before {
                Some(before) => Arc::clone(&before.ratcheted),
                None => Arc::new(Lock::new(Rank::RatchetIds, HashMap::new())),
            },
            by_address: HashMap::new(),
            networks: Vec::new(),
            tunnel: settings.addresses.clone(),
        };
        for (peer, mut addresses) in settings.peers.iter().zip(fixed) {
            addresses.extend(pool.lease(&peer.name, &addresses)?);
            let before = before.map_or(&[][..], Clients::all);
            clients.add(
                peer,
                Arc::new(Client::new(peer, settings, addresses, before)),
            );
        }
        // The longest prefix comes first, so that the first network that contains an address is the
        // right one.
        clients
            .networks
            .sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix));
        Ok(clients)
    }

    fn add(&mut self, peer: &Peer, client: Arc<Client>) {
        for key in &peer.keys {
            let root = Root::new(key.clone());
            self.by_id.insert(root.id(), (Arc::clone(&client), root));
        }
        for subnet in &client.addresses {
            self.by_address.insert(subnet.address, Arc::clone(&client));
        }
        self.networks.extend(
            client
                .routes
                .iter()
                .map(|network| (*network, Arc::clone(&client))),
        );
        self.all.push(client);
    }

    /// Opens and locks the state files of new ratcheted keys. The locks last until the clients are
    /// dropped.
    ///
    /// # Errors
    /// Fails if a file cannot be locked, read or written, or two clients have one key.
    pub fn open_states(&self) -> Result<(), String> {
        let mut seen: HashMap<Id, &Client> = HashMap::new();
        for client in &self.all {
            let Some(ratchet) = client.open_ratchet()? else {
                continue;
            };
            let ids = ratchet.lock().ids();
            for id in ids {
                let other = match seen.insert(id, client) {
                    Some(other) => Some(other),
                    None => self.by_id.get(&id).map(|(other, _)| &**other),
                };
                if let Some(other) = other.filter(|other| other.name != client.name) {
                    return Err(format!(
                        "{} and {} have the same key; each client needs its own",
                        other.name, client.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// From now on, ids only find the ratcheted keys of these clients.
    pub fn publish_ids(&self) {
        let mut own = HashSet::new();
        for ratchet in self.all.iter().filter_map(|client| client.ratchet.get()) {
            own.insert(Arc::as_ptr(ratchet));
            let keys = keyed(ratchet, &ratchet.lock());
            self.ratcheted.lock().extend(keys);
        }
        self.ratcheted
            .lock()
            .retain(|_, (ratchet, _)| own.contains(&Arc::as_ptr(ratchet)));
    }

    fn with_ratchet(&self, ratchet: &SharedRatchet) -> Option<&Arc<Client>> {
        self.all.iter().find(|client| {
            client
                .ratchet
                .get()
                .is_some_and(|own| Arc::ptr_eq(own, ratchet))
        })
    }

    /// All clients, in the configuration's order.
    pub fn all(&self) -> &[Arc<Client>] {
        &self.all
    }

    /// The client that a ClientHello's id names. It comes with its key, unless the ratchet has left
    /// that behind.
    pub fn by_id(&self, id: &Id) -> Option<(Arc<Client>, Option<Root>)> {
        if let Some((client, root)) = self.by_id.get(id) {
            return Some((Arc::clone(client), Some(root.clone())));
        }
        let (ratchet, root) = self.ratcheted.lock().get(id).cloned()?;
        self.with_ratchet(&ratchet)
            .map(|client| (Arc::clone(client), root.map(|root| (*root).clone())))
    }

    /// The client to which the key of a connection belongs now. `then` is the client when the
    /// connection was made.
    pub fn holder(&self, then: &Client, key: &Id) -> Option<&Arc<Client>> {
        match then.ratchet.get() {
            Some(ratchet) if ratchet.lock().ids().contains(key) => self.with_ratchet(ratchet),
            Some(_) => None,
            None => self.by_id.get(key).map(|(client, _)| client),
        }
    }

    /// The state of a ratcheted key that answers an authentic hello with this id. It is `None` for
    /// a static key.
    ///
    /// # Errors
    /// Fails if the hello must not be answered.
    pub fn sync_ratchet(
        &self,
        client: &Arc<Client>,
        id: Id,
    ) -> Result<Option<ServerState>, String> {
        let Some(shared) = client.ratchet.get() else {
            return Ok(None);
        };
        let mut ratchet = shared.lock();
        let before = ratchet.ids();
        let state = ratchet.sync(id)?;
        self.update_ids(&before, shared, &ratchet);
        Ok(Some(state))
    }

    /// Moves a ratcheted key on, because Finished at this step has verified. A static key stays.
    ///
    /// # Errors
    /// Fails if config must not be sent.
    pub fn advance_ratchet(&self, client: &Arc<Client>, step: Option<u64>) -> Result<(), String> {
        let (Some(shared), Some(step)) = (client.ratchet.get(), step) else {
            return Ok(());
        };
        let mut ratchet = shared.lock();
        let before = ratchet.ids();
        ratchet.finish(step)?;
        self.update_ids(&before, shared, &ratchet);
        Ok(())
    }

    /// Replaces the ids that a ratcheted key had `before` by those that it has `now`. If a reload
    /// has removed the client meanwhile, no ids come back.
    fn update_ids(&self, before: &[Id], shared: &SharedRatchet, now: &ServerRatchet) {
        let mut ratcheted = self.ratcheted.lock();
        let mut known = false;
        for id in before {
            known |= ratcheted.remove(id).is_some();
        }
        if known {
            ratcheted.extend(keyed(shared, now));
        }
    }

    /// The client that receives packets for this address. Inside the tunnel's networks, only the
    /// client with exactly this address counts. A network behind a client, even 0.0.0.0/0, does not
    /// get the server's addresses, free ones, or those that no host can have.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Client>> {
        self.by_address.get(&address).or_else(|| {
            let behind = self
                .networks
                .iter()
                .find(|(network, _)| network.contains(address));
            behind
                .filter(|_| ip::one_host(address) && !self.is_inside(address))
                .map(|(_, client)| client)
        })
    }

    /// The client as this configuration has it, if a packet with this source may come from it.
    pub fn sender_of(&self, client: &Client, source: IpAddr) -> Option<&Arc<Client>> {
        self.owner(source).filter(|owner| owner.name == client.name)
    }

    /// Whether an address belongs to the tunnel's networks, and so never to the network behind the
    /// device.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.tunnel.iter().any(|own| own.contains(address))
    }
}

/// The ids by which a ratcheted key is found, each with its key.
fn keyed(ratchet: &SharedRatchet, now: &ServerRatchet) -> Vec<(Id, Found)> {
    now.keys()
        .map(|(id, root)| (id, (Arc::clone(ratchet), root.map(Arc::new))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fernet::Key;

    fn peer(name: &str, key: u8) -> Peer {
        Peer {
            name: name.into(),
            keys: vec![Key::from_bytes(&[key; 32])],
            addresses: vec![],
            routes: vec![],
            allow: None,
            ratchet: None,
        }
    }

    fn clients(peers: Vec<Peer>) -> Result<Clients, String> {
        Clients::new(
            None,
            &ServerSettings {
                peers,
                ..ServerSettings::default()
            },
        )
    }

    #[test]
    fn the_owner_of_an_address() {
        let mut alice = peer("alice", 1);
        alice.addresses = vec!["10.8.0.2".parse().unwrap()];
        alice.routes = vec!["192.168.0.0/16".parse().unwrap()];
        let mut bob = peer("bob", 2);
        bob.routes = vec!["192.168.7.0/24".parse().unwrap()];
        let clients = clients(vec![alice, bob]).unwrap();
        let owner = |text: &str| {
            clients
                .owner(text.parse().unwrap())
                .map(|client| client.name.as_str())
        };
        assert_eq!(owner("10.8.0.2"), Some("alice"));
        assert_eq!(owner("192.168.1.1"), Some("alice"));
        assert_eq!(owner("192.168.7.1"), Some("bob"), "the longest prefix");
        assert_eq!(owner("10.8.0.1"), None, "the server's own");
        assert_eq!(owner("8.8.8.8"), None);
        let alice = &clients.all()[0];
        let may = |source: &str| (clients.sender_of(alice, source.parse().unwrap())).is_some();
        assert!(may("10.8.0.2") && may("192.168.1.1"));
        assert!(!may("10.8.0.1") && !may("8.8.8.8"));
        assert!(!may("192.168.7.1"), "bob's is the longer prefix");
        assert_eq!(alice.addresses.len(), 2, "an IPv6 address was leased");
    }

    #[test]
    fn a_network_behind_a_client_takes_nothing_of_the_tunnels() {
        let mut exit = peer("exit", 1);
        exit.routes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let mut alice = peer("alice", 2);
        alice.addresses = vec!["10.8.0.2".parse().unwrap()];
        let clients = clients(vec![exit, alice]).unwrap();
        let exit = &clients.all()[0];
        for (address, owner, from_exit) in [
            ("198.51.100.1", Some("exit"), true),
            ("2001:db8::1", Some("exit"), true),
            ("10.8.0.1", None, false),
            ("fd0f:e12e::1", None, false),
            ("10.8.0.2", Some("alice"), false),
            ("10.8.0.255", None, false),
            ("127.0.0.1", None, false),
            ("ff02::1", None, false),
            ("fe80::1", None, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                clients.owner(address).map(|client| client.name.as_str()),
                owner,
                "{address}"
            );
            let may = clients.sender_of(exit, address).is_some();
            assert_eq!(may, from_exit, "{address}");
        }
    }

    #[test]
    fn one_key_name_or_address_for_two_is_refused() {
        let error = |peers| clients(peers).err().unwrap();
        assert!(error(vec![peer("a", 1), peer("b", 1)]).contains("a has the same key"));
        assert!(error(vec![peer("a", 1), peer("a", 2)]).contains("two peers are called a"));
        let with_address = |name, key| Peer {
            addresses: vec!["10.8.0.9".parse().unwrap()],
            ..peer(name, key)
        };
        assert!(error(vec![with_address("a", 1), with_address("b", 2)]).contains("taken"));
    }

    #[test]
    fn hellos_are_answered_once_while_they_are_remembered() {
        let clients = clients(vec![peer("a", 1)]).unwrap();
        let client = &clients.all()[0];
        assert_eq!(client.begin(&[0; 32]), Some(1));
        assert_eq!(client.begin(&[0; 32]), None);
        for n in 1..=64 {
            assert_eq!(client.begin(&[n; 32]), Some(u64::from(n) + 1));
        }
        assert_eq!(client.begin(&[0; 32]), Some(66), "forgotten by now");
        assert_eq!(client.begin(&[64; 32]), None);
    }

    #[test]
    fn a_client_has_its_share_of_the_log_whatever_others_do_and_a_reload() {
        let settings = ServerSettings {
            peers: vec![peer("a", 1), peer("b", 2)],
            ..ServerSettings::default()
        };
        let before = Clients::new(None, &settings).unwrap();
        let now = std::time::Instant::now();
        let lines = |client: &Client| {
            (0..100)
                .filter(|_| client.log.permit(now).is_some())
                .count()
        };
        assert_eq!(lines(&before.all()[0]), LINES as usize);
        let after = Clients::new(Some(&before), &settings).unwrap();
        assert_eq!(lines(&after.all()[0]), 0, "a reload gives no new ones");
        assert_eq!(lines(&after.all()[1]), LINES as usize);
    }
}
