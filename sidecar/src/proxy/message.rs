//! A client's message that does not arrive in one piece. Pure: bytes in, a message or a control frame out.
//!
//! It is kept as it came, since it goes on as it came once it was judged. Control frames are not held: a ping
//! between two fragments is answered while the message is still incomplete.

use super::frame::{FrameError, Opcode, Reader, Sender, parse, unmask_onto};

/// The agent's own limit for a message. Beyond it the agent closes without a reason; we give one.
pub const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// With the heads of its fragments. Reached only by fragments of a few bytes, as no client makes them.
const MAX_RAW_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// Why a client's stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a fragment out of order")]
    Fragment,
    #[error("a message is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooBig,
    #[error("too many fragments")]
    TooManyFragments,
}

/// What has become whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// One frame, as it came.
    Control(Opcode, Vec<u8>),
    /// All frames of a message, as they came.
    Message(Vec<u8>),
}

/// Collects one message, and control frames within it.
#[derive(Debug)]
pub struct Partial {
    frames: Reader,
    /// Whether its first fragment has begun.
    begun: bool,
    payload_bytes: u64,
    raw: Vec<u8>,
    /// The control frame that is under way. At most 125 bytes and its head.
    control: Vec<u8>,
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            frames: Reader::new(Sender::Client),
            begun: false,
            payload_bytes: 0,
            raw: Vec::new(),
            control: Vec::new(),
        }
    }
}

impl Partial {
    /// Whether nothing is under way, so that it need not be kept.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.begun && self.frames.at_boundary()
    }

    /// Reads `input` until something is whole, at most. Returns how much was used.
    ///
    /// # Errors
    /// The client does not speak the protocol, or says too much. It must not be fed again.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Whole>), Refusal> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let (read, piece) = self.frames.read(rest)?;
            used += read;
            let Some(piece) = piece else { continue };
            let header = piece.header;

            if header.opcode.is_control() {
                if piece.first {
                    header.write(&mut self.control);
                }
                self.control.extend_from_slice(piece.payload);
                if piece.last {
                    let frame = std::mem::take(&mut self.control);
                    return Ok((used, Some(Whole::Control(header.opcode, frame))));
                }
                continue;
            }

            if piece.first {
                match (self.begun, header.opcode) {
                    (false, Opcode::Text | Opcode::Binary) => self.begun = true,
                    (true, Opcode::Continuation) => {}
                    (true | false, _) => return Err(Refusal::Fragment),
                }
                // Refused by what the head announces: nothing that is too long is ever collected.
                self.payload_bytes = self.payload_bytes.saturating_add(header.length);
                if self.payload_bytes > MAX_MESSAGE_BYTES as u64 {
                    return Err(Refusal::TooBig);
                }
                header.write(&mut self.raw);
            }
            self.raw.extend_from_slice(piece.payload);
            if self.raw.len() > MAX_RAW_BYTES {
                return Err(Refusal::TooManyFragments);
            }
            if piece.last && header.fin {
                self.begun = false;
                self.payload_bytes = 0;
                return Ok((used, Some(Whole::Message(std::mem::take(&mut self.raw)))));
            }
        }
        Ok((used, None))
    }
}

/// Appends the payload of a client's message or control frame, unmasked; returns its opcode. `raw` holds whole
/// frames.
pub fn unmask(raw: &[u8], to: &mut Vec<u8>) -> Option<Opcode> {
    let mut opcode = None;
    let mut rest = raw;
    while let Ok(Some(header)) = parse(rest, Sender::Client) {
        let payload = rest.get(header.size()..)?;
        let (payload, later) = payload.split_at_checked(usize::try_from(header.length).ok()?)?;
        unmask_onto(payload, header.mask?, to);
        opcode = opcode.or(Some(header.opcode));
        rest = later;
    }
    opcode
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::frame::{Header, client_message};
    use proptest::prelude::*;

    const KEY: [u8; 4] = [9, 8, 7, 6];

    fn fragment(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Header { fin, opcode, mask: Some(KEY), length: payload.len() as u64 }.write(&mut frame);
        unmask_onto(payload, KEY, &mut frame);
        frame
    }

    /// Everything that becomes whole, and whether something is left.
    fn feed(stream: &[u8], chunk: usize) -> Result<(Vec<Whole>, bool), Refusal> {
        let mut partial = Partial::default();
        let mut all = Vec::new();
        for mut part in stream.chunks(chunk) {
            while !part.is_empty() {
                let (used, whole) = partial.feed(part)?;
                all.extend(whole);
                part = &part[used..];
            }
        }
        Ok((all, !partial.is_empty()))
    }

    #[test]
    fn fragments_are_joined_and_pings_pass() {
        let ping = fragment(true, Opcode::Ping, b"are you there");
        let parts = [
            fragment(false, Opcode::Text, b"con"),
            fragment(false, Opcode::Continuation, b""),
            fragment(true, Opcode::Continuation, b"nect"),
        ];
        let next = client_message(Opcode::Binary, b"next", KEY);
        let stream = [&ping, &parts[0], &ping, &parts[1], &parts[2], &next].map(Vec::as_slice).concat();
        for chunk in 1..=stream.len() {
            let (all, left) = feed(&stream, chunk).unwrap();
            let message = parts.concat();
            let expect = [
                Whole::Control(Opcode::Ping, ping.clone()),
                Whole::Control(Opcode::Ping, ping.clone()),
                Whole::Message(message.clone()),
                Whole::Message(next.clone()),
            ];
            assert_eq!((all, left), (expect.into(), false));
            let mut text = Vec::new();
            assert_eq!(unmask(&message, &mut text), Some(Opcode::Text));
            assert_eq!(text, b"connect");
        }
    }

    #[test]
    fn refusals() {
        let big = vec![b' '; MAX_MESSAGE_BYTES];
        let fragments = |rows: &[(bool, Opcode, &[u8])]| {
            rows.iter()
                .flat_map(|(fin, opcode, payload)| fragment(*fin, *opcode, payload))
                .collect::<Vec<u8>>()
        };
        use Opcode::{Continuation, Text};
        let crumbs =
            [fragment(false, Text, b""), fragment(false, Continuation, b"").repeat(400_000)].concat();
        let rows = [
            ("continuation first", fragments(&[(true, Continuation, b"x")]), Err(Refusal::Fragment)),
            ("two begun", fragments(&[(false, Text, b"x"), (true, Text, b"y")]), Err(Refusal::Fragment)),
            ("not masked", b"\x81\x01x".to_vec(), Err(Refusal::Frame(FrameError::Mask))),
            ("as long as allowed", fragments(&[(true, Text, &big)]), Ok(false)),
            (
                "one byte more, in the end",
                fragments(&[(false, Text, &big), (true, Continuation, b"x")]),
                Err(Refusal::TooBig),
            ),
            ("announced only", b"\x81\xff\0\0\0\0\0\x08\0\x01\0\0\0\0".to_vec(), Err(Refusal::TooBig)),
            ("not complete", fragments(&[(false, Text, b"x")]), Ok(true)),
            ("empty fragments for ever", crumbs, Err(Refusal::TooManyFragments)),
        ];
        for (name, stream, expect) in rows {
            assert_eq!(feed(&stream, 4096).map(|(_, left)| left), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..50) {
            prop_assert_eq!(feed(&bytes, chunk), feed(&bytes, 200));
        }

        #[test]
        fn any_bytes_can_be_unmasked(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            let _any = unmask(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len());
        }
    }
}
