//! Keys, one per purpose, derived from the signing secret by HMAC under a label of their own.
//!
//! ```text
//! signing secret ─┬─ machine key (user, generation) ─── gateway token
//!                 └─ permit key
//! ```
//!
//! The signing secret stays in the Workers. A machine holds its own machine key and nothing above it, so a
//! machine that is taken over can forge nothing for another user or generation (L-08). No label starts with
//! `user_`, hence no derived key can ever equal the tag of a signed URL.

use std::fmt;

use crate::id::{Generation, UserId};
use crate::mac;
use crate::secret::Secret;

const MACHINE_LABEL: &[u8] = b"automna/machine-key/v1\0";
const PERMIT_LABEL: &[u8] = b"automna/permit-key/v1\0";
const GATEWAY_LABEL: &[u8] = b"automna/gateway-token/v1\0";

/// The signing secret, and during a rotation the one before it.
#[derive(Debug, Clone)]
pub struct SigningKeys {
    current: Secret,
    previous: Option<Secret>,
}

impl SigningKeys {
    /// `current` signs and derives; both verify.
    #[must_use]
    pub const fn new(current: Secret, previous: Option<Secret>) -> Self {
        Self { current, previous }
    }

    pub(crate) fn signing(&self) -> &[u8] {
        self.current.expose().as_bytes()
    }

    pub(crate) fn verifying(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.current).chain(self.previous.as_ref()).map(|secret| secret.expose().as_bytes())
    }

    /// The key that the edge and one machine of one user share.
    #[must_use]
    pub fn machine_key(&self, user: &UserId, generation: Generation) -> MachineKey {
        // The user id holds no NUL, so the message reads back in one way only.
        let message: [&[u8]; 4] =
            [MACHINE_LABEL, user.as_str().as_bytes(), b"\0", &generation.0.to_be_bytes()];
        MachineKey(mac::tag(self.signing(), &message))
    }

    /// The key of the permits that the edge writes and the legacy gate checks.
    #[must_use]
    pub fn permit_key(&self) -> PermitKey {
        PermitKey(mac::tag(self.signing(), &[PERMIT_LABEL]))
    }
}

/// What a machine is given: signs tickets for it, and its own reports.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineKey(mac::Tag);

impl MachineKey {
    /// Reads the text form of the machine's environment: 43 characters of base64url.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        mac::decode(text.trim()).map(Self)
    }

    /// The text form. It goes into a machine's environment and nowhere else.
    #[must_use]
    pub fn expose(&self) -> String {
        mac::encode(&self.0)
    }

    /// The agent's own token: 43 characters. The sidecar writes it into the first frame; no browser sees it.
    #[must_use]
    pub fn gateway_token(&self) -> Secret {
        let text = mac::encode(&mac::tag(&self.0, &[GATEWAY_LABEL]));
        Secret::from_text(text)
    }

    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[machine key]")
    }
}

/// Signs permits to the legacy side.
#[derive(Clone, PartialEq, Eq)]
pub struct PermitKey(mac::Tag);

impl PermitKey {
    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PermitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[permit key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn keys(secret: &str) -> SigningKeys {
        SigningKeys::new(Secret::new(secret).unwrap(), None)
    }

    #[test]
    fn every_key_depends_on_secret_user_generation_and_purpose() {
        let a: UserId = "user_a".parse().unwrap();
        let b: UserId = "user_b".parse().unwrap();
        let mut seen = HashSet::new();
        for secret in ["one", "two"] {
            for user in [&a, &b] {
                for generation in [0, 1, 256] {
                    let key = keys(secret).machine_key(user, Generation(generation));
                    assert!(seen.insert(key.gateway_token().expose().to_owned()));
                    assert!(seen.insert(key.expose()));
                }
            }
            assert!(seen.insert(mac::encode(&keys(secret).permit_key().0)));
        }
        assert_eq!(seen.len(), 2 * (2 * 3 * 2 + 1));
    }

    /// Computed with Python's `hmac`: the derivation is a wire format, since machines keep their keys for years.
    #[test]
    fn derivation_is_stable() {
        let key = keys("test-secret-key-12345").machine_key(&"user_abc123".parse().unwrap(), Generation(1));
        assert_eq!(key.expose(), "LkKPfTeKKAJNFP1WRvV-wXLsqg-UIaKyCsBhf3gQ-no");
        assert_eq!(key.gateway_token().expose(), "fhB3ST7pJtbVfoI1GqTjqBhcBImWStUXC4khI1GaxrU");
    }

    #[test]
    fn text_form_round_trips_and_nothing_prints() {
        let key = keys("x").machine_key(&"user_a".parse().unwrap(), Generation(3));
        assert_eq!(MachineKey::parse(&format!(" {}\n", key.expose())), Some(key.clone()));
        assert_eq!(MachineKey::parse("short"), None);
        assert_eq!(format!("{key:?}"), "[machine key]");
        assert!(!format!("{:?}", keys("hunter2")).contains("hunter2"));
    }
}
