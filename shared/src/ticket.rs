//! Tickets: what the edge tells a back end about a request, so that the back end trusts nothing else.
//!
//! ```text
//! v1~{backend}~{userId}~{generation}~{epoch}~{exp}~{tag}
//! ```
//!
//! One format serves both directions of the protocol: to a sidecar it is called a *ticket* and signed under
//! the machine's key, to the legacy gate a *permit*, signed under the permit key. `~` occurs in no field, so
//! the text reads in one way only. A ticket lives [`TICKET_TTL_SECONDS`]; that bounds replay and is no safety
//! bound: the epoch is.

use crate::id::{Backend, Epoch, Generation, UserId};
use crate::key::{MachineKey, PermitKey};
use crate::mac;
use crate::time::{UnixMillis, UnixSeconds};

/// How long a ticket can be presented. At least a lease and the slowest connect together.
pub const TICKET_TTL_SECONDS: u64 = 60;

/// Longest ticket that can be well formed, with room to spare; a longer one is not even parsed.
const MAX_BYTES: usize = 512;

const DOMAIN: &[u8] = b"automna/ticket\0";
const VERSION: &str = "v1";

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub backend: Backend,
    pub user: UserId,
    /// 0 for the legacy side, which has no generations.
    pub generation: Generation,
    pub epoch: Epoch,
    pub expires: UnixSeconds,
}

/// Whom the verifier takes itself to be. The epoch is not here: it is compared by the back end's arbiter,
/// which may have to raise its own.
#[derive(Debug, Clone, Copy)]
pub struct Audience<'a> {
    pub backend: Backend,
    /// `None` where one verifier serves all users, as the legacy gate does.
    pub user: Option<&'a UserId>,
    pub generation: Generation,
}

/// Why a ticket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("not a ticket")]
    Malformed,
    #[error("not signed by the edge")]
    BadTag,
    #[error("meant for another back end")]
    OtherBackend,
    #[error("meant for another user")]
    OtherUser,
    #[error("meant for another generation of this machine")]
    OtherGeneration,
    #[error("expired")]
    Expired,
}

impl TicketError {
    /// The stable code in error bodies.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "ticket_malformed",
            Self::BadTag => "ticket_bad_tag",
            Self::OtherBackend => "ticket_other_backend",
            Self::OtherUser => "ticket_other_user",
            Self::OtherGeneration => "ticket_other_generation",
            Self::Expired => "ticket_expired",
        }
    }
}

/// A key that signs tickets: a machine's, or the permits'.
pub trait TicketKey {
    #[doc(hidden)]
    fn ticket_key(&self) -> &[u8];
}

impl TicketKey for MachineKey {
    fn ticket_key(&self) -> &[u8] {
        self.bytes()
    }
}

impl TicketKey for PermitKey {
    fn ticket_key(&self) -> &[u8] {
        self.bytes()
    }
}

/// Writes the ticket for `claims`.
#[must_use]
pub fn issue(key: &impl TicketKey, claims: &Claims) -> String {
    let Claims { backend, user, generation, epoch, expires } = claims;
    let mut text = format!("{VERSION}~{backend}~{user}~{}~{}~{}", generation.0, epoch.0, expires.0);
    let tag = mac::tag(key.ticket_key(), &[DOMAIN, text.as_bytes()]);
    text.push('~');
    text.push_str(&mac::encode(&tag));
    text
}

/// Checks a ticket. The tag comes first, so that nothing is learnt from a forgery.
///
/// # Errors
/// The first check that fails.
pub fn verify(
    key: &impl TicketKey,
    text: &str,
    audience: Audience<'_>,
    now: UnixMillis,
) -> Result<Claims, TicketError> {
    if text.len() > MAX_BYTES {
        return Err(TicketError::Malformed);
    }
    let (signed, tag) = text.rsplit_once('~').ok_or(TicketError::Malformed)?;
    let tag = mac::decode(tag).ok_or(TicketError::Malformed)?;
    if !mac::verify(key.ticket_key(), &[DOMAIN, signed.as_bytes()], &tag) {
        return Err(TicketError::BadTag);
    }
    let claims = parse(signed).ok_or(TicketError::Malformed)?;
    if claims.backend != audience.backend {
        return Err(TicketError::OtherBackend);
    }
    if audience.user.is_some_and(|user| *user != claims.user) {
        return Err(TicketError::OtherUser);
    }
    if claims.generation != audience.generation {
        return Err(TicketError::OtherGeneration);
    }
    if claims.expires.is_before(now) {
        return Err(TicketError::Expired);
    }
    Ok(claims)
}

fn parse(signed: &str) -> Option<Claims> {
    let mut fields = signed.split('~');
    if fields.next()? != VERSION {
        return None;
    }
    let claims = Claims {
        backend: fields.next()?.parse().ok()?,
        user: fields.next()?.parse().ok()?,
        generation: Generation(fields.next()?.parse().ok()?),
        epoch: Epoch(fields.next()?.parse().ok()?),
        expires: UnixSeconds(fields.next()?.parse().ok()?),
    };
    fields.next().is_none().then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SigningKeys;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn keys() -> SigningKeys {
        SigningKeys::new(Secret::new("test-secret-key-12345").unwrap(), None)
    }

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    fn claims() -> Claims {
        Claims {
            backend: Backend::Fly,
            user: user("user_abc123"),
            generation: Generation(1),
            epoch: Epoch(7),
            expires: NOW.floor_seconds().plus(TICKET_TTL_SECONDS),
        }
    }

    #[test]
    fn refusals() {
        let key = keys().machine_key(&user("user_abc123"), Generation(1));
        let check = |text: &str, who: &str, generation: u32, backend: Backend, now: UnixMillis| {
            let who = user(who);
            let audience = Audience { backend, user: Some(&who), generation: Generation(generation) };
            verify(&key, text, audience, now).map(|claims| claims.epoch.0)
        };
        let good = issue(&key, &claims());
        assert_eq!(good.split('~').next(), Some("v1"));
        let other = keys().machine_key(&user("user_b"), Generation(1));
        let forged = issue(&other, &claims());
        let fly = Backend::Fly;
        let rows = [
            ("good", good.as_str(), "user_abc123", 1, fly, NOW, Ok(7)),
            ("other user's sidecar", &good, "user_b", 1, fly, NOW, Err(TicketError::OtherUser)),
            ("other generation", &good, "user_abc123", 2, fly, NOW, Err(TicketError::OtherGeneration)),
            (
                "permit presented to a sidecar",
                &good,
                "user_abc123",
                1,
                Backend::Legacy,
                NOW,
                Err(TicketError::OtherBackend),
            ),
            (
                "signed by another machine's key",
                &forged,
                "user_abc123",
                1,
                fly,
                NOW,
                Err(TicketError::BadTag),
            ),
            ("expired", &good, "user_abc123", 1, fly, NOW.plus_ms(60_001), Err(TicketError::Expired)),
            ("last moment", &good, "user_abc123", 1, fly, NOW.plus_ms(60_000), Ok(7)),
            ("empty", "", "user_abc123", 1, fly, NOW, Err(TicketError::Malformed)),
            ("no tag", "v1~fly~user_abc123~1~7~9", "user_abc123", 1, fly, NOW, Err(TicketError::Malformed)),
        ];
        for (name, text, who, generation, backend, now, expected) in rows {
            assert_eq!(check(text, who, generation, backend, now), expected, "{name}");
        }
        assert_eq!(check(&"v".repeat(10_000), "user_abc123", 1, fly, NOW), Err(TicketError::Malformed));
    }

    #[test]
    fn a_signed_text_that_is_no_ticket_is_refused() {
        let key = keys().permit_key();
        for signed in [
            "v2~legacy~user_a~0~1~9999999999",
            "v1~legacy~user_a~0~1",
            "v1~legacy~user_a~0~1~9999999999~x",
            "v1~moon~user_a~0~1~9",
        ] {
            let text = format!(
                "{signed}~{}",
                mac::encode(&mac::tag(key.ticket_key(), &[DOMAIN, signed.as_bytes()]))
            );
            let audience = Audience { backend: Backend::Legacy, user: None, generation: Generation(0) };
            assert_eq!(verify(&key, &text, audience, NOW), Err(TicketError::Malformed), "{signed}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(name in "user_[A-Za-z0-9_.-]{1,100}", generation: u32, epoch: u64, ttl in 0_u64..100, legacy: bool) {
            let backend = if legacy { Backend::Legacy } else { Backend::Fly };
            let claims = Claims {
                backend,
                user: user(&name),
                generation: Generation(generation),
                epoch: Epoch(epoch),
                expires: NOW.floor_seconds().plus(ttl),
            };
            let key = keys().machine_key(&claims.user, claims.generation);
            let audience = Audience { backend, user: Some(&claims.user), generation: claims.generation };
            prop_assert_eq!(verify(&key, &issue(&key, &claims), audience, NOW), Ok(claims.clone()));
        }

        #[test]
        fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), with in 0x20_u8..0x7f) {
            let key = keys().machine_key(&user("user_abc123"), Generation(1));
            let mut bytes = issue(&key, &claims()).into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != with);
            bytes[at] = with;
            let text = String::from_utf8(bytes).unwrap();
            let who = user("user_abc123");
            let audience = Audience { backend: Backend::Fly, user: Some(&who), generation: Generation(1) };
            prop_assert!(verify(&key, &text, audience, NOW).is_err(), "{text}");
        }
    }
}
