//! Whatever is not our own API belongs to the agent: its WebSocket, and the files of its page.

use axum::extract::{Request, State};
use axum::response::Response;
use http::Method;

use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::proxy::allow::{self, Class};
use crate::proxy::{handshake, http as agent_http, ws};
use crate::server::Connection;
use crate::state::App;

/// Sends a request on to the agent, or refuses it.
pub(super) async fn dispatch(
    State(app): State<App>,
    auth: Authenticated,
    connection: Connection,
    request: Request,
) -> Result<Response, ApiError> {
    let uri = request.uri().clone();
    let class = allow::classify(uri.path());
    match class {
        Class::Own => return Err(ApiError::UnknownRoute),
        Class::NotPlain => return Err(ApiError::BadPath),
        Class::Page(_) | Class::Other => {}
    }
    if handshake::is_upgrade(request.headers()) {
        let connection = connection.as_socket(app.metrics.socket());
        return ws::upgrade(&app, &auth, connection, request).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed);
    }
    match class {
        Class::Page(page) => {
            let (head, _body) = request.into_parts();
            Ok(agent_http::forward(app.agent, connection.peer, page, &head).await?)
        }
        Class::Own | Class::NotPlain | Class::Other => Err(ApiError::UnknownRoute),
    }
}
