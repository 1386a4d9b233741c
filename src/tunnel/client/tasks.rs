//! What does the command line ask for once there is a connection? A message, and pings through the
//! tunnel.

use super::{Client, print};
use crate::os::log::{self, printable};
use crate::packet::icmp;
use crate::protocol::record::RecordType;
use crate::tunnel::locked;
use crate::tunnel::session::sender::SessionSender;
use crate::tunnel::wire::network_config::NetworkConfig;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long an answer to a Message or a ping through the tunnel may take.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// What is waited for.
pub(super) enum Reply {
    Message(String),
    Echo { sequence: u16 },
}

impl Client {
    /// Starts the thread that does what the command line asks for.
    pub(super) fn start_tasks(
        self: &Arc<Client>,
        sender: &Arc<SessionSender>,
        config: &NetworkConfig,
    ) -> io::Result<()> {
        if self.settings.send.is_none() && self.settings.pings.is_none() {
            return Ok(());
        }
        let (client, sender, config) = (Arc::clone(self), Arc::clone(sender), config.clone());
        let (answers, replies) = mpsc::sync_channel(16); // a server that sends more than was asked for is not listened to
        *locked(&self.replies) = Some(answers);
        let thread = thread::Builder::new().name("tasks".into());
        let started = thread.spawn(move || {
            let done = client
                .send_message(&sender, &replies)
                .and_then(|()| client.ping(&sender, &config, &replies));
            client.expects_reply.store(false, Ordering::Relaxed);
            if let Err(reason) = &done {
                log::error("tunnel", reason, &[]);
            }
            match done {
                _ if !client.settings.once && client.is_stopped() => {}
                _ if !client.settings.once => {
                    log::info("tunnel", "staying connected until Ctrl-C", &[])
                }
                Ok(()) => client.stop(),
                Err(_) => client.fail("not all replies came".into()),
            }
        });
        started.map(drop)
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

    /// Pings the server through the tunnel, once a second.
    fn ping(
        &self,
        sender: &Arc<SessionSender>,
        config: &NetworkConfig,
        replies: &Receiver<Reply>,
    ) -> Result<(), String> {
        let Some(count) = self.settings.pings else {
            return Ok(());
        };
        let pairs = config
            .addresses
            .iter()
            .flat_map(|own| config.server.iter().map(move |to| (own.address, *to)));
        let pair = pairs
            .into_iter()
            .find(|(own, to)| own.is_ipv4() == to.is_ipv4());
        let (own, to) = pair.ok_or("no tunnel address of the server to ping")?;
        self.expects_reply.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for due in 1..=u16::try_from(count).unwrap_or(u16::MAX) {
            if due > 1 && self.sleep(Duration::from_secs(1)) {
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
            sender.put(|queue| queue.push_packet(&packet));
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
        let (sent, received) = (count, times.len());
        let (least, most) = times.iter().fold((f64::MAX, 0.0), |(a, b), t| {
            (f64::min(a, *t), f64::max(b, *t))
        });
        if received == 0 {
            return Err(format!(
                "{sent} pings sent through the tunnel, none answered"
            ));
        }
        let average = times.iter().sum::<f64>() / times.len() as f64;
        print(&format!(
            "{sent} pings, {received} replies, min/avg/max {least:.3}/{average:.3}/{most:.3} ms"
        ));
        Ok(())
    }
}

/// What is `wanted` of the first reply that has it, if that comes in time.
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
