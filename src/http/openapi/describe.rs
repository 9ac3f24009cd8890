//! The part of the published document that follows from a handler's types: the caller that a parameter asks for,
//! body, query and answers.

use std::collections::BTreeMap;

use actix_web::{
    Either, Handler, HttpRequest, HttpResponse,
    web::{Data, Json, Path},
};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::components;
use crate::{
    app::App,
    http::{
        access::RouteAccess,
        body::{Body, FormBody, JsonObject, OptionalBody, PatchBody},
        caller::{
            ActingUser, AdminCaller, AnyCaller, DirectusActingUser, DirectusAdmin, DirectusUser,
            Opens, Operator, SecretCaller, ServerCaller, UserCaller,
        },
        error::{ApiError, DirectusError, FailureBody, OpenAiError},
        health::{Probe, Readiness, ReadyOnly},
        held_job::LeaseHeaders,
        idempotency::IdempotencyKey,
        identity::FieldsQuery,
        input::Query,
        mcp::{McpRefusal, McpUser},
        read_your_writes::MinPosition,
        recent::Recent,
        response::{Answer, DirectusData, ListPage, NoContent, Written},
        stream_ticket::{StreamReader, TicketedStream},
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Genie,
    Directus,
    OpenAi,
}

#[derive(Default)]
pub struct Operation {
    /// Nobody in particular when absent.
    pub access: Option<RouteAccess>,
    pub query: Vec<Value>,
    pub body: Option<Value>,
    /// True when the body is JSON, which the extractor checks.
    pub takes_json: bool,
    /// By status.
    pub answers: BTreeMap<String, Value>,
    pub takes_idempotency_key: bool,
    pub takes_min_position: bool,
    /// None when the handler cannot fail.
    pub shape: Option<Shape>,
    pub schemas: BTreeMap<String, Value>,
}

impl Operation {
    pub fn reference<T: ToSchema>(&mut self) -> Value {
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        schemas.push((T::name().into_owned(), T::schema()));
        for (name, schema) in schemas {
            self.schemas
                .insert(name, serde_json::to_value(schema).unwrap());
        }
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    fn success(&mut self) -> &mut Value {
        self.answers
            .entry("200".to_owned())
            .or_insert_with(|| json!({}))
    }

    pub fn content(&mut self, media_type: &str, content: Value) {
        self.success()["content"][media_type] = content;
    }

    pub fn header(&mut self, name: &str) {
        self.success()["headers"][name] = components::header(name);
    }

    fn answers(&mut self, schema: &Value, has_position: bool) {
        self.content("application/json", json!({"schema": schema}));
        if has_position {
            self.header("Genie-Position");
        }
    }

    /// The fields beside the two flags.
    pub fn answers_with_flags(&mut self, fields: &Value, has_position: bool) {
        let flags = json!({"$ref": "#/components/schemas/Success"});
        self.answers(&json!({"allOf": [flags, fields]}), has_position);
    }
}

/// A type that a handler takes or answers, and its part of the route's description.
pub trait Describe {
    fn describe(operation: &mut Operation);
}

/// Collects the descriptions of a handler's types.
pub fn handler<F: Handler<Args>, Args: Describe>(_: &F, operation: &mut Operation)
where
    F::Output: Describe,
{
    Args::describe(operation);
    F::Output::describe(operation);
}

macro_rules! says_nothing {
    ($($silent:ty),+) => {
        $( impl Describe for $silent {
            fn describe(_: &mut Operation) {}
        } )+
    };
}
// Paths are described by their pattern. A bare response is a failure, or is passed on.
says_nothing!(
    Data<App>,
    LeaseHeaders,
    HttpRequest,
    HttpResponse,
    Path<String>,
    JsonObject
);

macro_rules! tuples {
    ($( ($($part:ident),*) )+) => {
        $( impl<$($part: Describe),*> Describe for ($($part,)*) {
            fn describe(_operation: &mut Operation) {
                $( $part::describe(_operation); )*
            }
        } )+
    };
}
tuples!(()(A)(A, B)(A, B, C)(A, B, C, D)(A, B, C, D, E)(
    A, B, C, D, E, F
)(A, B, C, D, E, F, G));

macro_rules! callers {
    ($( [$($generics:tt)*] $caller:ty => $access:expr; )+) => {
        $( impl<$($generics)*> Describe for $caller {
            fn describe(operation: &mut Operation) {
                operation.access = Some($access);
            }
        } )+
    };
}
callers! {
    [] UserCaller => RouteAccess::User;
    [] ActingUser => RouteAccess::ActingUser;
    [] AdminCaller => RouteAccess::Admin;
    [] SecretCaller => RouteAccess::SharedSecret;
    [W: Opens] AnyCaller<W> => RouteAccess::UserOrServer(W::SCOPES);
    [W: Opens] ServerCaller<W> => RouteAccess::Server(W::SCOPES);
    [W: Opens] Operator<W> => RouteAccess::Operator(W::SCOPES);
    [] McpUser => RouteAccess::ActingUser;
    [] DirectusUser => RouteAccess::User;
    [] DirectusAdmin => RouteAccess::Admin;
    [] DirectusActingUser => RouteAccess::ActingUser;
    [K: TicketedStream] StreamReader<K> => RouteAccess::ActingUser;
}

impl Describe for IdempotencyKey {
    fn describe(operation: &mut Operation) {
        operation.takes_idempotency_key = true;
    }
}

impl Describe for MinPosition {
    fn describe(operation: &mut Operation) {
        operation.takes_min_position = true;
    }
}

impl<T: ToSchema> Describe for Body<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.reference::<T>();
        let content = json!({"application/json": {"schema": schema}});
        operation.body = Some(json!({"required": true, "content": content}));
        operation.takes_json = true;
    }
}

impl<T: ToSchema> Describe for PatchBody<T> {
    fn describe(operation: &mut Operation) {
        Body::<T>::describe(operation);
    }
}

impl<T: ToSchema> Describe for OptionalBody<T> {
    fn describe(operation: &mut Operation) {
        Body::<T>::describe(operation);
        operation.body.as_mut().unwrap()["required"] = false.into();
    }
}

impl<T: ToSchema> Describe for FormBody<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.reference::<T>();
        let content = json!({"multipart/form-data": {"schema": schema}});
        operation.body = Some(json!({"required": true, "content": content}));
    }
}

impl Describe for FieldsQuery {
    fn describe(operation: &mut Operation) {
        operation.query.push(json!({
            "name": "fields", "in": "query", "schema": {"type": "string"},
            "description": "Only these fields, separated by commas, such as `id,role.name` or `*.*`. Unknown fields are left out, and Directus' other parameters are ignored.",
        }));
    }
}

impl<T: IntoParams> Describe for Query<T> {
    fn describe(operation: &mut Operation) {
        for parameter in T::into_params(|| None) {
            let mut parameter = serde_json::to_value(parameter).unwrap();
            if parameter["required"] == false {
                parameter["allowEmptyValue"] = true.into();
            }
            operation.query.push(parameter);
        }
    }
}

impl<T: Describe> Describe for Result<T, ApiError> {
    fn describe(operation: &mut Operation) {
        // A handler may take a body as a `Result` of this type, so it must not change the shape that is set.
        operation.shape.get_or_insert(Shape::Genie);
        T::describe(operation);
    }
}

impl<T: Describe> Describe for Result<T, McpRefusal> {
    fn describe(operation: &mut Operation) {
        operation.shape.get_or_insert(Shape::Genie);
        T::describe(operation);
    }
}

impl<T: Describe> Describe for Result<T, DirectusError> {
    fn describe(operation: &mut Operation) {
        operation.shape = Some(Shape::Directus);
        T::describe(operation);
    }
}

impl<T: Describe> Describe for Result<T, OpenAiError> {
    fn describe(operation: &mut Operation) {
        operation.shape = Some(Shape::OpenAi);
        T::describe(operation);
    }
}

impl<A: Describe, B: Describe> Describe for Either<A, B> {
    fn describe(operation: &mut Operation) {
        B::describe(operation);
        A::describe(operation);
    }
}

impl<T: ToSchema> Describe for Answer<T> {
    fn describe(operation: &mut Operation) {
        let fields = operation.reference::<T>();
        operation.answers_with_flags(&fields, false);
    }
}

impl<T: ToSchema> Describe for Written<T> {
    fn describe(operation: &mut Operation) {
        let fields = operation.reference::<T>();
        operation.answers_with_flags(&fields, true);
    }
}

impl<T> Describe for Data<Recent<T>> {
    fn describe(_: &mut Operation) {}
}

impl Describe for Probe {
    fn describe(operation: &mut Operation) {
        let failure = operation.reference::<FailureBody>();
        let whole = operation.reference::<Readiness>();
        let brief = operation.reference::<ReadyOnly>();
        let fields = json!({"anyOf": [whole, brief]});
        operation.answers_with_flags(&fields, false);
        let schema = json!({"allOf": [failure, fields]});
        let answer = components::failure(&schema);
        operation.answers.insert("503".to_owned(), answer);
    }
}

impl<T: ToSchema> Describe for ListPage<T> {
    fn describe(operation: &mut Operation) {
        let item = operation.reference::<T>();
        let fields = json!({
            "type": "object",
            "required": ["data", "has_more", "next_cursor"],
            "properties": {
                "data": {"type": "array", "items": item},
                "has_more": {
                    "type": "boolean",
                    "description": "Whether there is a next page. A page ends at `limit` or at 1 MiB.",
                },
                "next_cursor": {
                    "type": ["string", "null"],
                    "description": "For the next page. Null when this is the last.",
                },
            },
        });
        operation.answers_with_flags(&fields, false);
    }
}

impl<T: ToSchema> Describe for DirectusData<T> {
    fn describe(operation: &mut Operation) {
        let data = operation.reference::<T>();
        let schema = json!({"type": "object", "required": ["data"], "properties": {"data": data}});
        operation.answers(&schema, false);
    }
}

/// An answer of Directus' own that is not within `data`.
impl<T: ToSchema> Describe for Json<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.reference::<T>();
        operation.answers(&schema, false);
    }
}

impl Describe for NoContent {
    fn describe(operation: &mut Operation) {
        operation.answers.insert("204".to_owned(), json!({}));
    }
}
