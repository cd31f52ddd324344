//! The public port's route table. Everything in it lies behind the [`gate`], and each route stands in it together
//! with its description ([`openapi`]).

mod agent;
mod agent_logs;
mod agent_restart;
mod archive;
mod body;
mod chat;
mod describe;
pub mod direct;
mod events;
mod files;
mod history;
mod keepalive;
mod openapi;
mod preconditions;
mod raw;
mod raw_description;
mod reset;
mod search;
mod status;
mod table;
mod tus;
mod tus_description;

pub use agent_logs::MAX_FOLLOWERS;

use axum::{Router, middleware};

use crate::error::ApiError;
use crate::gate;
use crate::state::App;
use table::Route;

/// Our own API has two names: pages that derive it from the WebSocket's address put `/ws` in front.
pub const API_PREFIXES: [&str; 2] = ["/api", "/ws/api"];

/// Our own API, each route with its description.
fn table() -> Vec<Route> {
    let mut table = vec![
        Route::at("/keepalive").get(keepalive::get, keepalive::describe()),
        Route::at("/status").get(status::get, status::describe()),
        Route::at("/agent/logs").get(agent_logs::get, agent_logs::describe()),
        Route::at("/agent/restart").post(agent_restart::post, agent_restart::describe()),
        Route::at("/openapi.json").get(openapi::get, openapi::describe()),
        Route::at("/chat/send").post(chat::send, chat::describe()),
        Route::at("/reset-workspace").post(reset::post, reset::describe()),
        // Two routes, not one under two names: so it is on the legacy side.
        Route::only_at("/api/history").get(history::raw, history::describe_raw()),
        Route::only_at("/ws/api/history").get(history::shown, history::describe_shown()),
        Route::at("/history/search").get(history::search, history::describe_search()),
        Route::at("/sessions").get(history::sessions, history::describe_sessions()),
    ];
    table.extend(files::table());
    table.extend([
        Route::at("/files/search").get(search::get, search::describe()),
        Route::at("/files/events").get(events::get, events::describe()),
        Route::at("/files/archive").get(archive::get, archive::describe()),
        Route::at(raw::ROUTE).any(raw::dispatch, raw_description::describe()),
        Route::at("/files/tus").also_at("/files/tus/").any(tus::dispatch, tus_description::describe_all()),
        Route::at("/files/tus/{id}").any(tus::dispatch, tus_description::describe_one()),
    ]);
    table
}

/// All routes, apart from any listener, so that tests can drive them.
pub fn app(state: App) -> direct::Routes {
    direct::Routes::new(state.clone(), router(state))
}

fn router(state: App) -> Router {
    table()
        .into_iter()
        .fold(Router::new(), |router, route| route.mount(router))
        .fallback(agent::dispatch)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        // Last, because a layer covers only what stands before it.
        .layer(middleware::from_fn_with_state(state.clone(), gate::gate))
        .with_state(state)
}
