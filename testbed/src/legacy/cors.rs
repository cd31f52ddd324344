//! CORS as the legacy Worker does it, with its quirks: DELETE is not allowed, nothing says `Vary: Origin`, and a
//! preflight from anywhere is answered as if it came from the dashboard.

use hyper::StatusCode;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN,
};

use crate::forward::{self, Answer};

const DEFAULT_ORIGIN: &str = "https://automna.ai";
const ALLOWED_ORIGINS: [&str; 3] = [DEFAULT_ORIGIN, "https://www.automna.ai", "http://localhost:3000"];

/// The request's origin, if it is on the list.
pub(super) fn allowed_origin(headers: &HeaderMap) -> Option<&'static str> {
    let origin = headers.get(ORIGIN)?;
    ALLOWED_ORIGINS.into_iter().find(|allowed| origin.as_bytes() == allowed.as_bytes())
}

/// The answer to any OPTIONS request.
pub(super) fn preflight(origin: Option<&'static str>) -> Answer {
    let mut answer = forward::empty(StatusCode::NO_CONTENT);
    allow(answer.headers_mut(), origin.unwrap_or(DEFAULT_ORIGIN));
    answer.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    answer
}

/// Any other answer: only an origin on the list finds something in it.
pub(super) fn decorate(mut answer: Answer, origin: Option<&'static str>) -> Answer {
    if let Some(origin) = origin {
        allow(answer.headers_mut(), origin);
    }
    answer
}

fn allow(headers: &mut HeaderMap, origin: &'static str) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(origin));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Authorization"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_allowed() {
        for (origin, preflight_says, others_say) in [
            (Some("https://automna.ai"), "https://automna.ai", Some("https://automna.ai")),
            (Some("http://localhost:3000"), "http://localhost:3000", Some("http://localhost:3000")),
            (Some("https://evil.example"), "https://automna.ai", None),
            (Some("https://automna.ai.evil.example"), "https://automna.ai", None),
            (None, "https://automna.ai", None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            let allowed = allowed_origin(&headers);
            let says = |answer: &Answer| {
                answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|v| v.to_str().unwrap().to_owned())
            };
            assert_eq!(says(&preflight(allowed)).as_deref(), Some(preflight_says), "{origin:?}");
            let other = decorate(forward::empty(StatusCode::OK), allowed);
            assert_eq!(says(&other).as_deref(), others_say, "{origin:?}");
        }
    }
}
