//! Makes the published document from the table of routes, the handlers' types and the prose.

use std::collections::BTreeMap;

use genie_events::job_operation;
use genie_media::operations::{params_schema, result_schema};
use serde_json::{Map, Value, json};

use super::{
    components,
    describe::{Operation, Shape},
    prose::{self, Prose},
};
use crate::http::{
    access::RouteAccess,
    error::{DirectusFailure, FailureBody, OpenAiFailure, QuotaRefusal},
    response::SuccessFlags,
    routes::{API, Endpoint},
};

const INTRODUCTION: &str = include_str!("introduction.md");

pub fn document() -> Value {
    let (tags, mut prose) = prose::read();
    let mut schemas = shared_schemas();
    let mut paths = Map::new();
    for route in API {
        let of = format!("{} {}", route.method, route.path);
        let prose = prose
            .remove(&(route.method.as_str(), route.path))
            .unwrap_or_else(|| panic!("{of} is not described in src/http/openapi/*.md"));
        let told = route.told_by_types();
        let operation = operation(route, &prose, &told);
        schemas.extend(told.schemas);
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_lowercase()] = operation;
    }
    describe_params(&mut schemas);
    describe_results(&mut schemas);
    let unknown: Vec<_> = prose.keys().collect();
    assert!(unknown.is_empty(), "described, but no routes: {unknown:?}");
    let tags: Vec<Value> = tags
        .iter()
        .map(|tag| json!({"name": tag.name, "description": tag.description}))
        .collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "genie",
            "summary": "A self-hosted back end for creator platforms.",
            "description": INTRODUCTION.trim(),
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": components::security_schemes(),
            "headers": components::headers(),
            "responses": components::refusals(),
            "schemas": schemas,
        },
    });
    inline_small_schemas(&mut document);
    correct_unsigned(&mut document);
    document
}

/// utoipa gives an unsigned number the format of a signed one, whose range is smaller.
fn correct_unsigned(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let is_whole = fields
                .get("format")
                .is_some_and(|format| format == "int64" || format == "int32");
            let is_unsigned = fields.get("minimum").is_some_and(|least| *least == 0);
            if is_whole && is_unsigned && !fields.contains_key("maximum") {
                fields.remove("format");
            }
            fields.values_mut().for_each(correct_unsigned);
        }
        Value::Array(values) => values.iter_mut().for_each(correct_unsigned),
        _ => {}
    }
}

/// The `params` of a job: a schema for each operation, and any object for the operations of outside workers. No word of
/// JSON Schema that all generators of clients know ties them to `operation`, so `x-operation` names it.
fn describe_params(schemas: &mut BTreeMap<String, Value>) {
    let mut of_operations: Vec<(String, Value)> = Vec::new();
    for operation in job_operation::all() {
        let Some(mut schema) = params_schema(operation) else {
            continue;
        };
        schema["x-operation"] = operation.into();
        of_operations.push((format!("{}Params", in_camel_case(operation)), schema));
    }
    let any = json!({
        "type": "object", "description": "Of the other operations.", "additionalProperties": {},
    });
    let named = of_operations
        .iter()
        .map(|(name, _)| json!({"$ref": format!("#/components/schemas/{name}")}));
    let ways: Vec<Value> = named.chain([any, json!({"type": "null"})]).collect();
    let job = schemas.get_mut("NewJob").expect("a route takes it");
    let params = &mut job["properties"]["params"];
    *params = json!({"description": params["description"], "anyOf": ways});
    schemas.extend(of_operations);
}

/// The `result` of a job: a schema for each operation of genie's own worker and of the server, and any JSON for outside
/// workers.
fn describe_results(schemas: &mut BTreeMap<String, Value>) {
    let mut of_operations: Vec<(String, Value)> = Vec::new();
    for operation in job_operation::all() {
        let written = (operation == job_operation::CAPTION).then(written_caption);
        let Some(mut schema) = result_schema(operation).or(written) else {
            continue;
        };
        schema["x-operation"] = operation.into();
        of_operations.push((format!("{}Result", in_camel_case(operation)), schema));
    }
    let named = of_operations
        .iter()
        .map(|(name, _)| json!({"$ref": format!("#/components/schemas/{name}")}));
    let result: Vec<Value> = named.chain([json!({})]).collect();
    let job = schemas.get_mut("Job").expect("a route answers it");
    job["properties"]["result"]["anyOf"] = result.into();
    schemas.extend(of_operations);
}

/// The `result` of `caption_generation`.
fn written_caption() -> Value {
    let cut = "True when the text was cut to the platform's length; else absent.";
    json!({
        "type": "object",
        "description": "The `result` of `caption_generation`.",
        "required": ["caption", "model", "platform"],
        "properties": {
            "caption": {"type": "string"},
            "model": {"type": "string"},
            "platform": {"type": "string"},
            "truncated": {"type": "boolean", "description": cut},
        },
    })
}

fn in_camel_case(words: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    words.split('_').map(capital).collect()
}

/// The schemas of flags and failures, which most answers name.
fn shared_schemas() -> BTreeMap<String, Value> {
    let mut shared = Operation::default();
    shared.reference::<SuccessFlags>();
    shared.reference::<FailureBody>();
    shared.reference::<QuotaRefusal>();
    shared.reference::<DirectusFailure>();
    shared.reference::<OpenAiFailure>();
    shared.schemas
}

fn operation(route: &Endpoint, prose: &Prose, told: &Operation) -> Value {
    let mut description: Vec<String> = prose.description.iter().map(|&text| text.into()).collect();
    if told.takes_idempotency_key {
        description.push("Takes `Idempotency-Key`.".to_owned());
    }
    if told.takes_min_position {
        description.push("Takes `Genie-Min-Position`.".to_owned());
    }
    let mut operation = json!({
        "operationId": prose.operation_id,
        "tags": [prose.tag],
        "summary": prose.summary,
        "security": security(route),
        "responses": responses(route, prose, told),
    });
    if !description.is_empty() {
        operation["description"] = description.join("\n\n").into();
    }
    let parameters: Vec<Value> = path_parameters(route, prose)
        .chain(told.query.iter().cloned())
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = &told.body {
        operation["requestBody"] = request_body(body, prose);
    }
    operation
}

/// A body of JSON with the example of the prose.
fn request_body(body: &Value, prose: &Prose) -> Value {
    let mut body = body.clone();
    let json = body["content"].get_mut("application/json");
    match (json, prose.example) {
        (Some(content), Some(example)) => {
            content["example"] = serde_json::from_str(example)
                .unwrap_or_else(|error| panic!("{}: {error}: {example}", prose.operation_id));
        }
        (None, None) => {}
        _ => panic!(
            "{}: a route has an example if it takes JSON",
            prose.operation_id
        ),
    }
    body
}

fn path_parameters<'a>(route: &Endpoint, prose: &'a Prose) -> impl Iterator<Item = Value> + 'a {
    let parts = route.path.split('/');
    let named: Vec<&str> = parts
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect();
    let described: Vec<&str> = prose.path.iter().map(|part| part.name).collect();
    assert_eq!(named, described, "{}: what is in the path", route.path);
    prose.path.iter().map(|part| {
        let schema = match part.format {
            "uuid" => json!({"type": "string", "format": "uuid"}),
            _ => json!({"type": "string"}),
        };
        json!({
            "name": part.name, "in": "path", "required": true, "schema": schema,
            "description": part.description,
        })
    })
}

/// Each of these alone opens the route.
fn security(route: &Endpoint) -> Value {
    let user = json!({"userToken": []});
    let secret = json!({"sharedSecret": []});
    let key = json!({"serviceKey": []});
    let with_key = |mut ways: Vec<Value>, scopes: &[_]| {
        if !scopes.is_empty() {
            ways.push(key.clone());
        }
        ways
    };
    let mut ways = match route.access {
        RouteAccess::Public => vec![],
        RouteAccess::PublicByDefault => vec![json!({}), user, secret, key],
        RouteAccess::User | RouteAccess::ActingUser | RouteAccess::Admin => vec![user],
        RouteAccess::SharedSecret => vec![secret],
        RouteAccess::Server(scopes) => with_key(vec![secret], scopes),
        RouteAccess::UserOrServer(scopes) | RouteAccess::Operator(scopes) => {
            with_key(vec![user, secret], scopes)
        }
    };
    ways.extend(
        route
            .opening_scope()
            .map(|scope| json!({"userKey": [scope]})),
    );
    Value::Array(ways)
}

fn responses(route: &Endpoint, prose: &Prose, told: &Operation) -> Value {
    let mut responses = Map::new();
    for (status, name) in refusals(route, told) {
        let shape = match told.shape {
            Some(Shape::Directus) => "Directus",
            Some(Shape::OpenAi) => "OpenAi",
            Some(Shape::Genie) | None => "",
        };
        responses.insert(status.to_owned(), shared(&format!("{shape}{name}")));
    }
    for (status, answer) in &told.answers {
        responses.insert(status.clone(), answer.clone());
    }
    for (status, sentence) in &prose.answers {
        let is_shared = sentence
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Some(name) = is_shared {
            responses.insert((*status).to_owned(), shared(name));
            continue;
        }
        let is_success = status.starts_with('2');
        let answer = responses.entry(*status).or_insert_with(|| json!({}));
        if !is_success && !told.answers.contains_key(*status) {
            *answer = failure(told.shape);
        }
        answer["description"] = (*sentence).into();
    }
    for (status, answer) in &mut responses {
        if status.starts_with('2') {
            answer["headers"]["X-Request-Id"] = components::header("X-Request-Id");
        }
    }
    responses.into()
}

fn shared(name: &str) -> Value {
    json!({"$ref": format!("#/components/responses/{name}")})
}

fn failure(shape: Option<Shape>) -> Value {
    let name = match shape {
        Some(Shape::Directus) => "DirectusFailure",
        Some(Shape::OpenAi) => "OpenAiFailure",
        Some(Shape::Genie) | None => "Failure",
    };
    components::failure(&json!({"$ref": format!("#/components/schemas/{name}")}))
}

/// The failures that follow from the route's callers and from the parameters of its handler.
fn refusals(route: &Endpoint, told: &Operation) -> Vec<(&'static str, &'static str)> {
    let mut refusals = Vec::new();
    if route.is_counted() {
        refusals.push(("429", "TooMany"));
    }
    let Some(shape) = told.shape else {
        return refusals;
    };
    let has_body = told.takes_json;
    let asks_for_caller = route.access != RouteAccess::Public;
    let is_another_s = shape != Shape::Genie;
    if has_body || asks_for_caller || told.takes_min_position || !told.query.is_empty() {
        let name = if has_body || is_another_s {
            "BadRequest"
        } else {
            "BadQuery"
        };
        refusals.push(("400", name));
    }
    if asks_for_caller {
        refusals.push(("401", "Unauthorized"));
    }
    if asks_for_caller && route.access != RouteAccess::PublicByDefault {
        refusals.push(("403", "Forbidden"));
    }
    if asks_for_caller || told.takes_min_position {
        refusals.push(("412", "Behind"));
    }
    if has_body {
        refusals.push(("413", "TooLarge"));
        refusals.push(("415", "NotJson"));
    }
    if told.takes_idempotency_key {
        refusals.push(("422", "KeyReused"));
    }
    let takes_secret = matches!(
        route.access,
        RouteAccess::SharedSecret
            | RouteAccess::Server(_)
            | RouteAccess::UserOrServer(_)
            | RouteAccess::Operator(_)
    );
    let unavailable = if takes_secret {
        "SecretOrUnavailable"
    } else {
        "Unavailable"
    };
    refusals.push(("500", "Internal"));
    refusals.push(("503", unavailable));
    refusals
}

/// A time is a string with a format, and a constant is a value. Neither needs a schema with a name.
fn inline_small_schemas(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object_mut().unwrap();
    let is_small = |name: &str, schema: &Value| name == "Time" || schema.get("const").is_some();
    let mut small = Map::new();
    schemas.retain(|name, schema| {
        let is_small = is_small(name, schema);
        if is_small {
            small.insert(format!("#/components/schemas/{name}"), schema.take());
        }
        !is_small
    });
    inline(document, &small);
}

fn inline(value: &mut Value, small: &Map<String, Value>) {
    match value {
        Value::Object(fields) => {
            inline_reference(fields, small);
            inline_optional(fields, small);
            fields.values_mut().for_each(|value| inline(value, small));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| inline(value, small)),
        _ => {}
    }
}

/// A description stays beside the schema.
fn inline_reference(fields: &mut Map<String, Value>, small: &Map<String, Value>) {
    let named = fields.get("$ref").and_then(Value::as_str);
    let Some(Value::Object(schema)) = named.and_then(|name| small.get(name)) else {
        return;
    };
    fields.remove("$ref");
    fields.extend(schema.clone());
}

fn inline_optional(fields: &mut Map<String, Value>, small: &Map<String, Value>) {
    let null = json!({"type": "null"});
    let ways = fields.get("oneOf").and_then(Value::as_array);
    let way = match ways.map(Vec::as_slice) {
        Some([one, other]) if *one == null => other,
        Some([one, other]) if *other == null => one,
        _ => return,
    };
    let Value::Object(mut way) = way.clone() else {
        return;
    };
    inline_reference(&mut way, small);
    if way.contains_key("$ref") {
        return;
    }
    way["type"] = json!([way["type"], "null"]);
    fields.remove("oneOf");
    fields.extend(way);
}
