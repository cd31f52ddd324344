//! `GET /api/openapi.json`: the description of our own API, in OpenAPI 3.1.
//!
//! It is made of the route table: what each route takes and gives is told by its types, and how it can fail by its
//! errors. `sidecar/openapi.json` is a copy for readers and for generators of clients, which a test compares;
//! `UPDATE_OPENAPI=1 cargo test -p sidecar --lib openapi` writes it anew.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use utoipa::openapi::path::PathsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::describe::{Op, Tag, problem};
use crate::VERSION;
use crate::auth::Authenticated;
use crate::error::{ApiError, Problem};

const ABOUT: &str = "\
The files, conversations and state of one user's machine.

**Two names.** Every path below `/api` is also there below `/ws/api`, and means the same. Only `history` differs: \
`/api/history` shows messages as they are stored, `/ws/api/history` as people read them.

**Who asks.** The edge verifies the signed URL (`userId`, `exp`, `sig`) or the session cookie that a page left \
behind, and passes the request on to the user's machine with a ticket. What the edge refuses itself has `error`, \
`code` and `requestId` in its body, and its own codes.

**What is wrong** is told by a status of HTTP and a body of `application/problem+json` (RFC 9457). `code` is stable \
and for programs; each answer below lists its codes. `error` is for people, in the words that clients have always \
been given. Every answer has `X-Request-Id`, to be named when asking for help. An operation also answers 405 to \
methods that it does not list, with `Allow`.

**Paths** begin with `/root/clawd`, which is what clients call the workspace. Nothing outside is ever reached, \
whatever links lead to. Sizes are in bytes, times in ISO 8601 with milliseconds, in UTC, unless a field says \
otherwise.";

/// Made once; it never changes while the process runs.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_json().unwrap_or_default().into());

pub(super) async fn get(_: Authenticated) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
    ];
    (headers, DOCUMENT.clone()).into_response()
}

/// The whole description.
fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new().schema(Problem::name(), Problem::schema());
    let everywhere = at_the_gate();
    for (name, errors) in everywhere.values() {
        components = components.response(*name, problem(errors));
    }
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    for route in super::table() {
        for described in route.described() {
            let mut item = PathItem::default();
            for (method, op) in described.operations {
                let (operation, needs) = op.build(described.suffix, &everywhere);
                item.merge_operations(PathItem::new(method.clone(), operation));
                schemas.extend(needs);
            }
            paths = paths.path(described.path, item);
        }
    }
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    let signature = "The signed URL's parameters: `userId`, `exp` and `sig`.";
    let cookie = "Left behind by a page that was loaded by a signed URL. For what changes something, and for \
        WebSockets, it counts only from an allowed origin.";
    let schemes = [
        ("signedUrl", ApiKey::Query(ApiKeyValue::with_description("sig", signature))),
        ("session", ApiKey::Cookie(ApiKeyValue::with_description("__Host-automna_session", cookie))),
    ];
    for (name, key) in schemes {
        components = components.security_scheme(name, SecurityScheme::ApiKey(key));
    }
    let nothing = std::iter::empty::<String>;
    let tags =
        Tag::ALL.map(|tag| TagBuilder::new().name(tag.name()).description(Some(tag.description())).build());
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Automna machine").version(VERSION).description(Some(ABOUT)))
        .servers(Some([ServerBuilder::new().url("/").description(Some("The edge.")).build()]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags))
        .security(Some([
            SecurityRequirement::new("signedUrl", nothing()),
            SecurityRequirement::new("session", nothing()),
        ]))
        .build()
}

/// What every operation can answer before it is reached, by status, with the name of that answer.
fn at_the_gate() -> BTreeMap<u16, (&'static str, Vec<ApiError>)> {
    use shared::ticket::TicketError;
    let tickets = [
        TicketError::Malformed,
        TicketError::BadTag,
        TicketError::OtherBackend,
        TicketError::OtherUser,
        TicketError::OtherGeneration,
        TicketError::Expired,
    ];
    let mut unauthorized: Vec<ApiError> = tickets.map(ApiError::from).into();
    unauthorized.push(ApiError::NoTicket);
    let disk = std::io::Error::from(std::io::ErrorKind::Other);
    BTreeMap::from([
        (401, ("Unauthorized", unauthorized)),
        (409, ("StaleEpoch", vec![ApiError::StaleEpoch])),
        (503, ("Unavailable", vec![ApiError::EpochNotStored(disk.into()), ApiError::Draining])),
    ])
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Machine, "describe", "Get this description").json::<Description>(
        StatusCode::OK,
        "It, in OpenAPI 3.1.",
        json!({ "openapi": "3.1.0", "info": { "title": "Automna machine", "version": "0.1.0" }, "paths": {} }),
    )
}

/// A description in OpenAPI 3.1.
struct Description;

impl PartialSchema for Description {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::Object);
        object.description(Some("A description in OpenAPI 3.1.")).into()
    }
}

impl ToSchema for Description {}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
