//! A client's stream on its way to the agent. Pure: bytes in, bytes for either side out.
//!
//! Every message is judged before it goes on, and goes on as it came: the first one is edited ([`connect`]), of the
//! others a few are refused ([`rules`]). Messages that arrive whole, as nearly all do, are neither copied nor kept.
//! After each chunk the agent's stream is at the end of a frame.

use std::cell::RefCell;

use super::close::{BadClose, Close};
use super::connect::{self, ConnectPolicy};
use super::frame::{self, Header, Opcode, Sender, client_message};
use super::message::{MAX_MESSAGE_BYTES, Partial, Refusal, Whole, unmask};
use super::rules;

/// A larger message is unmasked in memory of its own, which is given back.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static UNMASKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the stream is followed with.
#[derive(Debug)]
pub struct Rules<'a> {
    pub connect: &'a ConnectPolicy,
    /// The payload of our own pings. A pong with it was asked for by us, and stays here.
    pub ping: [u8; 8],
    /// For frames of our own.
    pub mask: fn() -> [u8; 4],
}

/// Why a client's stream has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By a close frame, which has gone on to the agent.
    Close(Close),
    BadClose(BadClose),
    Refused(Refusal),
}

/// What became of a chunk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken<'a> {
    /// For the agent: first this, which is usually empty,
    pub before: Vec<u8>,
    /// then this, as it came.
    pub run: &'a [u8],
    /// For the client: answers to calls that were refused.
    pub answers: Vec<u8>,
    /// Nothing that follows is read.
    pub end: Option<End>,
}

/// Follows the stream.
#[derive(Debug, Default)]
pub struct Upstream {
    opened: bool,
    /// A message or a frame that has not arrived whole. In a box: it is rarely there.
    partial: Option<Box<Partial>>,
}

enum Judged {
    Passes,
    Replaced(Vec<u8>),
    Refused(Vec<u8>),
}

impl Upstream {
    /// Whether the first message has gone to the agent.
    #[must_use]
    pub const fn opened(&self) -> bool {
        self.opened
    }

    /// Takes what arrived.
    pub fn take<'a>(&mut self, chunk: &'a [u8], rules: &Rules<'_>) -> Taken<'a> {
        let mut taken = Taken::default();
        // `chunk[run..at]` is to go on as it came.
        let (mut run, mut at) = (0, 0);
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match &mut self.partial {
                None => match whole_frame(rest) {
                    Ok(Some((header, frame))) => {
                        self.whole(header.opcode, frame, rules).map(|step| (frame.len(), step))
                    }
                    // From here on piece by piece.
                    Ok(None) => {
                        self.partial = Some(Box::default());
                        continue;
                    }
                    Err(refusal) => Err(End::Refused(refusal)),
                },
                Some(partial) => match partial.feed(rest) {
                    Err(refusal) => Err(End::Refused(refusal)),
                    Ok((used, whole)) => {
                        if partial.is_empty() {
                            self.partial = None;
                        }
                        let (opcode, raw) = match whole {
                            None => (None, Vec::new()),
                            Some(Whole::Control(opcode, raw)) => (Some(opcode), raw),
                            Some(Whole::Message(raw)) => (Some(Opcode::Text), raw),
                        };
                        let judged =
                            opcode.map_or(Ok(Judged::Passes), |opcode| self.whole(opcode, &raw, rules));
                        // It is not in the chunk any more, so it takes the place of what is.
                        let replaced = |judged| match judged {
                            Judged::Passes => Judged::Replaced(raw),
                            other @ (Judged::Replaced(_) | Judged::Refused(_)) => other,
                        };
                        judged.map(|judged| (used, replaced(judged)))
                    }
                },
            };
            let (used, judged) = match step {
                Ok(step) => step,
                Err(end) => {
                    taken.end = Some(end);
                    break;
                }
            };
            let now = at.saturating_add(used);
            match judged {
                Judged::Passes => {}
                Judged::Replaced(bytes) => {
                    taken.before.extend_from_slice(chunk.get(run..at).unwrap_or_default());
                    taken.before.extend(bytes);
                    run = now;
                }
                Judged::Refused(answer) => {
                    taken.before.extend_from_slice(chunk.get(run..at).unwrap_or_default());
                    taken.answers.extend(answer);
                    run = now;
                }
            }
            at = now;
        }
        taken.run = chunk.get(run..at).unwrap_or_default();
        if let Some(End::Close(close)) = &taken.end {
            // Behind what came before it.
            taken.before.extend_from_slice(std::mem::take(&mut taken.run));
            taken.before.extend(close.to_agent((rules.mask)()));
        }
        taken
    }

    /// Judges a control frame or a message, which `raw` holds as it came.
    fn whole(&mut self, opcode: Opcode, raw: &[u8], rules: &Rules<'_>) -> Result<Judged, End> {
        match opcode {
            Opcode::Ping => Ok(Judged::Passes),
            Opcode::Pong => Ok(with_payload(raw, |payload| {
                if payload == rules.ping { Judged::Refused(Vec::new()) } else { Judged::Passes }
            })),
            Opcode::Close => Err(with_payload(raw, |payload| match Close::parse(payload) {
                Ok(close) => End::Close(close),
                Err(bad) => End::BadClose(bad),
            })),
            Opcode::Text | Opcode::Binary | Opcode::Continuation if self.opened => {
                Ok(with_payload(raw, |payload| match rules::refuse(payload) {
                    Some(answer) => Judged::Refused(frame::server_frame(Opcode::Text, &answer)),
                    None => Judged::Passes,
                }))
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                self.opened = true;
                Ok(with_payload(raw, |payload| match connect::edit(payload, rules.connect) {
                    Some(edited) => Judged::Replaced(client_message(Opcode::Text, &edited, (rules.mask)())),
                    None => Judged::Passes,
                }))
            }
        }
    }
}

/// The frame at the front of `input` if all of it is there, and if it is no part of a longer message.
fn whole_frame(input: &[u8]) -> Result<Option<(Header, &[u8])>, Refusal> {
    let Some(header) = frame::parse(input, Sender::Client)? else { return Ok(None) };
    let part = !header.fin || header.opcode == Opcode::Continuation;
    if part || header.length > MAX_MESSAGE_BYTES as u64 {
        return Ok(None);
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    Ok(input.get(..header.size().saturating_add(length)).map(|frame| (header, frame)))
}

/// Calls `judge` with what `raw` says.
fn with_payload<T>(raw: &[u8], judge: impl FnOnce(&[u8]) -> T) -> T {
    if raw.len() > SCRATCH_BYTES {
        let mut payload = Vec::with_capacity(raw.len());
        let _opcode = unmask(raw, &mut payload);
        return judge(&payload);
    }
    UNMASKED.with_borrow_mut(|payload| {
        payload.clear();
        let _opcode = unmask(raw, payload);
        judge(payload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::secret::Secret;

    const KEY: [u8; 4] = [9, 8, 7, 6];
    const PING: [u8; 8] = *b"our ping";
    const REFUSED: &[u8] = br#"{"type":"req","id":"r","method":"sessions.compact"}"#;
    const CONNECT: &[u8] = br#"{"type":"req","id":"c","method":"connect","params":{}}"#;

    fn policy() -> ConnectPolicy {
        ConnectPolicy::new(Secret::new("T").unwrap(), vec!["operator.read".to_owned()])
    }

    /// What went to the agent, what to the client, and how it ended.
    type Outcome = (Vec<u8>, Vec<u8>, Option<End>);

    fn take(opened: bool, stream: &[u8], chunks: &[usize]) -> Outcome {
        let policy = policy();
        let rules = Rules { connect: &policy, ping: PING, mask: || KEY };
        let mut up = Upstream { opened, partial: None };
        let (mut onward, mut answers, mut rest) = (Vec::new(), Vec::new(), stream);
        for chunk in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*chunk).min(rest.len()));
            let taken = up.take(now, &rules);
            onward.extend(taken.before);
            onward.extend(taken.run);
            answers.extend(taken.answers);
            if taken.end.is_some() {
                return (onward, answers, taken.end);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        (onward, answers, None)
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        client_message(Opcode::Text, payload, KEY)
    }

    fn fragment(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Header { fin, opcode, mask: Some(KEY), length: payload.len() as u64 }.write(&mut frame);
        frame::unmask_onto(payload, KEY, &mut frame);
        frame
    }

    #[test]
    fn what_passes_is_neither_copied_nor_changed() {
        let stream =
            [message(b"a"), client_message(Opcode::Ping, b"p", KEY), message(&[b'x'; 60_000])].concat();
        let policy = policy();
        let rules = Rules { connect: &policy, ping: PING, mask: || KEY };
        let mut up = Upstream { opened: true, partial: None };
        let taken = up.take(&stream, &rules);
        assert_eq!(taken, Taken { run: &stream, ..Taken::default() });
        assert!(up.partial.is_none());
    }

    #[test]
    fn edits_refusals_and_pongs_of_ours_in_any_chunks() {
        let pong = client_message(Opcode::Pong, b"another", KEY);
        let parts = [
            (message(CONNECT), None),
            (message(b"one"), Some(message(b"one"))),
            (client_message(Opcode::Pong, &PING, KEY), Some(vec![])),
            (pong.clone(), Some(pong)),
            (message(REFUSED), Some(vec![])),
            (fragment(false, Opcode::Binary, &REFUSED[..9]), Some(vec![])),
            (client_message(Opcode::Ping, b"?", KEY), Some(client_message(Opcode::Ping, b"?", KEY))),
            (fragment(true, Opcode::Continuation, &REFUSED[9..]), Some(vec![])),
            (message(b"two"), Some(message(b"two"))),
        ];
        let stream: Vec<u8> = parts.iter().flat_map(|(sent, _)| sent.clone()).collect();
        let edited = connect::edit(CONNECT, &policy()).unwrap();
        let onward: Vec<u8> =
            parts.iter().flat_map(|(_, onward)| onward.clone().unwrap_or_else(|| message(&edited))).collect();
        let answer = frame::server_frame(Opcode::Text, &rules::refuse(REFUSED).unwrap());
        for chunk in 1..=stream.len() {
            assert_eq!(take(false, &stream, &[chunk]), (onward.clone(), answer.repeat(2), None), "{chunk}");
        }
    }

    #[test]
    fn ends() {
        let close = |payload: &[u8]| client_message(Opcode::Close, payload, KEY);
        let rows = [
            (close(b""), close(b""), End::Close(Close::parse(b"").unwrap())),
            (close(b"\x03\xe8bye"), close(b"\x03\xe8bye"), End::Close(Close::new(1000, "bye"))),
            (close(b"\x03\xed"), vec![], End::BadClose(BadClose::Code)),
            (close(b"\x03\xe8\xff"), vec![], End::BadClose(BadClose::Reason)),
            (close(b"\x03"), vec![], End::BadClose(BadClose::Length)),
            (b"\x81\x01x".to_vec(), vec![], End::Refused(Refusal::Frame(frame::FrameError::Mask))),
            (b"\xc1\x80\0\0\0\0".to_vec(), vec![], End::Refused(Refusal::Frame(frame::FrameError::Reserved))),
            (b"\x83\x80\0\0\0\0".to_vec(), vec![], End::Refused(Refusal::Frame(frame::FrameError::Opcode))),
            (fragment(true, Opcode::Continuation, b"x"), vec![], End::Refused(Refusal::Fragment)),
            (
                [fragment(false, Opcode::Text, b"x"), message(b"y")].concat(),
                vec![],
                End::Refused(Refusal::Fragment),
            ),
        ];
        for (bytes, onward, end) in rows {
            // What came before is heard, what comes after is not.
            let stream = [message(b"before"), bytes, message(b"after")].concat();
            let expect = ([message(b"before"), onward].concat(), vec![], Some(end));
            for chunk in 1..=stream.len() {
                assert_eq!(take(true, &stream, &[chunk]), expect, "by {chunk}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_same(
            rows in prop::collection::vec((any::<bool>(), 0_u8..5, prop::collection::vec(any::<u8>(), 0..140)), 0..8),
            junk in prop::collection::vec(any::<u8>(), 0..30),
            chunks in prop::collection::vec(1_usize..200, 1..5),
        ) {
            let mut stream = Vec::new();
            for (fin, kind, payload) in rows {
                use Opcode::{Binary, Continuation, Ping, Pong, Text};
                let opcode = [Text, Binary, Continuation, Ping, Pong][usize::from(kind)];
                let control = opcode.is_control();
                let payload = if control { &payload[..payload.len().min(125)] } else { &payload };
                stream.extend(fragment(fin || control, opcode, payload));
            }
            stream.extend(junk);
            prop_assert_eq!(take(true, &stream, &chunks), take(true, &stream, &[stream.len().max(1)]));
        }

        #[test]
        fn memory_is_bounded_by_what_came(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            chunks in prop::collection::vec(1_usize..40, 1..5),
        ) {
            let (onward, answers, _) = take(true, &bytes, &chunks);
            prop_assert!(onward.len() <= bytes.len() && answers.is_empty());
        }
    }
}
