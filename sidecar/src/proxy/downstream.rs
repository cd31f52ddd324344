//! The agent's stream on its way to the client. Pure: it works in the buffer that was read into.
//!
//! Payload is never looked at. But a frame that has not arrived whole goes on as a fragment of what is there, which
//! every intermediary may do where no extension is in use (RFC 6455, section 5.4). So after each chunk the client's
//! stream is at the end of a frame, and a ping or a close of ours can follow at any time: also when the agent dies
//! in the middle of a megabyte. Control frames must not be split, so one that is not whole is held back.

use std::ops::Range;

use super::frame::{FrameError, Header, MAX_CONTROL_BYTES, Opcode, Sender, parse};

/// How much must be free in front of a chunk: for what was held back, or for the head of a fragment.
pub const ROOM: usize = 128;

/// The longest that is held back: one byte less than a control frame, or a head.
const MAX_HELD_BYTES: usize = 2 + MAX_CONTROL_BYTES as usize;
const _: () = assert!(MAX_HELD_BYTES <= ROOM);

/// What of a chunk goes to the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Parts of the buffer, in order. The second one is rare.
    pub runs: [Range<usize>; 2],
    /// Nothing that follows belongs to the stream.
    pub end: Option<End>,
}

/// Why the agent's stream has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By a close frame with this payload. It is not among the runs.
    Close(Vec<u8>),
    /// It is not WebSocket any more.
    Broken(FrameError),
}

/// Follows the stream.
#[derive(Debug, Default)]
pub struct Downstream {
    /// The frame that is under way, of which fragments were sent.
    inside: Option<Inside>,
    /// The beginning of a frame that has to be held back.
    held: Vec<u8>,
    in_message: bool,
}

#[derive(Debug, Clone, Copy)]
struct Inside {
    fin: bool,
    /// Payload that has not arrived.
    left: u64,
}

impl Downstream {
    /// Whether a whole message of ours could follow. A control frame always can.
    #[must_use]
    pub const fn between_messages(&self) -> bool {
        !self.in_message
    }

    /// Takes the chunk `buffer[ROOM..end]`. The space before it is used, and heads in it are changed.
    pub fn pass(&mut self, buffer: &mut [u8], end: usize) -> Passed {
        let mut passed = Passed::default();
        let mut at = ROOM.saturating_sub(self.held.len());
        put(buffer, at, &self.held);
        self.held = Vec::new();
        let mut start = at;

        if let Some(Inside { fin, left }) = self.inside.take() {
            let here = end.saturating_sub(ROOM);
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(here);
            let left = left.saturating_sub(now as u64);
            let whole = left == 0;
            let header =
                Header { fin: fin && whole, opcode: Opcode::Continuation, mask: None, length: now as u64 };
            start = put_head(buffer, ROOM, &header);
            at = ROOM.saturating_add(now);
            if whole {
                self.in_message = !fin;
            } else {
                self.inside = Some(Inside { fin, left });
            }
        }

        while let Some(rest) = buffer.get(at..end).filter(|rest| !rest.is_empty()) {
            let header = match parse(rest, Sender::Server) {
                Ok(header) => header,
                Err(error) => {
                    passed.end = Some(End::Broken(error));
                    break;
                }
            };
            let Some(header) = header else {
                self.held = rest.to_vec();
                break;
            };
            let available = rest.len().saturating_sub(header.size());
            let payload = usize::try_from(header.length).ok().filter(|length| *length <= available);
            match payload {
                Some(length) if header.opcode == Opcode::Close => {
                    let payload = rest.get(header.size()..).and_then(|rest| rest.get(..length));
                    passed.end = Some(End::Close(payload.unwrap_or_default().to_vec()));
                    break;
                }
                Some(length) => {
                    if !header.opcode.is_control() {
                        self.in_message = !header.fin;
                    }
                    at = at.saturating_add(header.size()).saturating_add(length);
                }
                None if header.opcode.is_control() || available == 0 => {
                    self.held = rest.to_vec();
                    break;
                }
                None => {
                    self.in_message = true;
                    let left = header.length.saturating_sub(available as u64);
                    self.inside = Some(Inside { fin: header.fin, left });
                    let fragment = Header { fin: false, length: available as u64, ..header };
                    let payload = at.saturating_add(header.size());
                    passed.runs = [start..at, put_head(buffer, payload, &fragment)..end];
                    return passed;
                }
            }
        }
        passed.runs = [start..at, 0..0];
        passed
    }
}

/// Writes `header` so that it ends at `end`; returns where it begins.
fn put_head(buffer: &mut [u8], end: usize, header: &Header) -> usize {
    let mut head = Vec::with_capacity(header.size());
    header.write(&mut head);
    let start = end.saturating_sub(head.len());
    put(buffer, start, &head);
    start
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::frame::{Reader, server_frame};
    use proptest::prelude::*;

    /// What goes to the client chunk by chunk, and how the stream ended.
    fn pass(stream: &[u8], chunks: &[usize]) -> (Vec<Vec<u8>>, Option<End>, Downstream) {
        let mut down = Downstream::default();
        let (mut sent, mut rest) = (Vec::new(), stream);
        for chunk in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*chunk).min(rest.len()));
            let mut buffer = vec![0; ROOM];
            buffer.extend_from_slice(now);
            let end = buffer.len();
            let passed = down.pass(&mut buffer, end);
            sent.push(passed.runs.into_iter().flat_map(|run| buffer[run].to_vec()).collect());
            if passed.end.is_some() {
                return (sent, passed.end, down);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        (sent, None, down)
    }

    /// Whole messages and control frames, in order. Every chunk must end with a frame.
    fn messages(sent: &[Vec<u8>]) -> Vec<(Opcode, Vec<u8>)> {
        let mut reader = Reader::new(Sender::Server);
        let mut open: Option<(Opcode, Vec<u8>)> = None;
        let mut control = Vec::new();
        let mut all = Vec::new();
        for mut bytes in sent.iter().map(Vec::as_slice) {
            while !bytes.is_empty() {
                let (used, piece) = reader.read(bytes).unwrap();
                bytes = &bytes[used..];
                let piece = piece.unwrap();
                let header = piece.header;
                if header.opcode.is_control() {
                    control.extend_from_slice(piece.payload);
                    if piece.last {
                        all.push((header.opcode, std::mem::take(&mut control)));
                    }
                    continue;
                }
                match (&open, header.opcode) {
                    (Some(_), Opcode::Continuation) => {}
                    (None, Opcode::Text | Opcode::Binary) => open = Some((header.opcode, Vec::new())),
                    other => assert!(!piece.first, "{other:?}"),
                }
                let (opcode, payload) = open.as_mut().unwrap();
                payload.extend_from_slice(piece.payload);
                if piece.last && header.fin {
                    all.push((*opcode, std::mem::take(payload)));
                    open = None;
                }
            }
            assert!(reader.at_boundary());
        }
        all
    }

    #[test]
    fn whole_frames_pass_as_they_are() {
        let mut stream = Vec::new();
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            stream.extend(server_frame(Opcode::Binary, &vec![7; length]));
        }
        stream.extend(b"\x01\x01a\x89\x01p\x80\x01b");
        let (sent, end, down) = pass(&stream, &[stream.len()]);
        assert_eq!((sent, end), (vec![stream], None));
        assert!(down.between_messages() && down.held.is_empty());
    }

    #[test]
    fn a_frame_in_pieces_becomes_fragments() {
        let frame = server_frame(Opcode::Text, &[b'x'; 300]);
        let (sent, _, down) = pass(&frame, &[104]);
        let heads: Vec<&[u8]> = sent.iter().map(|frame| &frame[..2]).collect();
        assert_eq!(heads, [b"\x01\x64", b"\x00\x68", b"\x80\x60"]);
        assert!(down.between_messages());
        assert_eq!(messages(&sent), [(Opcode::Text, vec![b'x'; 300])]);
        let (_, _, down) = pass(&frame[..200], &[104]);
        assert!(!down.between_messages());
    }

    #[test]
    fn ends() {
        let rows: &[(&[u8], usize, Option<End>)] = &[
            (b"\x81\x01a\x88\x02\x03\xf4\x81\x01b", 1, Some(End::Close(b"\x03\xf4".to_vec()))),
            (b"\x81\x01a\x88\x00", 1, Some(End::Close(vec![]))),
            (b"\x81\x01a\x88\x02\x03", 1, None),
            (b"\x81\x01a\xc1\x00", 1, Some(End::Broken(FrameError::Reserved))),
            (b"\x81\x01a\x81\x81\0\0\0\0x", 1, Some(End::Broken(FrameError::Mask))),
            (b"\x81\x01a\x09\x00", 1, Some(End::Broken(FrameError::Control))),
        ];
        for (stream, whole, end) in rows {
            for chunk in 1..=stream.len() {
                let (sent, ended, _) = pass(stream, &[chunk]);
                assert_eq!(&ended, end, "{stream:?}");
                assert_eq!(messages(&sent).len(), *whole, "{stream:?} by {chunk}");
            }
        }
    }

    fn row() -> impl Strategy<Value = (bool, Vec<u8>)> {
        let length = prop_oneof![0_usize..300, Just(125), Just(126), Just(65_535), 65_536_usize..140_000];
        (any::<bool>(), length).prop_map(|(ping, length)| {
            let length = if ping { length % 126 } else { length };
            (ping, (0..length).map(|i| (i % 251) as u8).collect())
        })
    }

    proptest! {
        #[test]
        fn messages_are_the_same_in_any_chunks(
            rows in prop::collection::vec(row(), 1..6),
            chunks in prop::collection::vec(1_usize..70_000, 1..5),
        ) {
            let mut stream = Vec::new();
            let mut expect = Vec::new();
            for (ping, payload) in rows {
                let opcode = if ping { Opcode::Ping } else { Opcode::Text };
                stream.extend(server_frame(opcode, &payload));
                expect.push((opcode, payload));
            }
            let (sent, end, down) = pass(&stream, &chunks);
            prop_assert_eq!(end, None);
            prop_assert!(down.between_messages());
            prop_assert_eq!(messages(&sent), expect);
        }

        #[test]
        fn any_bytes_keep_the_memory_bounded(
            bytes in prop::collection::vec(any::<u8>(), 1..600),
            chunks in prop::collection::vec(1_usize..40, 1..5),
        ) {
            let (sent, _, down) = pass(&bytes, &chunks);
            prop_assert!(down.held.len() <= MAX_HELD_BYTES);
            let out: usize = sent.iter().map(Vec::len).sum();
            // One head more for each chunk.
            prop_assert!(out <= bytes.len() + 10 * sent.len());
        }
    }
}
