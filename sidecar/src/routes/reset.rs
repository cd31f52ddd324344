//! `POST /api/reset-workspace`: an empty workspace and, unless `clearSessions=false`, no conversations.
//!
//! Nothing is destroyed: what was in the workspace goes to its trash, and the transcripts to a folder beside
//! them, where no history looks. The agent lets go of its sessions first, because that is what can be refused
//! while nothing has happened yet.
//!
//! Legacy let whoever knew the gateway's token reset anybody (`adminSecret`, `targetUserId`). That is closed: the
//! first is ignored, and the second is refused unless it names the machine's own user.

use axum::Json;
use axum::extract::{RawQuery, State};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use shared::id::UserId;
use utoipa::ToSchema;

use super::chat::{on_calls, unavailable};
use super::describe::{Op, Tag, choice, text};
use super::history::param;
use crate::agent_rpc::{self, Scope};
use crate::auth::Authenticated;
use crate::clock;
use crate::error::ApiError;
use crate::history::archive::Conversations;
use crate::history::store::canonical_key;
use crate::state::App;
use crate::workspace::{Bin, FolderBin};

const MAIN: &str = "agent:main:main";

/// What a reset did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reset)]
pub(super) struct Done {
    success: bool,
    message: &'static str,
    #[schema(value_type = String)]
    user_id: UserId,
    cleared: Cleared,
}

/// Each `deleted`, or `not found or failed`.
#[derive(Serialize, ToSchema)]
struct Cleared {
    workspace: &'static str,
    /// The conversations; absent if they were to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    clawdbot: Option<&'static str>,
}

pub(super) async fn post(
    State(app): State<App>,
    auth: Authenticated,
    RawQuery(query): RawQuery,
) -> Result<Json<Done>, ApiError> {
    let query = query.unwrap_or_default();
    let user_id = auth.claims.user;
    if param(&query, "targetUserId").is_some_and(|target| target != user_id.as_str()) {
        return Err(ApiError::OtherUser);
    }
    let clear_sessions = param(&query, "clearSessions").as_deref() != Some("false");
    let conversations = if clear_sessions { let_go_of_sessions(&app).await? } else { None };

    let workspace = app.workspace_dir.clone();
    let cleared = blocking(move || {
        let now = clock::now();
        let clawdbot = match &conversations {
            Some(conversations) => conversations.put_away(now).map(|()| true)?,
            None => false,
        };
        let workspace = found(FolderBin(workspace).take_everything(now)?);
        Ok(Cleared { workspace, clawdbot: clear_sessions.then(|| found(clawdbot)) })
    })
    .await?;
    let message = "User data cleared and gateway restarted. Refresh to see fresh state.";
    Ok(Json(Done { success: true, message, user_id, cleared }))
}

/// Has the agent begin its main conversation anew and forget the others. Their transcripts stay where they are.
async fn let_go_of_sessions(app: &App) -> Result<Option<Conversations>, ApiError> {
    let token = app.identity.key.gateway_token();
    let call = async |method: &str, params: serde_json::Value| {
        agent_rpc::call(app.agent, &token, Scope::Admin, method, &params).await
    };
    call("sessions.reset", json!({ "key": MAIN })).await?;
    let state = app.agent_state_dir.clone();
    let conversations = blocking(move || Conversations::look(&state)).await?;
    for key in conversations.iter().flat_map(Conversations::keys).filter(|key| canonical_key(key) != MAIN) {
        call("sessions.delete", json!({ "key": key, "deleteTranscript": false })).await?;
    }
    Ok(conversations)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).flatten();
    done.map_err(|error| ApiError::ResetFailed(error.into()))
}

/// The contract's words.
const fn found(found: bool) -> &'static str {
    if found { "deleted" } else { "not found or failed" }
}

pub(super) fn describe() -> Op {
    let example = json!({
        "success": true,
        "message": "User data cleared and gateway restarted. Refresh to see fresh state.",
        "userId": "user_abc123", "cleared": { "workspace": "deleted", "clawdbot": "deleted" }
    });
    let halted = std::io::Error::from(std::io::ErrorKind::Other);
    Op::new(Tag::Machine, "resetWorkspace", "Begin anew")
        .about(
            "Everything in the workspace goes to its trash and, unless they are kept, the agent forgets all \
             conversations; their transcripts are put away on the volume.",
        )
        .query("clearSessions", choice(["true", "false"]), "`false`: conversations are kept.")
        .query("targetUserId", text(), "None but the machine's own user: else 403.")
        .json::<Done>(StatusCode::OK, "It is done.", example)
        .fails([ApiError::OtherUser, ApiError::ResetFailed(halted.into())])
        .fails(on_calls())
        .fails([unavailable()])
}
