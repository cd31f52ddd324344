//! Who asks: the ticket, and the proof that it was accepted.

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use shared::id::{Backend, RequestId};
use shared::ticket::{self, Audience, Claims, TicketError};
use shared::time::UnixMillis;
use shared::wire::TICKET_HEADER;

use crate::config::Identity;
use crate::error::ApiError;

/// The proof that a request passed the gate. Handlers take it as an argument; only [`crate::gate`] makes one.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub claims: Claims,
    pub request_id: RequestId,
}

impl<S: Sync> FromRequestParts<S> for Authenticated {
    type Rejection = ApiError;

    /// Finds the gate's proof. A route that was mounted outside the gate by mistake refuses everybody.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::NoTicket)
    }
}

/// Reads and verifies the one ticket of a request. The epoch is not judged here.
///
/// # Errors
/// There is none, there are several, or it is not meant for this machine at this time.
pub fn verify(headers: &HeaderMap, identity: &Identity, now: UnixMillis) -> Result<Claims, ApiError> {
    let mut tickets = headers.get_all(TICKET_HEADER).iter();
    let text = match (tickets.next(), tickets.next()) {
        (None, _) => return Err(ApiError::NoTicket),
        (Some(one), None) => one.to_str().map_err(|_| TicketError::Malformed)?,
        // Which of the two would be meant?
        (Some(_), Some(_)) => return Err(TicketError::Malformed.into()),
    };
    let audience =
        Audience { backend: Backend::Fly, user: Some(&identity.user), generation: identity.generation };
    Ok(ticket::verify(&identity.key, text, audience, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::{Epoch, Generation};
    use shared::key::SigningKeys;
    use shared::secret::Secret;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn exactly_one_good_ticket() {
        let user: shared::id::UserId = "user_a".parse().unwrap();
        let keys = SigningKeys::new(Secret::new("test-secret").unwrap(), None);
        let key = keys.machine_key(&user, Generation(1));
        let identity = Identity { user: user.clone(), generation: Generation(1), key: key.clone() };
        let claims = Claims {
            backend: Backend::Fly,
            user,
            generation: Generation(1),
            epoch: Epoch(7),
            expires: NOW.floor_seconds().plus(60),
        };
        let good = ticket::issue(&key, &claims);
        let late = NOW.plus_ms(60_001);
        let rows: &[(&[&str], UnixMillis, Result<u64, &str>)] = &[
            (&[&good], NOW, Ok(7)),
            (&[], NOW, Err("ticket_missing")),
            (&[&good, &good], NOW, Err("ticket_malformed")),
            (&[""], NOW, Err("ticket_malformed")),
            (&["\u{e4}"], NOW, Err("ticket_malformed")),
            (&[&good], late, Err("ticket_expired")),
        ];
        for (values, now, expect) in rows {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(TICKET_HEADER, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let result = verify(&headers, &identity, *now);
            assert_eq!(result.map(|c| c.epoch.0).map_err(|e| e.code()), *expect, "{values:?}");
        }
    }
}
