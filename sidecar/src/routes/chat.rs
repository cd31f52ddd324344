//! `POST /api/chat/send`: what a page does while its WebSocket is not open.
//!
//! The message goes to the agent's gateway under an idempotency key: the body's, the `Idempotency-Key` header's,
//! or a new one. Sent again under the same key, it is not said twice. A new key cannot be sent again, since the
//! client learns it only from the answer.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::time::UnixMillis;
use utoipa::ToSchema;

use super::body;
use super::describe::{Op, Tag, on_bodies, text};
use crate::agent_rpc::RpcError;
use crate::agent_rpc::{self, Scope};
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::history::store::{self, is_session_key};
use crate::state::App;
use crate::{clock, random};

/// The largest message that fits into the agent's frame, with every character escaped.
const MAX_BODY_BYTES: usize = 6 * agent_rpc::MAX_FRAME_BYTES;

/// A UUID has 36.
const MAX_KEY_BYTES: usize = 128;

const KEY_HEADER: &str = "idempotency-key";

/// A message to the agent.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChatMessage)]
pub(super) struct Send {
    /// Not only white space. The agent takes at most 524,288 bytes at a time, the frame around it included.
    #[serde(default)]
    #[schema(required, nullable = false)]
    message: Option<String>,
    /// Of the conversation: 1 to 100 of `A-Z a-z 0-9 _ . - :`, without `..`.
    #[serde(default)]
    #[schema(default = "main")]
    session_key: Option<String>,
    /// 1 to 128 visible characters of ASCII. Sent again under the same key, the message is not said twice.
    #[serde(default)]
    idempotency_key: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    session_key: &'a str,
    message: &'a str,
    idempotency_key: &'a str,
}

/// What became of a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    ok: bool,
    /// As the client wrote it.
    session_key: String,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    timestamp: UnixMillis,
    /// The idempotency key, under which the agent tells of the reply.
    run_id: String,
    /// The agent's word: `started`, `in_flight`, `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    status: Option<String>,
}

pub(super) async fn send(
    State(app): State<App>,
    _: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Sent>, ApiError> {
    let body = body::collect(body, MAX_BODY_BYTES).await?.map_err(|_size| ApiError::MessageTooLarge)?;
    let send: Send = body::object(&body)?;
    let message = send.message.filter(|message| !message.trim().is_empty()).ok_or(ApiError::NoMessage)?;
    let session_key = send.session_key.filter(|key| !key.is_empty()).unwrap_or_else(|| "main".to_owned());
    if !is_session_key(&session_key) {
        return Err(ApiError::BadSessionKey);
    }
    let run_id = idempotency_key(send.idempotency_key, &headers)?;

    let canonical = store::canonical_key(&session_key);
    let params = Params { session_key: &canonical, message: &message, idempotency_key: &run_id };
    let token = app.identity.key.gateway_token();
    let result = agent_rpc::call(app.agent, &token, Scope::Write, "chat.send", &params).await?;
    let status = result.get("status").and_then(|status| status.as_str()).map(ToOwned::to_owned);
    Ok(Json(Sent { ok: true, session_key, timestamp: clock::now(), run_id, status }))
}

fn idempotency_key(body: Option<String>, headers: &HeaderMap) -> Result<String, ApiError> {
    let brought = match (body, headers.get(KEY_HEADER)) {
        (Some(key), _) => key,
        (None, Some(value)) => value.to_str().map_err(|_| ApiError::BadIdempotencyKey)?.to_owned(),
        (None, None) => return Ok(random::request_id().as_str().to_owned()),
    };
    let good = (1..=MAX_KEY_BYTES).contains(&brought.len()) && brought.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(brought) } else { Err(ApiError::BadIdempotencyKey) }
}

/// What can come of a call to the agent.
pub(super) fn on_calls() -> [ApiError; 3] {
    let refused = RpcError::Refused { code: "INVALID_REQUEST".to_owned(), message: String::new() };
    [refused.into(), RpcError::Timeout.into(), RpcError::BrokenOff.into()]
}

pub(super) fn describe() -> Op {
    let answer = json!({
        "ok": true, "sessionKey": "main", "timestamp": 1_767_225_600_250_u64,
        "runId": "6f0d1f0e-8a0e-4b57-9a59-6c1c3c1b0d4e", "status": "started"
    });
    Op::new(Tag::History, "sendMessage", "Send a message to the agent")
        .about(
            "For a page whose WebSocket is not open. The reply comes later, in the history. Without an idempotency \
             key a new one is made, and the message cannot safely be sent again.",
        )
        .header("Idempotency-Key", text(), "In place of `idempotencyKey`, which comes first.")
        .json_body::<Send>("At most 3,145,728 bytes as it is sent.", json!({ "message": "Hello", "sessionKey": "main" }))
        .json::<Sent>(StatusCode::OK, "The agent has it.", answer)
        .fails([ApiError::BadJson, ApiError::NoMessage, ApiError::BadSessionKey, ApiError::BadIdempotencyKey])
        .fails([ApiError::MessageTooLarge])
        .fails(on_bodies())
        .fails(on_calls())
        .fails([unavailable()])
}

/// The agent cannot be reached.
pub(super) fn unavailable() -> ApiError {
    crate::proxy::agent::AgentError::Connect(std::io::ErrorKind::ConnectionRefused.into()).into()
}
