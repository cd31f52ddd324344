//! What one operation of the API does, for its description: a builder in our own terms over utoipa's. Each route's
//! description stands beside its handler, and [`super::table`] takes both or neither.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::Response;
use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Required, Schema};

use crate::error::{Action, ApiError, HttpError, Problem};
use crate::files::error::FileError;
use crate::files::path::PathError;
use crate::http_semantics::conditional::{Field, Malformed};

pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// A part of the API, by which readers of the description find their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Files,
    Raw,
    Uploads,
    Trash,
    History,
    Machine,
}

impl Tag {
    pub(super) const ALL: [Self; 6] =
        [Self::Files, Self::Raw, Self::Uploads, Self::Trash, Self::History, Self::Machine];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Raw => "raw",
            Self::Uploads => "uploads",
            Self::Trash => "trash",
            Self::History => "history",
            Self::Machine => "machine",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Files => "The workspace in JSON, in the shapes of the file browser and the editor.",
            Self::Raw => "A file as an HTTP resource, with preconditions, ranges and digests.",
            Self::Uploads => "Resumable uploads by the tus protocol 1.0.0 (https://tus.io).",
            Self::Trash => "What was deleted, for seven days.",
            Self::History => "Conversations with the agent, and messages to it.",
            Self::Machine => "The machine itself.",
        }
    }
}

/// The description of one method of one route.
#[derive(Clone)]
pub(super) struct Op {
    id: &'static str,
    operation: Operation,
    answers: BTreeMap<u16, Response>,
    problems: BTreeMap<u16, Vec<ApiError>>,
    schemas: Schemas,
}

impl Op {
    pub(super) fn new(tag: Tag, id: &'static str, summary: &str) -> Self {
        let operation = OperationBuilder::new().tag(tag.name()).summary(Some(summary)).build();
        Self { id, operation, answers: BTreeMap::new(), problems: BTreeMap::new(), schemas: Vec::new() }
    }

    /// Markdown.
    pub(super) fn about(mut self, text: impl Into<String>) -> Self {
        self.operation.description = Some(text.into());
        self
    }

    pub(super) fn query(self, name: &str, schema: impl Into<RefOr<Schema>>, about: &str) -> Self {
        self.parameter(ParameterIn::Query, Required::False, name, schema, about)
    }

    pub(super) fn required_query(self, name: &str, schema: impl Into<RefOr<Schema>>, about: &str) -> Self {
        self.parameter(ParameterIn::Query, Required::True, name, schema, about)
    }

    pub(super) fn header(self, name: &str, schema: impl Into<RefOr<Schema>>, about: &str) -> Self {
        self.parameter(ParameterIn::Header, Required::False, name, schema, about)
    }

    pub(super) fn required_header(self, name: &str, schema: impl Into<RefOr<Schema>>, about: &str) -> Self {
        self.parameter(ParameterIn::Header, Required::True, name, schema, about)
    }

    pub(super) fn in_path(self, name: &str, about: &str) -> Self {
        self.parameter(ParameterIn::Path, Required::True, name, text(), about)
    }

    fn parameter(
        mut self,
        place: ParameterIn,
        required: Required,
        name: &str,
        schema: impl Into<RefOr<Schema>>,
        about: &str,
    ) -> Self {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(required)
            .schema(Some(schema))
            .description(Some(about));
        self.operation = OperationBuilder::from(self.operation).parameter(parameter).build();
        self
    }

    /// `If-Match` and its like, for what changes something. `of` says of what they are true.
    pub(super) fn write_preconditions(self, of: &str) -> Self {
        let about = |text: &str| format!("{text} Else 412. It is about {of}.");
        self.header(
            "If-Match",
            text(),
            &about("One of these strong entity tags, or `*` for any, must be true."),
        )
        .header(
            "If-None-Match",
            text(),
            "`*`: nothing may be there. Entity tags: none of them may be true. Else 412.",
        )
        .header(
            "If-Unmodified-Since",
            text(),
            &about("A date of HTTP; not later modified, in whole seconds."),
        )
        .header(
            "X-Require-Precondition",
            text(),
            "With any value but `0`: without one of the above, the answer is 428, and nothing changes.",
        )
        .fails([HttpError::PreconditionFailed("If-Match").into()])
        .fails([HttpError::PreconditionRequired.into()])
        .fails([HttpError::from(Malformed(Field::IfMatch)).into()])
    }

    /// A body of JSON.
    pub(super) fn json_body<T: ToSchema>(mut self, about: &str, example: Value) -> Self {
        let schema = self.schema_of::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        self.body_of("application/json", content, about)
    }

    pub(super) fn form_body<T: ToSchema>(mut self, about: &str) -> Self {
        let schema = self.schema_of::<T>();
        self.body_of("multipart/form-data", ContentBuilder::new().schema(Some(schema)).build(), about)
    }

    /// A body of bytes.
    pub(super) fn bytes_body(self, media_type: &str, about: &str) -> Self {
        self.body_of(media_type, ContentBuilder::new().build(), about)
    }

    fn body_of(mut self, media_type: &str, content: utoipa::openapi::Content, about: &str) -> Self {
        let body = RequestBodyBuilder::new()
            .description(Some(about))
            .required(Some(Required::True))
            .content(media_type, content)
            .build();
        self.operation.request_body = Some(RefOr::T(body));
        self
    }

    /// An answer of JSON.
    pub(super) fn json<T: ToSchema>(mut self, status: StatusCode, about: &str, example: Value) -> Self {
        let schema = self.schema_of::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        let answer = ResponseBuilder::new().description(about).content("application/json", content);
        let answer = answer.build();
        self.answers.insert(status.as_u16(), answer);
        self
    }

    /// An answer of bytes, in one of several types.
    pub(super) fn bytes(mut self, status: StatusCode, about: &str, media_types: &[&str]) -> Self {
        let mut answer = ResponseBuilder::new().description(about);
        for media_type in media_types {
            answer = answer.content(*media_type, ContentBuilder::new().build());
        }
        self.answers.insert(status.as_u16(), answer.build());
        self
    }

    /// An answer without a body.
    pub(super) fn empty(mut self, status: StatusCode, about: &str) -> Self {
        self.answers.insert(status.as_u16(), ResponseBuilder::new().description(about).build());
        self
    }

    /// A header of each good answer so far.
    pub(super) fn with_header(mut self, name: &str, schema: impl Into<RefOr<Schema>>, about: &str) -> Self {
        let schema = schema.into();
        for answer in self.answers.values_mut() {
            let header = HeaderBuilder::new().schema(Some(schema.clone())).description(Some(about)).build();
            *answer = ResponseBuilder::from(std::mem::take(answer)).header(name, header).build();
        }
        self
    }

    /// What can be wrong. Status, code and text are those of the errors themselves.
    pub(super) fn fails(mut self, errors: impl IntoIterator<Item = ApiError>) -> Self {
        for error in errors {
            self.problems.entry(error.status().as_u16()).or_default().push(error);
        }
        self
    }

    /// The same, in the words of a route.
    pub(super) fn fails_to(self, action: Action, errors: impl IntoIterator<Item = FileError>) -> Self {
        self.fails(errors.into_iter().map(action.failed()))
    }

    /// Puts a schema into the description that no answer refers to: what is inside of a stream.
    pub(super) fn mentions<T: ToSchema>(mut self) -> Self {
        self.schema_of::<T>();
        self
    }

    fn schema_of<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        let name = T::name().into_owned();
        let reference = Ref::from_schema_name(&name);
        self.schemas.push((name, T::schema()));
        reference.into()
    }

    /// The operation under its name with `suffix`, and the schemas that it needs. `everywhere` is what any operation
    /// can answer, and stands under these names in the document: an operation that has the same status besides says
    /// both.
    pub(super) fn build(
        &self,
        suffix: &str,
        everywhere: &BTreeMap<u16, (&'static str, Vec<ApiError>)>,
    ) -> (Operation, Schemas) {
        let operation = OperationBuilder::from(self.operation.clone());
        let mut operation = operation.operation_id(Some(format!("{}{suffix}", self.id)));
        for (status, answer) in &self.answers {
            operation = operation.response(status.to_string(), answer.clone());
        }
        for (status, errors) in &self.problems {
            let more = everywhere.get(status).map(|(_, errors)| errors.clone()).unwrap_or_default();
            operation = operation.response(status.to_string(), problem(&[errors.clone(), more].concat()));
        }
        for (status, (name, _)) in everywhere {
            if !self.problems.contains_key(status) {
                operation = operation.response(status.to_string(), Ref::from_response_name(*name));
            }
        }
        (operation.build(), self.schemas.clone())
    }
}

/// The answer of one status: which codes it can have, and what each means.
pub(super) fn problem(errors: &[ApiError]) -> ResponseBuilder {
    let mut codes = BTreeMap::new();
    for error in errors {
        codes.entry(error.code()).or_insert(error);
    }
    let line = |(code, error): (&&str, &&ApiError)| match error.text() {
        // It says nothing by itself.
        "Bad request" => format!("* `{code}`: {error}"),
        text => format!("* `{code}`: {text}"),
    };
    let about: Vec<String> = codes.iter().map(line).collect();
    let code = text().enum_values(Some(codes.keys().copied()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(Problem::name()))
        .item(ObjectBuilder::new().property("code", code));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let mut answer =
        ResponseBuilder::new().description(about.join("\n")).content("application/problem+json", content);
    let headers: BTreeMap<String, &str> = errors
        .iter()
        .filter_map(|error| error.header().map(|(name, _)| (name.to_string(), error.code())))
        .collect();
    for (name, code) in headers {
        let about = format!("With `{code}`, and perhaps with other codes.");
        answer =
            answer.header(name, HeaderBuilder::new().schema(Some(text())).description(Some(about)).build());
    }
    answer
}

// === schemas of parameters and headers ===

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

pub(super) fn text() -> ObjectBuilder {
    of(Type::String)
}

pub(super) fn choice<const N: usize>(values: [&str; N]) -> ObjectBuilder {
    text().enum_values(Some(values))
}

pub(super) fn integer() -> ObjectBuilder {
    of(Type::Integer).minimum(Some(0))
}

// === what can be wrong in many places ===

/// With a path, and with what is on the way to what it names.
pub(super) fn on_paths() -> [FileError; 4] {
    [PathError::Outside.into(), PathError::Traversal.into(), PathError::TooLong.into(), FileError::Outside]
}

/// With the disk, while something is read.
pub(super) fn on_reads() -> [FileError; 2] {
    use std::io::ErrorKind;
    [ErrorKind::PermissionDenied, ErrorKind::Other].map(|kind| FileError::from_io("read", kind.into()))
}

/// With the disk, while something is changed.
pub(super) fn on_writes() -> [FileError; 3] {
    use std::io::ErrorKind;
    [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other]
        .map(|kind| FileError::from_io("write", kind.into()))
}

/// With a body.
pub(super) fn on_bodies() -> [ApiError; 2] {
    [FileError::BodyAborted.into(), HttpError::Silent.into()]
}

/// A path in a query or a field.
pub(super) const PATH: &str = "An absolute path in the workspace, which clients call `/root/clawd`: at most 4,096 \
    bytes of UTF-8, each name at most 255.";
