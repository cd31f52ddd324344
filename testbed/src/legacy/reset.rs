//! `POST /api/reset-workspace`: everything of the user's goes, and the container begins anew.
//!
//! There is no object store, so it is the container's own files that go, and they stay gone; the Worker's come back
//! from the container half a minute later. The operator's variant (`adminSecret`, `targetUserId`) is not modelled.

use std::io::ErrorKind;
use std::path::Path;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;
use shared::id::UserId;

use super::Inner;
use super::routes::param;
use crate::forward::{self, Answer};

const DONE: &str = "User data cleared and gateway restarted. Refresh to see fresh state.";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reset<'a> {
    success: bool,
    message: &'static str,
    user_id: &'a UserId,
    cleared: &'a Cleared,
}

/// What became of each part.
#[derive(Debug, Default, Serialize)]
struct Cleared {
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clawdbot: Option<&'static str>,
}

pub(super) async fn reset(inner: &Inner, user: &UserId, query: &str) -> Answer {
    let mut cleared = Cleared::default();
    match work(inner, user, query, &mut cleared).await {
        Ok(()) => {
            let body = Reset { success: true, message: DONE, user_id: user, cleared: &cleared };
            forward::json(StatusCode::OK, &body)
        }
        Err(error) => {
            let body = json!({"error": format!("{error:#}"), "partialResults": cleared});
            forward::json(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}

async fn work(inner: &Inner, user: &UserId, query: &str, cleared: &mut Cleared) -> anyhow::Result<()> {
    let visit = inner.containers.visit(user);
    inner.containers.stop_one(user).await?;
    cleared.workspace = Some(clear(&inner.workspace_dir(user)).await?);
    if param(query, "clearSessions").as_deref() != Some("false") {
        cleared.clawdbot = Some(clear(&inner.state_dir(user)).await?);
    }
    // The boot makes the directories again.
    inner.containers.boot(&visit).await?;
    Ok(())
}

async fn clear(dir: &Path) -> std::io::Result<&'static str> {
    match tokio::fs::remove_dir_all(dir).await {
        Ok(()) => Ok("deleted"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok("not found or failed"),
        Err(error) => Err(error),
    }
}
