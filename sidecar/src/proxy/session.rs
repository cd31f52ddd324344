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
//! | the client broke a rule | what the agent still answers, then a close that says which | that close |
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
use tokio::time::{sleep, timeout};

use super::close::{self, Close};
use super::connect::ConnectPolicy;
use super::downstream::{self, Downstream, ROOM};
use super::frame::{Opcode, server_frame};
use super::liveness::{Liveness, Verdict};
use super::message::Refusal;
use super::outbox::Outbox;
use super::pulse::{Beat, Member};
use super::upstream::{self, Rules, Upstream};
use crate::random;

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
    pulse: Member,
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
    pub(super) fn new(client: TcpStream, agent: TcpStream, pulse: Member) -> Self {
        let side = |socket| Side { socket, outbox: Outbox::default() };
        Self {
            client: side(client),
            agent: side(agent),
            down: Downstream::default(),
            up: Upstream::default(),
            liveness: Liveness::default(),
            pulse,
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
    ) -> Ended {
        // In boxes, so that a session at rest does not carry the timers of its opening and of its end.
        let opened = Box::pin(self.open(early_client, early_agent, policy)).await;
        let cause = match opened {
            Event::End(cause) => cause,
            Event::Opened => self.copy_to_the_end(policy).await,
        };
        Box::pin(self.end(cause, policy)).await
    }

    async fn open(&mut self, early_client: Bytes, early_agent: Bytes, policy: &ConnectPolicy) -> Event {
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
            event = self.copy(policy) => event,
            () = sleep(FIRST_MESSAGE_TIMEOUT) => {
                let (code, reason) = SILENT;
                Event::End(Cause::Refused(Close::new(code, reason), code))
            }
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
            // First: under a flood the copying never rests.
            let beat = self.pulse.poll(cx);
            if let Some(cause) = beat.and_then(|beat| self.hear(beat)) {
                return Poll::Ready(Event::End(cause));
            }
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
            if self.agent_first { Poll::Pending } else { self.poll_to_agent(cx, policy) }
        })
        .await
    }

    /// Returns a reason to end.
    fn hear(&mut self, beat: Beat) -> Option<Cause> {
        match beat {
            Beat::Stop => return Some(Cause::Stop),
            Beat::Tick => {}
        }
        if self.client.outbox.take_progress() {
            self.liveness.heard();
        }
        match self.liveness.tick(self.agent.outbox.is_empty()) {
            Verdict::Nothing => None,
            // Behind what the client has not taken yet, a ping would tell nothing.
            Verdict::Ping if !self.client.outbox.is_empty() => None,
            Verdict::Ping => {
                let ping = server_frame(Opcode::Ping, &self.ping);
                self.client.send(&ping).err().map(|_| Cause::ClientGone)
            }
            Verdict::Gone => Some(Cause::ClientLost),
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
                // As if the client had said so itself: answers to what it said before are on their way.
                let _ = self.agent.send(&close.to_agent(random::mask_key()));
                self.close_after_the_agent(&close, LINGER).await;
                Ended::Refused(code)
            }
            Cause::Stop => {
                self.announce_end();
                self.agent.say_close(GONE);
                tokio::join!(self.client.leave(), self.agent.leave());
                Ended::Stopped
            }
            Cause::ClientClosing(close) => {
                self.close_after_the_agent(&close, AGENT_CLOSE_TIMEOUT).await;
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

    /// Delivers what the agent still says, up to its answer to `close`, which it has got. If there is none in time, the
    /// client is told by us.
    async fn close_after_the_agent(mut self, close: &Close, limit: Duration) {
        let answer = timeout(limit, poll_fn(|cx| self.poll_to_client(cx))).await;
        if !matches!(answer, Ok(Cause::AgentClosing(_))) {
            let _ = self.client.send(&close.to_client());
        }
        tokio::join!(self.client.leave(), self.agent.leave());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::frame::{Sender, client_message, parse};
    use crate::proxy::liveness::TICK;
    use crate::proxy::pulse::Pulse;
    use crate::stop;
    use shared::secret::Secret;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::advance;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// A session between a client and an agent that the test plays. Time stands still but for what a test advances
    /// it by: on its own it would run ahead of what is on its way through the kernel.
    struct Bed {
        client: TcpStream,
        agent: TcpStream,
        session: JoinHandle<Ended>,
        stopper: stop::Stopper,
        _still: std::sync::mpsc::Sender<()>,
    }

    impl Bed {
        /// Lets a tick pass; returns what the client has got by then.
        async fn tick(&mut self) -> Vec<(Opcode, Vec<u8>)> {
            advance(TICK).await;
            self.agent.write_all(&server_frame(Opcode::Text, b"marker")).await.unwrap();
            let mut all = Vec::new();
            loop {
                match frame(&mut self.client, Sender::Server).await.unwrap() {
                    (Opcode::Text, _) => return all,
                    other => all.push(other),
                }
            }
        }

        /// The client speaks, and is heard.
        async fn say(&mut self, text: &[u8]) {
            self.client.write_all(&client_message(Opcode::Text, text, KEY)).await.unwrap();
            assert_eq!(frame(&mut self.agent, Sender::Client).await, Some((Opcode::Text, text.to_vec())));
        }
    }

    async fn opened() -> Bed {
        let ((client, near), (agent, far)) = (pair().await, pair().await);
        let (stopper, stop) = stop::channel();
        let session = tokio::spawn(async move {
            let policy = ConnectPolicy::new(Secret::new("T").unwrap(), vec!["operator.read".to_owned()]);
            let pulse = Pulse::default().join(&stop);
            Session::new(near, far, pulse).run(Bytes::new(), Bytes::new(), &policy).await
        });
        let (_still, ends) = std::sync::mpsc::channel::<()>();
        // While a blocking task runs, tokio does not advance the time.
        tokio::task::spawn_blocking(move || ends.recv());
        let mut bed = Bed { client, agent, session, stopper, _still };
        bed.say(b"first").await;
        bed
    }

    /// The next frame, unmasked; `None` at the end of the stream.
    async fn frame(from: &mut TcpStream, sender: Sender) -> Option<(Opcode, Vec<u8>)> {
        let mut bytes = Vec::new();
        let header = loop {
            if let Some(header) = parse(&bytes, sender).unwrap() {
                break header;
            }
            bytes.push(from.read_u8().await.ok()?);
        };
        let mut payload = vec![0; usize::try_from(header.length).unwrap()];
        from.read_exact(&mut payload).await.ok()?;
        let mut unmasked = Vec::new();
        super::super::frame::unmask_onto(&payload, header.mask.unwrap_or_default(), &mut unmasked);
        Some((header.opcode, unmasked))
    }

    fn close((code, reason): (u16, &str)) -> Option<(Opcode, Vec<u8>)> {
        let frame = Close::new(code, reason).to_client();
        Some((Opcode::Close, frame[2..].to_vec()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_pinged_and_its_pong_stays_here() {
        let mut bed = opened().await;
        for _ in 0..5 {
            let mut got = Vec::new();
            for tick in 1..=5 {
                got = bed.tick().await;
                assert!(got.is_empty() || tick == 5, "{tick}");
            }
            let [(Opcode::Ping, payload)] = &got[..] else { panic!("{got:?}") };
            bed.client.write_all(&client_message(Opcode::Pong, payload, KEY)).await.unwrap();
            // The next that the agent hears is this.
            bed.say(b"here").await;
        }
        // A pong that nobody asked for, and the agent's own ping, are none of our business.
        bed.client.write_all(&client_message(Opcode::Pong, b"x", KEY)).await.unwrap();
        assert_eq!(frame(&mut bed.agent, Sender::Client).await, Some((Opcode::Pong, b"x".to_vec())));
        bed.agent.write_all(&server_frame(Opcode::Ping, b"y")).await.unwrap();
        assert_eq!(frame(&mut bed.client, Sender::Server).await, Some((Opcode::Ping, b"y".to_vec())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_fits_into_a_message_that_has_not_come_whole() {
        let mut bed = opened().await;
        let long = server_frame(Opcode::Text, &[b'x'; 1000]);
        let (some, rest) = long.split_at(500);
        bed.agent.write_all(some).await.unwrap();
        let (opcode, mut text) = frame(&mut bed.client, Sender::Server).await.unwrap();
        assert_eq!(opcode, Opcode::Text);
        // Enough for a ping, too few to be taken for gone.
        for _ in 0..8 {
            advance(TICK).await;
            for _ in 0..20 {
                yield_now().await;
            }
        }
        assert!(matches!(frame(&mut bed.client, Sender::Server).await, Some((Opcode::Ping, _))));
        bed.agent.write_all(rest).await.unwrap();
        let (opcode, end) = frame(&mut bed.client, Sender::Server).await.unwrap();
        assert_eq!(opcode, Opcode::Continuation);
        text.extend(end);
        assert_eq!(text, [b'x'; 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_no_ping_is_let_go() {
        let mut bed = opened().await;
        let mut pings = Vec::new();
        for tick in 1..=12 {
            pings.extend(bed.tick().await.iter().map(|_| tick));
        }
        assert_eq!(pings, [5, 9]);
        advance(TICK).await;
        assert_eq!(frame(&mut bed.client, Sender::Server).await, None);
        assert_eq!(frame(&mut bed.agent, Sender::Client).await, close(GONE));
        drop(bed.agent);
        assert_eq!(bed.session.await.unwrap(), Ended::ClientLost);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_dies_within_a_message_is_a_clean_close() {
        for (sent, announced) in
            [(server_frame(Opcode::Text, b"whole"), true), (b"\x81\x05who".to_vec(), false)]
        {
            let mut bed = opened().await;
            bed.agent.write_all(&sent).await.unwrap();
            let first = frame(&mut bed.client, Sender::Server).await.unwrap();
            assert!(b"whole".starts_with(&first.1));
            drop(bed.agent);
            if announced {
                let (opcode, text) = frame(&mut bed.client, Sender::Server).await.unwrap();
                assert_eq!((opcode, text.as_slice()), (Opcode::Text, SHUTDOWN));
            }
            assert_eq!(frame(&mut bed.client, Sender::Server).await, close(RESTART));
            drop(bed.client);
            assert_eq!(bed.session.await.unwrap(), Ended::ByAgent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_to_stop_closes_both() {
        let mut bed = opened().await;
        bed.stopper.stop();
        assert_eq!(frame(&mut bed.client, Sender::Server).await, Some((Opcode::Text, SHUTDOWN.to_vec())));
        assert_eq!(frame(&mut bed.client, Sender::Server).await, close(RESTART));
        assert_eq!(frame(&mut bed.agent, Sender::Client).await, close(GONE));
        drop((bed.client, bed.agent));
        assert_eq!(bed.session.await.unwrap(), Ended::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_closes_gets_an_answer_within_its_five_seconds() {
        let mut bed = opened().await;
        bed.agent.write_all(&Close::new(RESTART.0, RESTART.1).to_client()).await.unwrap();
        assert_eq!(frame(&mut bed.client, Sender::Server).await, close(RESTART));
        // The client says nothing.
        advance(Duration::from_secs(4)).await;
        assert_eq!(frame(&mut bed.agent, Sender::Client).await, close(RESTART));
        drop((bed.client, bed.agent));
        assert_eq!(bed.session.await.unwrap(), Ended::ByAgent);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_leaves_a_close_unanswered_is_answered_for() {
        let mut bed = opened().await;
        let bye = Close::new(4321, "bye");
        bed.client.write_all(&bye.to_agent(KEY)).await.unwrap();
        assert_eq!(frame(&mut bed.agent, Sender::Client).await, close((4321, "bye")));
        advance(AGENT_CLOSE_TIMEOUT).await;
        assert_eq!(frame(&mut bed.client, Sender::Server).await, close((4321, "bye")));
        drop((bed.client, bed.agent));
        assert_eq!(bed.session.await.unwrap(), Ended::ByClient);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_the_agent_back() {
        let bed = opened().await;
        // More than all buffers of the system on the way can hold.
        let frame = server_frame(Opcode::Binary, &[7; 60_000]);
        let mut accepted = 0_usize;
        let limit = 64 * 1024 * 1024;
        loop {
            match timeout(Duration::from_secs(1), bed.agent.writable()).await {
                Ok(ready) => ready.unwrap(),
                Err(_) => break,
            }
            match bed.agent.try_write(&frame) {
                Ok(n) => accepted += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            assert!(accepted < limit, "nobody holds the agent back");
        }
    }
}
