//! Close frames: what one side may say, and what the other is told. Pure.

use super::frame::{Opcode, client_message, server_frame};

/// Longest reason: a control frame carries 125 bytes, and the code takes two.
pub const MAX_REASON_BYTES: usize = 123;

/// Ends in good order.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL: u16 = 1002;
/// Text that is not UTF-8.
pub const INVALID_DATA: u16 = 1007;
pub const POLICY: u16 = 1008;
pub const TOO_BIG: u16 = 1009;
/// The other side is at fault, not the reader.
pub const INTERNAL: u16 = 1011;
pub const SERVICE_RESTART: u16 = 1012;

/// What a close frame says. Without a code it is empty, which an API shows as 1005.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    code: Option<u16>,
    reason: String,
}

/// Why a close frame is none. The code is for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadClose {
    #[error("half a code")]
    Length,
    #[error("a code that must not be sent")]
    Code,
    #[error("a reason that is not UTF-8")]
    Reason,
}

impl BadClose {
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Length | Self::Code => PROTOCOL,
            Self::Reason => INVALID_DATA,
        }
    }
}

/// Whether an endpoint may send `code`. 1004, 1005, 1006 and 1015 mean something only to programs, below 1000 and
/// from 1016 to 2999 nothing is defined.
#[must_use]
pub const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl Close {
    /// One of ours. The reason is cut to what fits, at the end of a character.
    #[must_use]
    pub fn new(code: u16, reason: &str) -> Self {
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON_BYTES)).unwrap_or_default();
        Self { code: Some(code), reason: reason.to_owned() }
    }

    /// Reads the payload of a close frame.
    ///
    /// # Errors
    /// It breaks a rule of RFC 6455, section 5.5.1 or 7.4.
    pub fn parse(payload: &[u8]) -> Result<Self, BadClose> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            let empty = Self { code: None, reason: String::new() };
            return if payload.is_empty() { Ok(empty) } else { Err(BadClose::Length) };
        };
        let code = u16::from_be_bytes(*code);
        if !may_be_sent(code) {
            return Err(BadClose::Code);
        }
        let reason = str::from_utf8(reason).map_err(|_| BadClose::Reason)?;
        Ok(Self { code: Some(code), reason: reason.to_owned() })
    }

    /// What the client is told, from the payload of the agent's close frame. A frame that must not be sent becomes
    /// 1011: the client would fail the connection over it, and learn nothing.
    #[must_use]
    pub fn of_agent(payload: &[u8]) -> Self {
        match Self::parse(payload) {
            Ok(Self { code: Some(code), reason }) => Self::new(code, for_client(&reason)),
            Ok(empty) => empty,
            Err(_) => {
                let reason = payload.get(2..).unwrap_or_default();
                Self::new(INTERNAL, for_client(&String::from_utf8_lossy(reason)))
            }
        }
    }

    /// As a frame towards a client.
    #[must_use]
    pub fn to_client(&self) -> Vec<u8> {
        server_frame(Opcode::Close, &self.payload())
    }

    /// As a frame towards the agent.
    #[must_use]
    pub fn to_agent(&self, mask: [u8; 4]) -> Vec<u8> {
        client_message(Opcode::Close, &self.payload(), mask)
    }

    fn payload(&self) -> Vec<u8> {
        let code = self.code.map(u16::to_be_bytes);
        code.into_iter().flatten().chain(self.reason.bytes()).collect()
    }
}

/// The agent's advice about its token is for whoever runs it: a client of ours never has one, and cannot set it.
fn for_client(reason: &str) -> &str {
    let about_tokens = ["gateway token missing", "gateway token mismatch", "pairing required"];
    if about_tokens.iter().any(|text| reason.contains(text)) { "the agent refused" } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(code: u16, reason: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], reason].concat()
    }

    #[test]
    fn what_clients_may_say() {
        let rows = [
            (vec![], Ok(None)),
            (vec![3], Err(BadClose::Length)),
            (payload(1000, b""), Ok(Some(1000))),
            (payload(4999, "\u{e4}".as_bytes()), Ok(Some(4999))),
            (payload(1000, b"\xff"), Err(BadClose::Reason)),
            // Cut within a character.
            (payload(1000, b"\xc3"), Err(BadClose::Reason)),
        ];
        for (payload, expect) in rows {
            assert_eq!(Close::parse(&payload).map(|close| close.code), expect, "{payload:?}");
        }
        for code in 0..=u16::MAX {
            let legal = match code {
                1004..=1006 | 1015 => false,
                1000..=1014 | 3000..=4999 => true,
                _ => false,
            };
            assert_eq!(Close::parse(&payload(code, b"x")).is_ok(), legal, "{code}");
        }
    }

    #[test]
    fn what_clients_are_told() {
        let long = "\u{e4}".repeat(61);
        let rows: [(Vec<u8>, Option<u16>, &str); 9] = [
            (vec![], None, ""),
            (payload(1012, b"service restart"), Some(1012), "service restart"),
            (payload(1008, b"slow consumer"), Some(1008), "slow consumer"),
            (payload(4000, long.as_bytes()), Some(4000), &long),
            (payload(1005, b"x"), Some(1011), "x"),
            (payload(1006, b""), Some(1011), ""),
            (payload(1015, b"\xff"), Some(1011), "\u{fffd}"),
            (vec![3], Some(1011), ""),
            (
                payload(1008, b"unauthorized: gateway token mismatch (paste it)"),
                Some(1008),
                "the agent refused",
            ),
        ];
        for (payload, code, reason) in rows {
            let close = Close::of_agent(&payload);
            assert_eq!((close.code, close.reason.as_str()), (code, reason), "{payload:?}");
        }
    }

    #[test]
    fn frames() {
        assert_eq!(Close::new(1012, "service restart").to_client(), b"\x88\x11\x03\xf4service restart");
        assert_eq!(Close::of_agent(b"").to_client(), b"\x88\x00");
        assert_eq!(Close::new(1001, "").to_agent([1, 2, 3, 4]), b"\x88\x82\x01\x02\x03\x04\x02\xeb");
        let long = Close::new(1000, &"\u{e4}".repeat(100));
        assert_eq!(long.reason.chars().count(), 61);
    }

    proptest! {
        #[test]
        fn what_the_client_gets_is_always_a_close_frame(payload in prop::collection::vec(any::<u8>(), 0..=125)) {
            let frame = Close::of_agent(&payload).to_client();
            prop_assert!(frame.len() <= 2 + 125);
            prop_assert!(Close::parse(&frame[2..]).is_ok());
        }

        #[test]
        fn what_may_be_said_is_passed_on_as_it_is(code in prop::sample::select(vec![1000_u16, 1003, 1012, 3000, 4999]),
            reason in "[ -~\u{e4}]{0,60}") {
            let said = payload(code, reason.as_bytes());
            prop_assert_eq!(&Close::of_agent(&said).to_client()[2..], &said);
        }
    }
}
