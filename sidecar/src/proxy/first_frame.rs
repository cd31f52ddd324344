//! A client's first message, put together from whatever arrives. Pure: bytes in, bytes and a verdict out.
//!
//! It has to be held back, because the agent's token is written into it. Control frames are not held: a ping
//! between two fragments is answered while the message is still incomplete.

use super::frame::{FrameError, Opcode, Reader, Sender};

/// The agent's own limit for a frame. Beyond it the agent closes without a reason; we give one.
pub const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// What a piece of input led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// The message goes on; all input was used.
    More,
    /// It is complete. The first `used` bytes of the input belonged to it, or stood before it.
    Message { used: usize, message: Message },
}

/// A message of a client, unmasked.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Text or binary.
    pub opcode: Opcode,
    pub payload: Vec<u8>,
}

/// Why there will be no first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a fragment out of order")]
    Fragment,
    #[error("longer than {MAX_MESSAGE_BYTES} bytes")]
    TooBig,
}

/// Collects the first message.
#[derive(Debug)]
pub struct FirstMessage {
    frames: Reader,
    /// Of the message, once its first fragment has begun.
    opcode: Option<Opcode>,
    payload: Vec<u8>,
    /// The control frame that is under way, as it came. At most 125 bytes and its header.
    control: Vec<u8>,
}

impl Default for FirstMessage {
    fn default() -> Self {
        Self { frames: Reader::new(Sender::Client), opcode: None, payload: Vec::new(), control: Vec::new() }
    }
}

impl FirstMessage {
    /// Takes what arrived. Control frames that are complete are appended to `onward`, as they came.
    ///
    /// # Errors
    /// The client does not speak the protocol, or says too much. It must not be fed again.
    pub fn feed(&mut self, input: &[u8], onward: &mut Vec<u8>) -> Result<Fed, Refusal> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let (read, piece) = self.frames.read(rest)?;
            used += read;
            let Some(piece) = piece else { continue };
            let header = piece.header;

            if header.opcode.is_control() {
                if self.control.is_empty() {
                    header.write(&mut self.control);
                }
                self.control.extend_from_slice(piece.payload);
                if piece.last {
                    onward.append(&mut self.control);
                }
                continue;
            }

            if piece.first {
                match (self.opcode, header.opcode) {
                    (None, Opcode::Text | Opcode::Binary) => self.opcode = Some(header.opcode),
                    (Some(_), Opcode::Continuation) => {}
                    (None | Some(_), _) => return Err(Refusal::Fragment),
                }
                // Refused by what the header announces: nothing that is too long is ever collected.
                let total = header.length.saturating_add(self.payload.len() as u64);
                if total > MAX_MESSAGE_BYTES as u64 {
                    return Err(Refusal::TooBig);
                }
            }
            piece.unmask_onto(&mut self.payload);
            if let (true, true, Some(opcode)) = (piece.last, header.fin, self.opcode) {
                let payload = std::mem::take(&mut self.payload);
                return Ok(Fed::Message { used, message: Message { opcode, payload } });
            }
        }
        Ok(Fed::More)
    }
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
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(b, k)| b ^ k));
        frame
    }

    /// The message, what went onward before it, and what was left after it.
    type Parts = (Message, Vec<u8>, Vec<u8>);

    fn feed(stream: &[u8], chunk: usize) -> Result<Option<Parts>, Refusal> {
        let mut first = FirstMessage::default();
        let mut onward = Vec::new();
        let mut at = 0;
        for part in stream.chunks(chunk) {
            match first.feed(part, &mut onward)? {
                Fed::More => at += part.len(),
                Fed::Message { used, message } => {
                    return Ok(Some((message, onward, stream[at + used..].to_vec())));
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn fragments_are_joined_and_pings_pass() {
        let ping = fragment(true, Opcode::Ping, b"are you there");
        let next = client_message(Opcode::Text, b"next", KEY);
        let mut stream = ping.clone();
        stream.extend(fragment(false, Opcode::Text, b"con"));
        stream.extend(&ping);
        stream.extend(fragment(false, Opcode::Continuation, b""));
        stream.extend(fragment(true, Opcode::Continuation, b"nect"));
        stream.extend(&next);
        for chunk in 1..=stream.len() {
            let (message, onward, rest) = feed(&stream, chunk).unwrap().unwrap();
            assert_eq!(message, Message { opcode: Opcode::Text, payload: b"connect".to_vec() });
            assert_eq!(onward, [&ping[..], &ping[..]].concat());
            assert_eq!(rest, next);
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
        let rows = [
            ("continuation first", fragments(&[(true, Continuation, b"x")]), Err(Refusal::Fragment)),
            ("two begun", fragments(&[(false, Text, b"x"), (true, Text, b"y")]), Err(Refusal::Fragment)),
            ("not masked", b"\x81\x01x".to_vec(), Err(Refusal::Frame(FrameError::Mask))),
            ("as long as allowed", fragments(&[(true, Text, &big)]), Ok(true)),
            (
                "one byte more, in the end",
                fragments(&[(false, Text, &big), (true, Continuation, b"x")]),
                Err(Refusal::TooBig),
            ),
            ("announced only", b"\x81\xff\0\0\0\0\0\x08\0\x01\0\0\0\0".to_vec(), Err(Refusal::TooBig)),
            ("not complete", fragments(&[(false, Text, b"x")]), Ok(false)),
        ];
        for (name, stream, expect) in rows {
            assert_eq!(feed(&stream, 4096).map(|message| message.is_some()), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..50) {
            prop_assert_eq!(feed(&bytes, chunk), feed(&bytes, 200));
        }
    }
}
