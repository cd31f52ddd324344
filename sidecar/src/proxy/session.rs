//! The bytes of one WebSocket after its upgrade, until both sides have ended.
//!
//! ```text
//! open ──first message edited──▶ copying ─┬─ client ended ──▶ let the agent finish ──┐
//!   │                               │     ├─ agent ended or said close ─▶ let the    │
//!   │                               │     │  client answer it, then drop the agent ──┼─▶ gone
//!   └───────── refused ─────────────┴─────┴─ refused or stopping ─▶ close the client ┘
//! ```
//!
//! Payload is never touched after the first message. Towards the client only the headers of frames are read, to
//! know where a close frame of our own could be put in, and to see the agent's. Memory: a session at rest keeps
//! no buffer; reads go through one that all sessions of a thread share, and what the other side does not take
//! at once is kept until it does, while nothing more is read.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::connect::{self, ConnectPolicy};
use super::first_frame::{Fed, FirstMessage, MAX_MESSAGE_BYTES, Refusal};
use super::frame::{self, Opcode, Reader, Sender};
use super::outbox::Outbox;
use crate::random;
use crate::stop::Stop;

/// For the first message. The agent's own limit for its handshake is the same.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// After the agent's close frame, for the client's answer to it. An agent that restarts waits 5 s for all its
/// clients, then exits instead; so one that does not answer is cut off well before.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// To finish the frame that is under way before a close frame of ours.
const BOUNDARY_TIMEOUT: Duration = Duration::from_secs(1);

/// For what is left to deliver once one side has ended. With the one above it fits into the process's drain.
const LINGER: Duration = Duration::from_secs(2);

/// Of the buffer that all sessions of a thread share, and hence the most that one keeps per direction; the
/// first message apart.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// A close frame of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Close {
    code: u16,
    reason: &'static str,
}

const CLOSE_RESTART: Close = Close { code: 1012, reason: "service restart" };
const CLOSE_PROTOCOL: Close = Close { code: 1002, reason: "malformed frame" };
const CLOSE_TOO_BIG: Close = Close { code: 1009, reason: "the first message is longer than 524288 bytes" };
const CLOSE_SILENT: Close = Close { code: 1008, reason: "no first message within 10 s" };
const _: () =
    assert!(MAX_MESSAGE_BYTES == 524_288 && FIRST_MESSAGE_TIMEOUT.as_secs() == 10, "as the reasons say");

/// How a session ended, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    ByClient,
    ByAgent,
    Refused(u16),
    Stopped,
}

/// Both ends of a socket.
#[derive(Debug)]
pub(super) struct Session {
    client: TcpStream,
    agent: TcpStream,
    to_client: Outbox,
    to_agent: Outbox,
    /// While the first message is awaited. In a box: most of a session's life it is not there.
    first: Option<Box<FirstMessage>>,
    /// Where in a frame the stream to the client is; `None` if the agent sends no frames that could be read.
    frames: Option<Reader>,
    /// Whether the agent's close frame has passed.
    close_passed: bool,
    /// Which direction goes first, for now.
    agent_first: bool,
}

/// What interrupts the copying.
enum Event {
    /// The first message was sent on; the copying can go on.
    FirstMessage,
    End(Cause),
}

/// Why a session ends.
enum Cause {
    Refused(Close),
    Stop,
    /// It sends nothing more, and may still listen.
    ClientEnded,
    /// It cannot be written to or read from.
    ClientGone,
    /// Its close frame was sent on.
    AgentClosing,
    AgentEnded,
}

impl Session {
    pub(super) fn new(client: TcpStream, agent: TcpStream) -> Self {
        Self {
            client,
            agent,
            to_client: Outbox::default(),
            to_agent: Outbox::default(),
            first: Some(Box::default()),
            frames: Some(Reader::new(Sender::Server)),
            close_passed: false,
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
            Event::FirstMessage => tokio::select! {
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
        if let Err(cause) = self.take_from_agent(&early_agent) {
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
            () = sleep(FIRST_MESSAGE_TIMEOUT) => Event::End(Cause::Refused(CLOSE_SILENT)),
            event = self.copy(policy) => event,
        }
    }

    async fn copy_to_the_end(&mut self, policy: &ConnectPolicy) -> Cause {
        loop {
            match self.copy(policy).await {
                Event::FirstMessage => {}
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
            if self.agent_first { Poll::Pending } else { self.poll_to_agent(cx, policy) }
        })
        .await
    }

    /// Ready only with a reason to end.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if ready!(self.to_client.poll_flush(&self.client, cx)).is_err() {
                    return Poll::Ready(Cause::ClientGone);
                }
                let taken = match ready!(poll_read(&self.agent, cx, scratch)) {
                    Ok([]) | Err(_) => Err(Cause::AgentEnded),
                    Ok(chunk) => self.take_from_agent(chunk),
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
                if ready!(self.to_agent.poll_flush(&self.agent, cx)).is_err() {
                    return Poll::Ready(Event::End(Cause::AgentEnded));
                }
                let taken = match ready!(poll_read(&self.client, cx, scratch)) {
                    Ok([]) => Err(Event::End(Cause::ClientEnded)),
                    Ok(chunk) => self.take_from_client(chunk, policy),
                    Err(_) => Err(Event::End(Cause::ClientGone)),
                };
                if let Err(event) = taken {
                    return Poll::Ready(event);
                }
            }
        })
    }

    fn take_from_agent(&mut self, chunk: &[u8]) -> Result<(), Cause> {
        let closed_before = self.close_passed;
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            at += self.follow_one_frame(rest);
        }
        self.to_client.send(&self.client, chunk).map_err(|_| Cause::ClientGone)?;
        if self.close_passed && !closed_before { Err(Cause::AgentClosing) } else { Ok(()) }
    }

    fn take_from_client(&mut self, chunk: &[u8], policy: &ConnectPolicy) -> Result<(), Event> {
        let agent_ended = |_| Event::End(Cause::AgentEnded);
        let Some(first) = &mut self.first else {
            return self.to_agent.send(&self.agent, chunk).map_err(agent_ended);
        };
        let mut onward = Vec::new();
        match first.feed(chunk, &mut onward) {
            Ok(Fed::More) => self.to_agent.send(&self.agent, &onward).map_err(agent_ended),
            Ok(Fed::Message { used, message }) => {
                self.first = None;
                let (opcode, payload) = match connect::edit(&message.payload, policy) {
                    Some(edited) => (Opcode::Text, edited),
                    None => (message.opcode, message.payload),
                };
                onward.extend(frame::client_message(opcode, &payload, random::mask_key()));
                onward.extend_from_slice(chunk.get(used..).unwrap_or_default());
                self.to_agent.send(&self.agent, &onward).map_err(agent_ended)?;
                Err(Event::FirstMessage)
            }
            Err(refusal) => Err(Event::End(Cause::Refused(close_for(refusal)))),
        }
    }

    /// Reads `input`, which must not be empty, to the end of one frame at most; returns how far that is.
    fn follow_one_frame(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let Some(frames) = &mut self.frames else { return input.len() };
            match frames.read(rest) {
                Ok((read, piece)) => {
                    used += read;
                    self.close_passed |=
                        piece.is_some_and(|piece| piece.last && piece.header.opcode == Opcode::Close);
                    if frames.at_boundary() {
                        break;
                    }
                }
                // The client will judge it. We only lose the place for a frame of our own.
                Err(_) => self.frames = None,
            }
        }
        used
    }

    async fn end(mut self, cause: Cause, policy: &ConnectPolicy) -> Ended {
        match cause {
            Cause::Refused(close) => {
                self.close_client(close).await;
                Ended::Refused(close.code)
            }
            Cause::Stop => {
                self.close_client(CLOSE_RESTART).await;
                Ended::Stopped
            }
            Cause::ClientEnded => {
                // Everything of the client's was sent on before its end was read.
                let _too_late = timeout(LINGER, self.let_agent_finish()).await;
                Ended::ByClient
            }
            Cause::ClientGone => Ended::ByClient,
            Cause::AgentClosing => {
                // The client's answer is in its interest, not needed: whatever happens, the agent is let go.
                let _any = timeout(CLOSE_GRACE, self.copy_to_the_end(policy)).await;
                self.let_client_finish().await;
                Ended::ByAgent
            }
            Cause::AgentEnded => {
                self.let_client_finish().await;
                Ended::ByAgent
            }
        }
    }

    /// Puts a close frame of ours behind the frame that is under way.
    async fn close_client(mut self, close: Close) {
        let boundary = timeout(BOUNDARY_TIMEOUT, poll_fn(|cx| self.poll_to_boundary(cx))).await;
        if boundary.unwrap_or(false) && !self.close_passed {
            let frame = frame::server_close(close.code, close.reason);
            // If the client is gone, the next step finds out.
            let _gone = self.to_client.send(&self.client, &frame);
        }
        self.let_client_finish().await;
    }

    /// Ready with true where a frame of ours can stand; with false if there will be no such place.
    fn poll_to_boundary(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if ready!(self.to_client.poll_flush(&self.client, cx)).is_err() {
                    return Poll::Ready(false);
                }
                match &self.frames {
                    None => return Poll::Ready(false),
                    Some(frames) if frames.at_boundary() => return Poll::Ready(true),
                    Some(_) => {}
                }
                let Ok(chunk @ [_, ..]) = ready!(poll_read(&self.agent, cx, scratch)) else {
                    return Poll::Ready(false);
                };
                let used = self.follow_one_frame(chunk);
                if self.to_client.send(&self.client, chunk.get(..used).unwrap_or_default()).is_err() {
                    return Poll::Ready(false);
                }
            }
        })
    }

    /// Tells the agent that nothing more comes, and delivers what it still says.
    async fn let_agent_finish(&mut self) {
        // If it is gone, the next read says so.
        let _gone = self.agent.shutdown().await;
        while matches!(poll_fn(|cx| self.poll_to_client(cx)).await, Cause::AgentClosing) {}
    }

    /// Lets the agent go, delivers what the client has not taken yet, and waits for its end: to hang up on bytes
    /// that were not read would destroy what was just sent.
    async fn let_client_finish(self) {
        let Self { mut client, agent, mut to_client, .. } = self;
        drop(agent);
        let finish = async {
            poll_fn(|cx| to_client.poll_flush(&client, cx)).await?;
            client.shutdown().await?;
            poll_fn(|cx| poll_discard(&client, cx)).await
        };
        let _gone_or_late = timeout(LINGER, finish).await;
    }
}

fn close_for(refusal: Refusal) -> Close {
    match refusal {
        Refusal::Frame(_) | Refusal::Fragment => CLOSE_PROTOCOL,
        Refusal::TooBig => CLOSE_TOO_BIG,
    }
}

/// Reads once; an empty result is the end of the stream.
fn poll_read<'a>(
    from: &TcpStream,
    cx: &mut Context<'_>,
    scratch: &'a mut [u8],
) -> Poll<io::Result<&'a [u8]>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        match from.try_read(scratch) {
            Ok(read) => return Poll::Ready(Ok(scratch.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Ready at the end of the stream.
fn poll_discard(from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            if ready!(poll_read(from, cx, scratch))?.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    })
}
