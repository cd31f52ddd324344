//! The public port's route table. Everything in it lies behind the [`gate`].

mod agent;
mod agent_logs;
mod agent_restart;
mod archive;
mod body;
mod chat;
mod files;
mod history;
mod keepalive;
mod raw;
mod reset;
mod status;
mod tus;

pub use agent_logs::MAX_FOLLOWERS;

use axum::routing::{any, get, post};
use axum::{Router, middleware};

use crate::error::ApiError;
use crate::gate;
use crate::state::App;

/// Our own API has two names: pages that derive it from the WebSocket's address put `/ws` in front.
pub const API_PREFIXES: [&str; 2] = ["/api", "/ws/api"];

/// All routes, apart from any listener, so that tests can drive them.
pub fn app(state: App) -> Router {
    let mut router = Router::new();
    for prefix in API_PREFIXES {
        router = router
            .route(&format!("{prefix}/keepalive"), get(keepalive::get))
            .route(&format!("{prefix}/sessions"), get(history::sessions))
            .route(&format!("{prefix}/history/search"), get(history::search))
            .route(&format!("{prefix}/chat/send"), post(chat::send))
            .route(&format!("{prefix}/reset-workspace"), post(reset::post))
            .route(&format!("{prefix}/status"), get(status::get))
            .route(&format!("{prefix}/agent/logs"), get(agent_logs::get))
            .route(&format!("{prefix}/agent/restart"), post(agent_restart::post))
            .route(&format!("{prefix}{}", raw::ROUTE), any(raw::dispatch))
            .route(&format!("{prefix}/files/archive"), get(archive::get));
        router = files::mount(router, prefix);
        for route in tus::ROUTES {
            router = router.route(&format!("{prefix}{route}"), any(tus::dispatch));
        }
    }
    // Two routes, not one under two names: so it is on the legacy side.
    router = router.route("/api/history", get(history::raw)).route("/ws/api/history", get(history::shown));
    router
        .fallback(agent::dispatch)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        // Last, because a layer covers only what stands before it.
        .layer(middleware::from_fn_with_state(state.clone(), gate::gate))
        .with_state(state)
}
