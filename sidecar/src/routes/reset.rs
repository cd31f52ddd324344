//! `POST /api/reset-workspace`: an empty workspace and, unless `clearSessions=false`, a new main conversation.
//!
//! Nothing is destroyed: what was in the workspace goes to its trash, and the transcripts of the main
//! conversation to a folder beside the others, where no history looks. The session is reset first, because that
//! is what can be refused while nothing has happened yet.
//!
//! Legacy let whoever knew the gateway's token reset anybody (`adminSecret`, `targetUserId`). That is closed: the
//! first is ignored, and the second is refused unless it names the machine's own user.

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use serde_json::json;
use shared::id::UserId;

use super::history::param;
use crate::agent_rpc::{self, Scope};
use crate::auth::Authenticated;
use crate::clock;
use crate::error::ApiError;
use crate::history::archive;
use crate::state::App;
use crate::workspace::{Bin, FolderBin};

const MAIN: &str = "agent:main:main";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    success: bool,
    message: &'static str,
    user_id: UserId,
    cleared: Cleared,
}

#[derive(Serialize)]
struct Cleared {
    workspace: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
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
    if clear_sessions {
        let token = app.identity.key.gateway_token();
        let params = json!({ "key": MAIN });
        agent_rpc::call(app.agent, &token, Scope::Admin, "sessions.reset", &params).await?;
    }

    let (state, workspace) = (app.agent_state_dir.clone(), app.workspace_dir.clone());
    let cleared = tokio::task::spawn_blocking(move || -> std::io::Result<Cleared> {
        let now = clock::now();
        let clawdbot =
            if clear_sessions { Some(found(archive::main_conversation(&state, now)?)) } else { None };
        let workspace = found(FolderBin(workspace).take_everything(now)?);
        Ok(Cleared { workspace, clawdbot })
    });
    let cleared = cleared
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| ApiError::ResetFailed(error.into()))?;
    let message = "User data cleared and gateway restarted. Refresh to see fresh state.";
    Ok(Json(Done { success: true, message, user_id, cleared }))
}

/// The contract's words.
const fn found(found: bool) -> &'static str {
    if found { "deleted" } else { "not found or failed" }
}
