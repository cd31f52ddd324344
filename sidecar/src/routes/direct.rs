//! The way of a request to its handler.
//!
//! Nearly always that is the router's. Only the reading of a file is found here, before it: of what a small file
//! costs, finding the route and passing the layers would be a sixth (BENCHMARKS.md). It is the same handler behind
//! the same gate, and the router still has its route, under the other prefix and for the other methods.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method;
use tower::{Service, ServiceExt};

use super::raw;
use crate::gate;
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

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let names_a_file = |rest: &str| !rest.is_empty();
        if request.method() == Method::GET
            && request.uri().path().strip_prefix(raw::DIRECT).is_some_and(names_a_file)
        {
            let app = self.state.clone();
            Box::pin(async move {
                let handle = |request| raw::answer(app.clone(), request);
                Ok(gate::pass(&app, raw::DIRECT_ROUTE, request, handle).await)
            })
        } else {
            Box::pin(self.router.clone().oneshot(request))
        }
    }
}
