//! What does the configuration say now? It is one value, which a reload replaces as a whole.
//! Connections that fit the new one notice nothing. The others get a Close.

use crate::config::settings::ServerSettings;
use crate::os::log;
use crate::protocol::handshake::Offer;
use crate::protocol::limits::MAX_CONTENT;
use crate::tunnel::offer;
use crate::tunnel::peers::registry::{Client, Clients, Connected};
use crate::tunnel::session::receiver::close;
use crate::tunnel::wire::network_config::NetworkConfig;
use std::net::IpAddr;
use std::time::Duration;

/// The configuration that a server uses.
pub(super) struct ActiveConfig {
    pub(super) settings: ServerSettings,
    pub(super) clients: Clients,
    pub(super) offer: Offer,
}

impl ActiveConfig {
    pub(super) fn new(
        settings: ServerSettings,
        before: Option<&Clients>,
    ) -> Result<ActiveConfig, String> {
        let clients = Clients::new(before, &settings)?;
        let active = ActiveConfig {
            offer: offer(&settings.suites),
            settings,
            clients,
        };
        for client in active.clients.all() {
            // Without this check, every client would refuse the Config record each time it
            // connects.
            let config = active.config_for(client).encode();
            if config.len() > MAX_CONTENT || NetworkConfig::decode(&config).is_err() {
                return Err(
                    "too many routes or resolvers to push: at most 1000 of each, and 64 KiB in all"
                        .into(),
                );
            }
        }
        active.clients.open_states()?;
        Ok(active)
    }

    pub(super) fn config_for(&self, client: &Client) -> NetworkConfig {
        NetworkConfig {
            addresses: client.addresses.clone(),
            server: self
                .settings
                .addresses
                .iter()
                .map(|own| own.address)
                .collect(),
            mtu: self.settings.mtu,
            routes: self.settings.push_routes.clone(),
            dns: self.settings.push_dns.clone(),
            keepalive: Duration::from_secs(self.settings.keepalive.into()),
        }
    }

    /// Ends a connection that an older configuration has made, unless it fits this one as well. Its
    /// key must still belong to a client, and its Config record must be the same.
    ///
    /// # Errors
    /// The code of the Close.
    pub(super) fn revalidate(
        &self,
        then: &ActiveConfig,
        client: &Client,
        connection: &Connected,
    ) -> Result<(), u8> {
        let (code, words) = match self.clients.holder(client, &connection.key) {
            Some(now)
                if now.name == client.name && self.config_for(now) == then.config_for(client) =>
            {
                return Ok(());
            }
            Some(_) => (close::CONFIGURED, "the server's configuration has changed"),
            None => (close::REMOVED, "this key was removed"),
        };
        connection.sender.close(code, words);
        log::info(
            "tunnel",
            words,
            &[("client", &client.name), ("from", &connection.from)],
        );
        Err(code)
    }

    /// Whether an address is one of the server's own tunnel addresses.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.settings
            .addresses
            .iter()
            .any(|own| own.address == address)
    }
}
