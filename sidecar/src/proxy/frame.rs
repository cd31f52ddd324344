//! WebSocket frames (RFC 6455, section 5), without I/O and without buffering payload.
//!
//! A [`Reader`] is fed whatever arrived, in pieces of any size, and tells where frames begin and end. It keeps
//! 14 bytes at most, so it can run along a stream that is copied untouched. No extension is ever negotiated
//! here, so the reserved bits must be zero.

/// The longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;

/// Control frames carry at most this much, in one piece.
pub const MAX_CONTROL_BYTES: u64 = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Who sent a stream. Clients mask, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn parse(nibble: u8) -> Option<Self> {
        match nibble {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xA => Some(Self::Pong),
            _ => None,
        }
    }

    const fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Whether a frame of this kind may stand between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub fin: bool,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    /// Of the payload, in bytes.
    pub length: u64,
}

impl Header {
    /// How many bytes the header itself takes.
    #[must_use]
    pub const fn size(&self) -> usize {
        let length = match self.length {
            ..=125 => 0,
            126..=0xFFFF => 2,
            _ => 8,
        };
        2 + length + if self.mask.is_some() { 4 } else { 0 }
    }

    /// Writes the header in its shortest form.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.push(if self.fin { FIN } else { 0 } | self.opcode.nibble());
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length @ ..=125), _) => to.push(masked | length),
            (_, Ok(length)) => {
                to.push(masked | 126);
                to.extend(length.to_be_bytes());
            }
            (_, Err(_)) => {
                to.push(masked | 127);
                to.extend(self.length.to_be_bytes());
            }
        }
        to.extend(self.mask.into_iter().flatten());
    }
}

/// Why a stream is not WebSocket any more. Nothing that follows can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("reserved bits are set")]
    Reserved,
    #[error("unknown opcode")]
    Opcode,
    #[error("a control frame is fragmented or too long")]
    Control,
    #[error("a client's frame is not masked, or a server's is")]
    Mask,
    #[error("the length is not in its shortest form, or is negative")]
    Length,
}

/// A part of one frame, as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    pub header: Header,
    /// Still masked.
    pub payload: &'a [u8],
    /// Where in the frame's payload this part begins.
    pub offset: u64,
    /// Whether the frame begins with this part.
    pub first: bool,
    /// Whether the frame ends with this part.
    pub last: bool,
}

impl Piece<'_> {
    /// Appends the payload to `to`, unmasked.
    pub fn unmask_onto(&self, to: &mut Vec<u8>) {
        match self.header.mask {
            None => to.extend_from_slice(self.payload),
            Some(mut key) => {
                // Only the offset's remainder counts, and that fits.
                key.rotate_left(usize::try_from(self.offset % 4).unwrap_or_default());
                unmask_onto(self.payload, key, to);
            }
        }
    }
}

/// Appends `payload` to `to`, unmasked if it was masked, and masked if it was not.
pub fn unmask_onto(payload: &[u8], key: [u8; 4], to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(payload);
    let word = u32::from_ne_bytes(key);
    // By words, which the compiler makes vectors of.
    let (words, rest) = to.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Reader {
    sender: Sender,
    state: State,
}

#[derive(Debug)]
enum State {
    Head { bytes: [u8; MAX_HEADER_BYTES], have: u8 },
    Payload { header: Header, done: u64 },
}

const NO_HEAD: State = State::Head { bytes: [0; MAX_HEADER_BYTES], have: 0 };

impl Reader {
    /// At the beginning of a stream.
    #[must_use]
    pub const fn new(sender: Sender) -> Self {
        Self { sender, state: NO_HEAD }
    }

    /// Whether a frame could be put in here without breaking another.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Head { have: 0, .. })
    }

    /// Reads from the front of `input`, to the end of one frame at most. Returns how many bytes were read, and
    /// the part of a frame that they brought; there is none while the head is incomplete, and `input` is then
    /// used up. Call it again with the rest as long as there is one.
    ///
    /// # Errors
    /// The stream is not WebSocket. The reader is of no use after that.
    pub fn read<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Piece<'a>>), FrameError> {
        match self.state {
            State::Payload { header, done } => {
                let (used, piece) = self.payload(header, done, false, input);
                Ok((used, Some(piece)))
            }
            State::Head { mut bytes, have } => {
                let mut have = usize::from(have);
                if have == 0
                    && let Some(header) = parse(input, self.sender)?
                {
                    let rest = input.get(header.size()..).unwrap_or_default();
                    let (used, piece) = self.payload(header, 0, true, rest);
                    return Ok((header.size() + used, Some(piece)));
                }
                for (at, byte) in input.iter().enumerate() {
                    if let Some(slot) = bytes.get_mut(have) {
                        *slot = *byte;
                    }
                    have += 1;
                    if let Some(header) = parse(bytes.get(..have).unwrap_or_default(), self.sender)? {
                        let head = at + 1;
                        let rest = input.get(head..).unwrap_or_default();
                        let (used, piece) = self.payload(header, 0, true, rest);
                        return Ok((head + used, Some(piece)));
                    }
                }
                // A complete head would have been parsed, so this is at most 13.
                self.state = State::Head { bytes, have: u8::try_from(have).unwrap_or(u8::MAX) };
                Ok((input.len(), None))
            }
        }
    }

    fn payload<'a>(&mut self, header: Header, done: u64, first: bool, input: &'a [u8]) -> (usize, Piece<'a>) {
        let left = header.length.saturating_sub(done);
        let payload = usize::try_from(left).ok().and_then(|left| input.get(..left)).unwrap_or(input);
        let now_done = done.saturating_add(payload.len() as u64);
        let last = now_done >= header.length;
        self.state = if last { NO_HEAD } else { State::Payload { header, done: now_done } };
        (payload.len(), Piece { header, payload, offset: done, first, last })
    }
}

/// Parses the head at the front of `head`, or says that it is not complete. What can be refused early is.
///
/// # Errors
/// It is no head that `sender` may send.
pub fn parse(head: &[u8], sender: Sender) -> Result<Option<Header>, FrameError> {
    let [first, second, rest @ ..] = head else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(FrameError::Reserved);
    }
    let fin = first & FIN != 0;
    let opcode = Opcode::parse(first & 0x0F).ok_or(FrameError::Opcode)?;
    let masked = second & MASKED != 0;
    let must_mask = match sender {
        Sender::Client => true,
        Sender::Server => false,
    };
    if masked != must_mask {
        return Err(FrameError::Mask);
    }
    let short = u64::from(second & !MASKED);
    if opcode.is_control() && (!fin || short > MAX_CONTROL_BYTES) {
        return Err(FrameError::Control);
    }
    let (length, rest) = match short {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), rest)
        }
        length => (length, rest),
    };
    let shortest = match short {
        126 => length > 125,
        127 => length > u64::from(u16::MAX) && i64::try_from(length).is_ok(),
        _ => true,
    };
    if !shortest {
        return Err(FrameError::Length);
    }
    let mask = if masked {
        let Some((key, _)) = rest.split_first_chunk() else { return Ok(None) };
        Some(*key)
    } else {
        None
    };
    Ok(Some(Header { fin, opcode, mask, length }))
}

/// One whole message of a client.
#[must_use]
pub fn client_message(opcode: Opcode, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let header = Header { fin: true, opcode, mask: Some(key), length: payload.len() as u64 };
    let mut frame = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
    header.write(&mut frame);
    unmask_onto(payload, key, &mut frame);
    frame
}

/// One whole frame of a server.
#[must_use]
pub fn server_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let header = Header { fin: true, opcode, mask: None, length: payload.len() as u64 };
    let mut frame = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
    header.write(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    /// Every frame of `input`, in chunks of `chunk` bytes: header and unmasked payload.
    fn frames(sender: Sender, input: &[u8], chunk: usize) -> Result<Vec<(Header, Vec<u8>)>, FrameError> {
        let mut reader = Reader::new(sender);
        let mut all: Vec<(Header, Vec<u8>)> = Vec::new();
        for mut part in input.chunks(chunk.max(1)) {
            while !part.is_empty() {
                let (used, piece) = reader.read(part)?;
                assert!(used > 0 && used <= part.len());
                part = &part[used..];
                if let Some(piece) = piece {
                    if piece.first {
                        all.push((piece.header, Vec::new()));
                    }
                    let payload = &mut all.last_mut().unwrap().1;
                    assert_eq!(payload.len() as u64, piece.offset);
                    piece.unmask_onto(payload);
                    assert_eq!(piece.last, payload.len() as u64 == piece.header.length);
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let text = |mask| Header { fin: true, opcode: Opcode::Text, mask, length: 5 };
        let rows: &[(Sender, &[u8], Header)] = &[
            (Sender::Server, b"\x81\x05Hello", text(None)),
            (
                Sender::Client,
                b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
                text(Some([0x37, 0xfa, 0x21, 0x3d])),
            ),
        ];
        for (sender, bytes, header) in rows {
            for chunk in 1..=bytes.len() {
                assert_eq!(frames(*sender, bytes, chunk), Ok(vec![(*header, b"Hello".to_vec())]));
            }
        }
    }

    #[test]
    fn refusals() {
        let rows: &[(&str, Sender, &[u8], FrameError)] = &[
            ("RSV1", Sender::Server, b"\xc1\x00", FrameError::Reserved),
            ("RSV3", Sender::Client, b"\x91\x80\0\0\0\0", FrameError::Reserved),
            ("opcode 3", Sender::Server, b"\x83\x00", FrameError::Opcode),
            ("opcode 15", Sender::Server, b"\x8f\x00", FrameError::Opcode),
            ("unmasked client", Sender::Client, b"\x81\x05Hello", FrameError::Mask),
            ("masked server", Sender::Server, b"\x81\x85\0\0\0\0Hello", FrameError::Mask),
            ("fragmented ping", Sender::Server, b"\x09\x00", FrameError::Control),
            ("long close", Sender::Server, b"\x88\x7e\x00\x80", FrameError::Control),
            ("16 bits for 125", Sender::Server, b"\x82\x7e\x00\x7d", FrameError::Length),
            ("64 bits for 65535", Sender::Server, b"\x82\x7f\0\0\0\0\0\0\xff\xff", FrameError::Length),
            ("negative", Sender::Server, b"\x82\x7f\x80\0\0\0\0\x01\0\0", FrameError::Length),
        ];
        for (name, sender, bytes, expect) in rows {
            assert_eq!(frames(*sender, bytes, 1), Err(*expect), "{name}");
            assert_eq!(frames(*sender, bytes, 64), Err(*expect), "{name}");
        }
    }

    #[test]
    fn a_frame_may_be_put_in_only_between_frames() {
        let mut reader = Reader::new(Sender::Server);
        let stream = b"\x81\x02ab\x89\x00\x01\x01c";
        let mut boundaries = vec![reader.at_boundary()];
        for byte in stream {
            reader.read(std::slice::from_ref(byte)).unwrap();
            boundaries.push(reader.at_boundary());
        }
        let ends: Vec<usize> = (0..boundaries.len()).filter(|at| boundaries[*at]).collect();
        assert_eq!(ends, [0, 4, 6, 9]);
    }

    #[test]
    fn a_length_of_63_bits_does_not_overflow() {
        let mut reader = Reader::new(Sender::Server);
        let (used, piece) = reader.read(b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffx").unwrap();
        assert_eq!(used, 11);
        assert!(!piece.unwrap().last);
    }

    #[test]
    fn sizes_of_heads() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 40] {
            for mask in [None, Some(KEY)] {
                let header = Header { fin: true, opcode: Opcode::Binary, mask, length };
                let mut bytes = Vec::new();
                header.write(&mut bytes);
                assert_eq!(bytes.len(), header.size(), "{length}");
                bytes.extend(b"behind it");
                let sender = if mask.is_some() { Sender::Client } else { Sender::Server };
                assert_eq!(parse(&bytes, sender), Ok(Some(header)));
            }
        }
    }

    fn opcode() -> impl Strategy<Value = Opcode> {
        use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
        prop::sample::select(vec![Continuation, Text, Binary, Close, Ping, Pong])
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_in_any_chunks(
            rows in prop::collection::vec((any::<bool>(), opcode(), any::<[u8; 4]>(), 0_usize..700), 1..6),
            masked in any::<bool>(),
            chunk in 1_usize..2000,
        ) {
            let sender = if masked { Sender::Client } else { Sender::Server };
            let mut stream = Vec::new();
            let mut expect = Vec::new();
            for (fin, opcode, key, length) in rows {
                let (fin, length) = if opcode.is_control() { (true, length % 126) } else { (fin, length) };
                // Every third payload is long enough for 64 bits of length.
                let length = if length % 3 == 0 && !opcode.is_control() { length + 65_536 } else { length };
                let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                let header = Header { fin, opcode, mask: masked.then_some(key), length: length as u64 };
                header.write(&mut stream);
                let key = if masked { key } else { [0; 4] };
                stream.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
                expect.push((header, payload));
            }
            prop_assert_eq!(frames(sender, &stream, chunk), Ok(expect));
        }

        #[test]
        fn no_input_makes_it_panic_or_stand_still(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _any = frames(Sender::Client, &bytes, 3);
            let _any = frames(Sender::Server, &bytes, 300);
        }

        #[test]
        fn client_messages(payload in prop::collection::vec(any::<u8>(), 0..300), key in any::<[u8; 4]>()) {
            let read = frames(Sender::Client, &client_message(Opcode::Text, &payload, key), 5).unwrap();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(&read[0].1, &payload);
        }
    }

    #[test]
    fn the_mask_goes_on_across_pieces() {
        let frame = client_message(Opcode::Text, b"abcdefg", KEY);
        for chunk in 1..frame.len() {
            assert_eq!(frames(Sender::Client, &frame, chunk).unwrap()[0].1, b"abcdefg");
        }
    }
}
