//! The two streams of one WebSocket after its upgrade, until both have ended.
//!
//! ```text
//! opening ──first message sent on──▶ copying ──▶ an end
//! ```
//!
//! | an end | the client gets | the agent gets |
//! |---|---|---|
//! | the client's close frame | the agent's answer; after 5 s ours | that frame |
//! | the agent's close frame | that frame, its code mapped if it must not be sent | the client's answer; after 1 s ours |
//! | the client broke a rule | a close that says which | 1011 |
//! | the client's stream ends, breaks, or is silent for a minute | what the agent still says; nothing | 1001 |
//! | the agent's stream ends or breaks | `shutdown` if it fits, 1012 | |
//! | the agent sends no frames | 1011 | 1002 |
//! | the order to stop | `shutdown` if it fits, 1012 | 1001 |
//!
//! [`Downstream`] and [`Upstream`] decide what goes where; after each chunk both streams are at the end of a frame,
//! so a frame of ours can follow at any time. Memory: a session at rest keeps no buffer; reads go through one that
//! all sessions of a thread share. What the other side does not take at once is kept until it does, while nothing
//! more is read for it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use super::close::{self, Close};
use super::connect::ConnectPolicy;
use super::downstream::{self, Downstream, ROOM};
use super::frame::{Opcode, server_frame};
use super::liveness::{Liveness, TICK, Verdict};
use super::message::Refusal;
use super::outbox::Outbox;
use super::upstream::{self, Rules, Upstream};
use crate::random;
use crate::stop::Stop;

/// For the first message. The agent's own limit for its handshake is the same.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// After the agent's close frame, for the client's answer to it. An agent that restarts waits 5 s for all its
/// clients, then exits instead; so it gets our answer well before.
const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// After the client's close frame, for the agent's answer to it. The agent has one thread, which can be busy.
const AGENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// To deliver what is left once an end has come. It fits into the process's drain.
const LINGER: Duration = Duration::from_secs(2);

/// Of the buffer that all sessions of a thread share, and hence the most that one keeps per direction; a client's
/// message apart.
const CHUNK_BYTES: usize = 64 * 1024;

/// Answers to refused calls that a client has not taken, beyond which no more of it is read.
const MAX_UNREAD_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM + CHUNK_BYTES]);
}

/// What the agent itself says before it ends, for when it could not.
const SHUTDOWN: &[u8] =
    br#"{"type":"event","event":"shutdown","payload":{"reason":"service restart","restartExpectedMs":null}}"#;

const RESTART: (u16, &str) = (close::SERVICE_RESTART, "service restart");
const GONE: (u16, &str) = (close::GOING_AWAY, "client gone");
const SILENT: (u16, &str) = (close::POLICY, "no first message within 10 s");
const AGENT_BROKEN: (u16, &str) = (close::INTERNAL, "the agent sent a malformed frame");
const CLIENT_BROKEN: (u16, &str) = (close::INTERNAL, "client error");
const _: () = assert!(FIRST_MESSAGE_TIMEOUT.as_secs() == 10, "as the reason says");

/// How a session ended, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    ByClient,
    /// It did not answer.
    ClientLost,
    ByAgent,
    Refused(u16),
    Stopped,
}

/// One side: its socket, and what it has not taken yet.
#[derive(Debug)]
struct Side {
    socket: TcpStream,
    outbox: Outbox,
}

/// Both sides of a WebSocket.
#[derive(Debug)]
pub(super) struct Session {
    client: Side,
    agent: Side,
    down: Downstream,
    up: Upstream,
    liveness: Liveness,
    tick: Interval,
    /// The payload of our pings.
    ping: [u8; 8],
    /// Which direction goes first, for now.
    agent_first: bool,
}

/// What interrupts the copying.
#[derive(Debug)]
enum Event {
    /// The first message was sent on; the copying can go on.
    Opened,
    End(Cause),
}

/// Why a session ends.
#[derive(Debug)]
enum Cause {
    Refused(Close, u16),
    Stop,
    /// Its close frame was sent on.
    ClientClosing(Close),
    /// It sends nothing more, and may still listen.
    ClientEnded,
    /// It cannot be written to or read from.
    ClientGone,
    /// It is silent.
    ClientLost,
    /// Its close frame was sent on, as it came or as this.
    AgentClosing(Close),
    AgentBroken,
    AgentEnded,
}

impl Session {
    pub(super) fn new(client: TcpStream, agent: TcpStream) -> Self {
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let side = |socket| Side { socket, outbox: Outbox::default() };
        Self {
            client: side(client),
            agent: side(agent),
            down: Downstream::default(),
            up: Upstream::default(),
            liveness: Liveness::default(),
            tick,
            ping: random::nonce(),
            agent_first: true,
        }
    }

    /// Runs to the end. The early bytes are what each side sent right behind its half of the handshake.
    pub(super) async fn run(
        mut self,
        early_client: Bytes,
        early_agent: Bytes,
        policy: &ConnectPolicy,
        mut stop: Stop,
    ) -> Ended {
        // In boxes, so that a session at rest does not carry the timers of its opening and of its end.
        let opened = Box::pin(self.open(early_client, early_agent, policy, &mut stop)).await;
        let cause = match opened {
            Event::End(cause) => cause,
            Event::Opened => tokio::select! {
                biased;
                // The order to stop comes first: under a flood the copying never rests.
                () = stop.requested() => Cause::Stop,
                cause = self.copy_to_the_end(policy) => cause,
            },
        };
        Box::pin(self.end(cause, policy)).await
    }

    async fn open(
        &mut self,
        early_client: Bytes,
        early_agent: Bytes,
        policy: &ConnectPolicy,
        stop: &mut Stop,
    ) -> Event {
        let early = SCRATCH.with_borrow_mut(|scratch| {
            // hyper reads no more than a few KB ahead.
            for chunk in early_agent.chunks(CHUNK_BYTES) {
                let end = ROOM.saturating_add(chunk.len());
                if let Some(place) = scratch.get_mut(ROOM..end) {
                    place.copy_from_slice(chunk);
                }
                self.take_from_agent(scratch, end)?;
            }
            Ok(())
        });
        if let Err(cause) = early {
            return Event::End(cause);
        }
        if let Err(event) = self.take_from_client(&early_client, policy) {
            return event;
        }
        // They came in buffers of their own, which need not live on.
        drop((early_client, early_agent));
        tokio::select! {
            biased;
            () = stop.requested() => Event::End(Cause::Stop),
            () = sleep(FIRST_MESSAGE_TIMEOUT) => {
                let (code, reason) = SILENT;
                Event::End(Cause::Refused(Close::new(code, reason), code))
            }
            event = self.copy(policy) => event,
        }
    }

    async fn copy_to_the_end(&mut self, policy: &ConnectPolicy) -> Cause {
        loop {
            match self.copy(policy).await {
                Event::Opened => {}
                Event::End(cause) => return cause,
            }
        }
    }

    /// Copies both ways until something happens. When it is dropped, nothing is lost: all bytes are in `self`.
    async fn copy(&mut self, policy: &ConnectPolicy) -> Event {
        poll_fn(|cx| {
            // The runtime allows a task so much work at a time. A flood one way would use that up each time, so
            // the directions take turns at going first.
            self.agent_first = !self.agent_first;
            if self.agent_first
                && let Poll::Ready(event) = self.poll_to_agent(cx, policy)
            {
                return Poll::Ready(event);
            }
            if let Poll::Ready(cause) = self.poll_to_client(cx) {
                return Poll::Ready(Event::End(cause));
            }
            if !self.agent_first
                && let Poll::Ready(event) = self.poll_to_agent(cx, policy)
            {
                return Poll::Ready(event);
            }
            self.poll_tick(cx).map(Event::End)
        })
        .await
    }

    /// Ready only if the client is lost.
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            ready!(self.tick.poll_tick(cx));
            if self.client.outbox.take_progress() {
                self.liveness.heard();
            }
            match self.liveness.tick(self.agent.outbox.is_empty()) {
                Verdict::Nothing => {}
                // Behind what the client has not taken yet, a ping would tell nothing.
                Verdict::Ping if !self.client.outbox.is_empty() => {}
                Verdict::Ping => {
                    if self.client.send(&server_frame(Opcode::Ping, &self.ping)).is_err() {
                        return Poll::Ready(Cause::ClientGone);
                    }
                }
                Verdict::Gone => return Poll::Ready(Cause::ClientLost),
            }
        }
    }

    /// Ready only with a reason to end.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if ready!(self.client.poll_flush(cx)).is_err() {
                    return Poll::Ready(Cause::ClientGone);
                }
                let taken = match ready!(self.agent.poll_read(cx, scratch)) {
                    Ok(ROOM) | Err(_) => Err(Cause::AgentEnded),
                    Ok(end) => self.take_from_agent(scratch, end),
                };
                if let Err(cause) = taken {
                    return Poll::Ready(cause);
                }
            }
        })
    }

    fn poll_to_agent(&mut self, cx: &mut Context<'_>, policy: &ConnectPolicy) -> Poll<Event> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if ready!(self.agent.poll_flush(cx)).is_err() {
                    return Poll::Ready(Event::End(Cause::AgentEnded));
                }
                if self.client.outbox.len() > MAX_UNREAD_BYTES && ready!(self.client.poll_flush(cx)).is_err()
                {
                    return Poll::Ready(Event::End(Cause::ClientGone));
                }
                let taken = match ready!(self.client.poll_read(cx, scratch)) {
                    Ok(ROOM) => Err(Event::End(Cause::ClientEnded)),
                    Ok(end) => {
                        self.liveness.heard();
                        self.take_from_client(scratch.get(ROOM..end).unwrap_or_default(), policy)
                    }
                    Err(_) => Err(Event::End(Cause::ClientGone)),
                };
                if let Err(event) = taken {
                    return Poll::Ready(event);
                }
            }
        })
    }

    /// Takes what was read into `scratch[ROOM..end]`.
    fn take_from_agent(&mut self, scratch: &mut [u8], end: usize) -> Result<(), Cause> {
        let passed = self.down.pass(scratch, end);
        for run in passed.runs {
            self.client.send(scratch.get(run).unwrap_or_default()).map_err(|_| Cause::ClientGone)?;
        }
        match passed.end {
            None => Ok(()),
            Some(downstream::End::Close(payload)) => {
                let close = Close::of_agent(&payload);
                self.client.send(&close.to_client()).map_err(|_| Cause::ClientGone)?;
                Err(Cause::AgentClosing(close))
            }
            Some(downstream::End::Broken(_)) => Err(Cause::AgentBroken),
        }
    }

    fn take_from_client(&mut self, chunk: &[u8], policy: &ConnectPolicy) -> Result<(), Event> {
        let was_open = self.up.opened();
        let rules = Rules { connect: policy, ping: self.ping, mask: random::mask_key };
        let taken = self.up.take(chunk, &rules);
        let agent_ended = |_| Event::End(Cause::AgentEnded);
        self.agent.send(&taken.before).map_err(agent_ended)?;
        self.agent.send(taken.run).map_err(agent_ended)?;
        self.client.send(&taken.answers).map_err(|_| Event::End(Cause::ClientGone))?;
        let refused = |code, reason: String| Err(Event::End(Cause::Refused(Close::new(code, &reason), code)));
        match taken.end {
            None if self.up.opened() && !was_open => Err(Event::Opened),
            None => Ok(()),
            Some(upstream::End::Close(close)) => Err(Event::End(Cause::ClientClosing(close))),
            Some(upstream::End::BadClose(bad)) => refused(bad.code(), bad.to_string()),
            Some(upstream::End::Refused(refusal)) => refused(code_of(refusal), refusal.to_string()),
        }
    }

    async fn end(mut self, cause: Cause, policy: &ConnectPolicy) -> Ended {
        // An error of either send below shows again when the side is left.
        match cause {
            Cause::Refused(close, code) => {
                let _ = self.client.send(&close.to_client());
                self.agent.say_close(CLIENT_BROKEN);
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::Refused(code)
            }
            Cause::Stop => {
                self.announce_end();
                self.agent.say_close(GONE);
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::Stopped
            }
            Cause::ClientClosing(close) => {
                let answer = timeout(AGENT_CLOSE_TIMEOUT, poll_fn(|cx| self.poll_to_client(cx))).await;
                if !matches!(answer, Ok(Cause::AgentClosing(_))) {
                    let _ = self.client.send(&close.to_client());
                }
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::ByClient
            }
            Cause::ClientEnded => {
                self.agent.say_close(GONE);
                // It may have asked for something before, and listen.
                let _too_late = timeout(LINGER, poll_fn(|cx| self.poll_to_client(cx))).await;
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::ByClient
            }
            Cause::ClientGone | Cause::ClientLost => {
                let ended =
                    if matches!(cause, Cause::ClientLost) { Ended::ClientLost } else { Ended::ByClient };
                drop(self.client);
                self.agent.say_close(GONE);
                self.agent.leave().await;
                ended
            }
            Cause::AgentClosing(close) => {
                let answer = timeout(CLIENT_CLOSE_TIMEOUT, self.take_the_client_s_answer(policy)).await;
                if answer != Ok(true) {
                    let _ = self.agent.send(&close.to_agent(random::mask_key()));
                }
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::ByAgent
            }
            Cause::AgentBroken => {
                self.client.say_close_to_client(AGENT_BROKEN);
                self.agent.say_close((close::PROTOCOL, ""));
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::ByAgent
            }
            Cause::AgentEnded => {
                self.announce_end();
                drop(self.agent);
                self.client.leave().await;
                Ended::ByAgent
            }
        }
    }

    /// Goes on copying towards the agent, until the client's own close frame has gone there. Whether it has.
    async fn take_the_client_s_answer(&mut self, policy: &ConnectPolicy) -> bool {
        loop {
            let event = poll_fn(|cx| {
                // What it has not taken yet comes first, or it would have nothing to answer.
                if ready!(self.client.poll_flush(cx)).is_err() {
                    return Poll::Ready(Event::End(Cause::ClientGone));
                }
                self.poll_to_agent(cx, policy)
            })
            .await;
            match event {
                Event::Opened => {}
                Event::End(cause) => return matches!(cause, Cause::ClientClosing(_)),
            }
        }
    }

    /// Tells the client that the agent ends, in the agent's words if a message can stand here, and closes.
    fn announce_end(&mut self) {
        let mut goodbye = Vec::new();
        if self.up.opened() && self.down.between_messages() {
            goodbye = server_frame(Opcode::Text, SHUTDOWN);
        }
        let (code, reason) = RESTART;
        goodbye.extend(Close::new(code, reason).to_client());
        let _ = self.client.send(&goodbye);
    }
}

impl Side {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.outbox.send(&self.socket, bytes)
    }

    fn say_close(&mut self, (code, reason): (u16, &str)) {
        let _ = self.send(&Close::new(code, reason).to_agent(random::mask_key()));
    }

    fn say_close_to_client(&mut self, (code, reason): (u16, &str)) {
        let _ = self.send(&Close::new(code, reason).to_client());
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.poll_flush(&self.socket, cx)
    }

    /// Reads once, behind [`ROOM`]; returns where that ends. At `ROOM` the stream has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(scratch.get_mut(ROOM..).unwrap_or_default());
        // This way, and not by `try_read`: after a short read, tokio does not try once more in vain.
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(ROOM.saturating_add(buffer.filled().len())))
    }

    /// Delivers what was not taken yet, says that nothing more comes, and waits for the peer's end: to hang up on
    /// bytes that were not read would destroy what was just sent.
    async fn leave(mut self) {
        let finish = async {
            poll_fn(|cx| self.poll_flush(cx)).await?;
            self.socket.shutdown().await?;
            poll_fn(|cx| self.poll_discard(cx)).await
        };
        let _gone_or_late = timeout(LINGER, finish).await;
    }

    /// Ready at the end of the stream.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            while ready!(self.poll_read(cx, scratch))? != ROOM {}
            Poll::Ready(Ok(()))
        })
    }
}

const fn code_of(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::Frame(_) | Refusal::Fragment => close::PROTOCOL,
        Refusal::TooBig => close::TOO_BIG,
        Refusal::TooManyFragments => close::POLICY,
    }
}
