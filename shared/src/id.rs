//! Identifiers. Each has its own type, and each is made by parsing only, so that a value of the type is proof
//! that it is well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier that it should be. It never repeats the text: that came from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed {what}")]
pub struct IdError {
    what: &'static str,
}

macro_rules! text_id {
    ($name:ident, $what:literal, $valid:expr, $(#[$doc:meta])*) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text, in the case in which it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(IdError { what: $what }) }
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

/// What every user id starts with.
pub const USER_ID_PREFIX: &str = "user_";

/// Longest user id accepted, in bytes. Clerk's ids have 32; the bound keeps R2 keys and object names short.
pub const USER_ID_MAX_BYTES: usize = 128;

text_id! {
    UserId, "user id",
    |text| text.len() <= USER_ID_MAX_BYTES
        && text.strip_prefix(USER_ID_PREFIX).is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        }),
    /// A customer, as Clerk names them: `user_` and at least one of `[A-Za-z0-9_.-]`, at most
    /// [`USER_ID_MAX_BYTES`] in all. Case is part of the identity. There is no default and no anonymous value.
    ///
    /// Being well formed is not being authentic: only [`crate::signed_url::verify`] and
    /// [`crate::ticket::verify`] hand out a user id that somebody has proven to be.
}

impl UserId {
    /// Whether names for machines, volumes and directories may be made for this user. An id with a dot was
    /// possible under the legacy rules and keeps working there, but no new name is built from it.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        !self.0.contains('.')
    }
}

text_id! {
    MachineId, "machine id",
    |text| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
    /// A Fly Machine: 1 to 64 of `[a-z0-9]`, as in `fly-force-instance-id`.
}

text_id! {
    VolumeId, "volume id",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
    /// A Fly volume: 1 to 64 of `[a-z0-9_]`, as in `vol_4y5ln0y7l8k0l2qr`.
}

text_id! {
    AppName, "app name",
    |text| (1..=62).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-') && !text.ends_with('-'),
    /// A Fly app: 1 to 62 of `[a-z0-9-]`, a DNS label.
}

text_id! {
    RequestId, "request id",
    |text| (8..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
    /// Names one request in answers and logs: 8 to 64 of `[A-Za-z0-9_-]`.
}

impl RequestId {
    /// The id of the request with this number, for whoever counts its requests from a random start.
    #[must_use]
    pub fn numbered(n: u64) -> Self {
        Self(format!("req-{n:016x}"))
    }
}

/// The right to write. Grows by one whenever the set of parties that may write changes, and never shrinks:
/// who holds an older one is refused (`P1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one; `None` at the end of the range, which no history reaches.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

/// Which of a user's machines: raised when a machine is replaced by a new one. Keys are derived per generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// Where a user's agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The Cloudflare sandbox behind the legacy Worker.
    Legacy,
    /// The user's Fly Machine.
    Fly,
}

impl Backend {
    /// The name in policies, tickets and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Fly => "fly",
        }
    }
}

impl FromStr for Backend {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "legacy" => Ok(Self::Legacy),
            "fly" => Ok(Self::Fly),
            _ => Err(IdError { what: "backend (legacy or fly)" }),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids() {
        let long_ok = format!("user_{}", "a".repeat(123));
        let long_bad = format!("user_{}", "a".repeat(124));
        let rows: &[(&str, bool)] = &[
            ("user_abc123", true),
            ("user_2NcQnKQ8p9XwZtR4aBcDeFgHiJk", true),
            ("user_ABC.def-1", true),
            ("user_..", true),
            (&long_ok, true),
            (&long_bad, false),
            ("user_", false),
            ("abc123", false),
            ("User_abc", false),
            ("user_a/b", false),
            ("user_a b", false),
            ("user_a\n", false),
            ("user_a\0", false),
            ("user_ä", false),
            ("user_\u{fffd}", false),
            ("", false),
        ];
        for (text, valid) in rows {
            assert_eq!(text.parse::<UserId>().is_ok(), *valid, "{text:?}");
        }
    }

    #[test]
    fn case_is_identity() {
        assert_ne!("user_A".parse::<UserId>().unwrap(), "user_a".parse::<UserId>().unwrap());
    }

    #[test]
    fn serde_goes_through_the_parser() {
        assert!(serde_json::from_str::<UserId>("\"user_ok\"").is_ok());
        assert!(serde_json::from_str::<UserId>("\"../etc\"").is_err());
    }

    #[test]
    fn only_ids_without_a_dot_are_portable() {
        assert!("user_abc".parse::<UserId>().unwrap().is_portable());
        assert!(!"user_a.b".parse::<UserId>().unwrap().is_portable());
    }

    #[test]
    fn machine_and_app_names() {
        for (text, valid) in
            [("e2865013d93d68", true), ("", false), ("A", false), ("a-b", false), ("a b", false)]
        {
            assert_eq!(text.parse::<MachineId>().is_ok(), valid, "{text:?}");
        }
        for (text, valid) in
            [("automna-u-1", true), ("-a", false), ("a-", false), ("a.b", false), ("", false)]
        {
            assert_eq!(text.parse::<AppName>().is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn a_numbered_request_id_is_well_formed() {
        for n in [0, 1, u64::MAX] {
            let id = RequestId::numbered(n);
            assert_eq!(id.as_str().parse::<RequestId>(), Ok(id));
        }
    }

    #[test]
    fn an_epoch_never_wraps() {
        assert_eq!(Epoch(1).next(), Some(Epoch(2)));
        assert_eq!(Epoch(u64::MAX).next(), None);
    }
}
