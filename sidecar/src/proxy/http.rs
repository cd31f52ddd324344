//! The agent's page, by plain HTTP.

use std::net::SocketAddr;

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http_body_util::Empty;

use crate::proxy::agent::{self, AgentError};
use crate::proxy::allow::Page;
use crate::proxy::headers;

/// Asks the agent for `page` and streams its answer. The request's body, which a GET should not have, stays
/// here.
///
/// # Errors
/// The agent does not answer.
pub async fn forward(
    agent: SocketAddr,
    peer: SocketAddr,
    page: Page<'_>,
    request: &Parts,
) -> Result<Response, AgentError> {
    let mut onward = http::Request::new(Empty::new());
    *onward.method_mut() = request.method.clone();
    *onward.uri_mut() = page.target(request.uri.query()).parse().unwrap_or_default();
    *onward.headers_mut() = headers::for_agent(&request.headers, &agent::host(agent), peer.ip());

    let (head, body) = agent::exchange(agent, onward).await?.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers::for_client(&head.headers);
    Ok(response)
}
