//! A route, and its description: there is no way to have the one without the other.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, any};
use utoipa::openapi::path::HttpMethod;

use super::API_PREFIXES;
use super::describe::Op;
use crate::state::App;

/// One path of our own API.
pub(super) struct Route {
    path: &'static str,
    /// Another spelling of the path.
    also: Option<&'static str>,
    prefixes: &'static [&'static str],
    methods: MethodRouter<App>,
    operations: Vec<(HttpMethod, Op)>,
}

/// One path as the description has it.
pub(super) struct Described<'a> {
    /// In the spelling of OpenAPI, below the prefix.
    pub(super) path: String,
    /// Makes names of operations different in another spelling.
    pub(super) suffix: &'static str,
    pub(super) operations: &'a [(HttpMethod, Op)],
}

impl Route {
    /// At `path` below each of [`API_PREFIXES`].
    pub(super) fn at(path: &'static str) -> Self {
        Self {
            path,
            also: None,
            prefixes: &API_PREFIXES,
            methods: MethodRouter::new(),
            operations: Vec::new(),
        }
    }

    /// At a whole path.
    pub(super) fn only_at(path: &'static str) -> Self {
        Self { prefixes: &[""], ..Self::at(path) }
    }

    pub(super) fn also_at(self, path: &'static str) -> Self {
        Self { also: Some(path), ..self }
    }

    pub(super) fn get<T: 'static>(mut self, handler: impl Handler<T, App>, op: Op) -> Self {
        self.methods = self.methods.get(handler);
        self.operations.push((HttpMethod::Get, op));
        self
    }

    pub(super) fn post<T: 'static>(mut self, handler: impl Handler<T, App>, op: Op) -> Self {
        self.methods = self.methods.post(handler);
        self.operations.push((HttpMethod::Post, op));
        self
    }

    pub(super) fn delete<T: 'static>(mut self, handler: impl Handler<T, App>, op: Op) -> Self {
        self.methods = self.methods.delete(handler);
        self.operations.push((HttpMethod::Delete, op));
        self
    }

    /// A handler that looks at the method itself, and refuses all but these.
    pub(super) fn any<T: 'static>(
        mut self,
        handler: impl Handler<T, App>,
        operations: impl IntoIterator<Item = (HttpMethod, Op)>,
    ) -> Self {
        self.methods = any(handler);
        self.operations.extend(operations);
        self
    }

    pub(super) fn mount(self, mut router: Router<App>) -> Router<App> {
        for prefix in self.prefixes {
            for path in [Some(self.path), self.also].into_iter().flatten() {
                router = router.route(&format!("{prefix}{path}"), self.methods.clone());
            }
        }
        router
    }

    /// Each spelling of it, below the first of its prefixes.
    pub(super) fn described(&self) -> impl Iterator<Item = Described<'_>> {
        let prefix = self.prefixes.first().copied().unwrap_or_default();
        [(Some(self.path), ""), (self.also, "WithSlash")].into_iter().filter_map(move |(path, suffix)| {
            let path = format!("{prefix}{}", path?.replace("{*", "{"));
            Some(Described { path, suffix, operations: &self.operations })
        })
    }
}
