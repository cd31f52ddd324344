//! The way of a request to its handler.
//!
//! Nearly always that is the router's. Only the reading of a file is found here, before it: of what a small file
//! costs, finding the route and passing the layers would be a sixth (BENCHMARKS.md). It is the same handler behind
//! the same gate, and the router still has its route, under the other prefix and for the other methods.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method;

use super::raw;
use crate::gate;
use crate::server::Answers;
use crate::state::App;

/// What the public port serves.
#[derive(Debug, Clone)]
pub struct Routes {
    state: App,
    router: Router,
}

impl Routes {
    pub(super) const fn new(state: App, router: Router) -> Self {
        Self { state, router }
    }
}

impl Answers for Routes {
    async fn answer(self, request: Request) -> Response {
        let names_a_file = |rest: &str| !rest.is_empty();
        if request.method() == Method::GET
            && request.uri().path().strip_prefix(raw::DIRECT).is_some_and(names_a_file)
        {
            let handle = |request| raw::answer(self.state.clone(), request);
            gate::pass(&self.state, raw::DIRECT_ROUTE, request, handle).await
        } else {
            self.router.answer(request).await
        }
    }
}
