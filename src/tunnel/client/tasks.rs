//! What does the command line ask for once there is a connection? It can send a message, and ping
//! through the tunnel.

use super::state::{Client, Reply};
use crate::os::log::{self, printable};
use crate::packet::icmp;
use crate::protocol::record::RecordType;
use crate::tunnel::session::sender::SessionSender;
use crate::tunnel::wire::network_config::{NetworkConfig, listed};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long an answer to a Message or a ping through the tunnel may take.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// How long after a ping the next one follows.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The most replies that wait. Further replies of a server are dropped.
const MAX_REPLIES: usize = 16;

impl Client {
    /// Starts the thread that does the command line's tasks.
    pub(super) fn start_tasks(
        self: &Arc<Client>,
        sender: &Arc<SessionSender>,
        config: &NetworkConfig,
    ) -> io::Result<()> {
        if self.settings.send.is_none() && self.settings.pings.is_none() {
            return Ok(());
        }
        let client = Arc::clone(self);
        let sender = Arc::clone(sender);
        let config = config.clone();
        let (answers, replies) = mpsc::sync_channel(MAX_REPLIES);
        *self.replies.lock() = Some(answers);
        thread::Builder::new()
            .name("tasks".into())
            .spawn(move || client.run_tasks(&sender, &config, &replies))
            .map(drop)
    }

    /// Tells the server which of its networks this machine has on another link as well, because
    /// only the server's administrator can choose another one. It hears nothing else of this
    /// machine. A message of the command line's comes alone, as the first answer is its own.
    pub(super) fn report_overlaps(&self, sender: &Arc<SessionSender>, config: &NetworkConfig) {
        let overlaps = self.settings.overlaps(&config.addresses, &[]);
        let mut networks: Vec<_> = overlaps
            .iter()
            .filter(|it| !it.is_route)
            .map(|it| it.network)
            .collect();
        networks.dedup();
        if networks.is_empty() || self.settings.send.is_some() {
            return;
        }
        let text = format!(
            "warning: the client has the tunnel's network {} on another link as well, and packets \
             go to only one of the two. Try: another `address` for the server",
            listed(&networks)
        );
        sender.send(RecordType::Message, text.as_bytes());
    }

    /// The body of that thread.
    fn run_tasks(
        &self,
        sender: &Arc<SessionSender>,
        config: &NetworkConfig,
        replies: &Receiver<Reply>,
    ) {
        let done = self
            .send_message(sender, replies)
            .and_then(|()| self.ping(sender, config, replies));
        self.expects_reply.store(false, Ordering::Relaxed);
        if let Err(reason) = &done {
            log::error("tunnel", reason, &[]);
        }
        match done {
            _ if !self.settings.once && self.is_stopped() => {}
            _ if !self.settings.once => log::info("tunnel", "staying connected until Ctrl-C", &[]),
            Ok(()) => self.stop(),
            Err(_) => self.fail("not all replies came".into()),
        }
    }

    fn send_message(
        &self,
        sender: &Arc<SessionSender>,
        replies: &Receiver<Reply>,
    ) -> Result<(), String> {
        let Some(text) = &self.settings.send else {
            return Ok(());
        };
        sender.send(RecordType::Message, text.as_bytes());
        let answer = wait_for(replies, |reply| match reply {
            Reply::Message(answer) => Some(answer),
            Reply::Echo { .. } => None,
        });
        let answer = answer
            .ok_or_else(|| format!("no answer to the message within {} s", REPLY_TIME.as_secs()))?;
        print(&printable(&answer));
        Ok(())
    }

    /// Pings the server through the tunnel once a second, and prints the replies.
    fn ping(
        &self,
        sender: &Arc<SessionSender>,
        config: &NetworkConfig,
        replies: &Receiver<Reply>,
    ) -> Result<(), String> {
        let Some(count) = self.settings.pings else {
            return Ok(());
        };
        let (own, to) = ends_to_ping(config).ok_or("no tunnel address of the server to ping")?;
        self.expects_reply.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for due in 1..=u16::try_from(count).unwrap_or(u16::MAX) {
            if due > 1 && self.sleep(PING_INTERVAL) {
                break;
            }
            let mut packet = Vec::new();
            icmp::echo_request(
                own,
                to,
                self.identifier,
                due,
                b"fernvpn through the tunnel",
                &mut packet,
            );
            let sent = Instant::now();
            sender.queue_packet(&packet);
            sender.send_all();
            let is_due =
                |reply| matches!(reply, Reply::Echo { sequence } if sequence == due).then_some(());
            if wait_for(replies, is_due).is_some() {
                let time = sent.elapsed().as_secs_f64() * 1e3;
                print(&format!("reply from {to}: seq={due} time={time:.3} ms"));
                times.push(time);
            } else {
                print(&format!("no reply from {to}: seq={due}"));
            }
        }
        let received = times.len();
        if received == 0 {
            return Err(format!(
                "{count} pings sent through the tunnel, none answered"
            ));
        }
        let least = times.iter().copied().fold(f64::MAX, f64::min);
        let most = times.iter().copied().fold(0.0, f64::max);
        let average = times.iter().sum::<f64>() / times.len() as f64;
        print(&format!(
            "{count} pings, {received} replies, min/avg/max {least:.3}/{average:.3}/{most:.3} ms"
        ));
        Ok(())
    }
}

/// This end's address and the server's, of the same family.
fn ends_to_ping(config: &NetworkConfig) -> Option<(IpAddr, IpAddr)> {
    for own in &config.addresses {
        for server in &config.server {
            if own.address.is_ipv4() == server.is_ipv4() {
                return Some((own.address, *server));
            }
        }
    }
    None
}

/// Prints a line on stdout. A closed stdout is no reason to stop.
pub(super) fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Waits for the first reply of which `wanted` returns something, at most until the deadline.
fn wait_for<T>(replies: &Receiver<Reply>, wanted: impl Fn(Reply) -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + REPLY_TIME;
    loop {
        let reply = replies
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()?;
        if let Some(found) = wanted(reply) {
            return Some(found);
        }
    }
}
