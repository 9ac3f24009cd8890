//! Tools: what programs and models may do for a user, by name and with JSON (docs/api.md, Tools). Each tool runs what its
//! HTTP route runs: the same commands, quotas and bounds, as that user.

use std::sync::LazyLock;

use genie_actors::CommandContext;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};
use tracing::warn;

use crate::{
    app::App,
    http::{caller::ActingUser, error::ApiError, input},
};

mod captions;
mod chats;
mod jobs;
mod lists;
/// JSON schemas that every client can read.
mod schema;

/// The most bytes of a call's arguments, as JSON.
const MAX_ARGUMENTS: usize = 256 * 1024;

/// A tool as clients and models are told of it.
#[derive(Debug)]
pub struct ToolSpec {
    pub name: &'static str,
    pub description: &'static str,
    /// An object. No schema has references or several types.
    pub input_schema: Value,
    pub output_schema: Value,
    /// The tool changes nothing.
    pub read_only: bool,
    /// The same call again changes nothing more.
    pub idempotent: bool,
    /// The tool may undo what was done before.
    pub destructive: bool,
}

/// A call that did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct ToolFailure {
    /// Stable, for programs.
    pub code: String,
    /// For people and models: what is wrong and what to do. It names a wrong argument.
    pub sentence: String,
}

impl ToolFailure {
    fn of(tool: &str, error: &ApiError) -> Self {
        if let Some(reason) = error.server_reason() {
            warn!(tool, reason, "tool: a call failed; its caller is told");
        }
        let (code, sentence) = error.words();
        Self { code, sentence }
    }
}

/// All tools, in the order in which they are listed.
pub fn catalogue() -> &'static [ToolSpec] {
    static CATALOGUE: LazyLock<Vec<ToolSpec>> = LazyLock::new(|| {
        let of_jobs = jobs::specs().into_iter();
        let rest = captions::specs().into_iter().chain(lists::specs());
        of_jobs.chain(rest).chain(chats::specs()).collect()
    });
    &CATALOGUE
}

/// True when there is a tool of this name.
pub fn is_known(name: &str) -> bool {
    catalogue().iter().any(|tool| tool.name == name)
}

/// Runs a tool as this user. The answer fits the tool's output schema.
pub async fn call(
    app: &App,
    user: &ActingUser,
    name: &str,
    arguments: Value,
) -> Result<Value, ToolFailure> {
    let done = run(app, user, name, arguments).await;
    done.map_err(|error| ToolFailure::of(name, &error))
}

async fn run(
    app: &App,
    user: &ActingUser,
    name: &str,
    arguments: Value,
) -> Result<Value, ApiError> {
    let arguments = ToolArguments::read(arguments)?;
    let asking = CommandContext {
        bytes: arguments.bytes,
        ..user.caller.metadata().into()
    };
    match name {
        "queue_media_job" => jobs::queue(app, user, arguments, asking).await,
        "job_status" => jobs::status(app, user, arguments).await,
        "list_jobs" => jobs::list(app, user, arguments).await,
        "cancel_job" => jobs::cancel(app, user, arguments, asking).await,
        "generate_caption" => captions::generate(app, user, arguments, asking).await,
        "usage" => lists::usage(app, user).await,
        "list_files" => lists::files(app, user, arguments).await,
        "list_connections" => lists::connections(app, user, arguments).await,
        "chat" => chats::ask(app, user, arguments, asking).await,
        _ => Err(ApiError::NotFound("tool")),
    }
}

/// The arguments of a call.
#[derive(Clone)]
struct ToolArguments {
    json: Map<String, Value>,
    bytes: usize,
}

impl ToolArguments {
    /// Absent arguments are none.
    fn read(given: Value) -> Result<Self, ApiError> {
        let bytes = given.to_string().len();
        if bytes > MAX_ARGUMENTS {
            return Err(ApiError::field(format!(
                "`arguments` must be at most {MAX_ARGUMENTS} bytes as JSON"
            )));
        }
        match given {
            Value::Object(json) => Ok(Self { json, bytes }),
            Value::Null => Ok(Self {
                json: Map::new(),
                bytes,
            }),
            _ => Err(ApiError::field("`arguments` must be a JSON object")),
        }
    }

    /// Takes an argument by the name that a route has for it.
    fn renamed(mut self, argument: &str, field: &str) -> Self {
        if let Some(value) = self.json.remove(argument) {
            self.json.insert(field.to_owned(), value);
        }
        self
    }

    /// Reads the arguments as a route reads its body.
    fn into<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let mut text = Value::Object(self.json).to_string().into_bytes();
        Ok(input::read(&input::json(&mut text)?)?)
    }
}

/// The fields of an answer that a tool shows, by the names that it gives them. Fields without a value are left out: a
/// schema of one type each has no null.
fn shown(answer: &impl serde::Serialize, fields: &[(&str, &str)]) -> Result<Value, ApiError> {
    let answer = serde_json::to_value(answer)
        .map_err(|error| ApiError::Internal(format!("an answer is no JSON: {error}")))?;
    let shown = fields.iter().filter_map(|(field, name)| {
        let value = answer.get(field).filter(|value| !value.is_null())?;
        Some(((*name).to_owned(), value.clone()))
    });
    Ok(Value::Object(shown.collect()))
}

/// A page of a list, under the name of its rows.
fn shown_page(
    rows: &str,
    (data, next_cursor): (Vec<Box<RawValue>>, Option<String>),
    fields: &[(&str, &str)],
) -> Result<Value, ApiError> {
    let data = data.iter().map(|row| shown(row, fields));
    let data: Vec<Value> = data.collect::<Result<_, _>>()?;
    let mut page = Map::from_iter([(rows.to_owned(), data.into())]);
    page.extend(next_cursor.map(|cursor| ("next_cursor".to_owned(), cursor.into())));
    Ok(page.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_an_object_of_one_type_each_without_references() {
        for tool in catalogue() {
            for schema in [&tool.input_schema, &tool.output_schema] {
                assert_eq!(schema["type"], "object", "{}", tool.name);
                assert_plain(tool.name, schema);
            }
        }
        assert_eq!(catalogue().len(), 9);
    }

    fn assert_plain(tool: &str, schema: &Value) {
        let known = [
            "type",
            "description",
            "properties",
            "required",
            "items",
            "enum",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "additionalProperties",
        ];
        let fields = schema.as_object().unwrap();
        for (name, value) in fields {
            assert!(known.contains(&name.as_str()), "{tool}: `{name}`");
            match name.as_str() {
                "type" => assert!(value.is_string(), "{tool}: {value}"),
                "properties" => {
                    let properties = value.as_object().unwrap().values();
                    properties.for_each(|one| assert_plain(tool, one));
                }
                "items" | "additionalProperties" => assert_plain(tool, value),
                "required" => {
                    for field in value.as_array().unwrap() {
                        let field = field.as_str().unwrap();
                        assert!(!schema["properties"][field].is_null(), "{tool}: {field}");
                    }
                }
                _ => {}
            }
        }
        assert!(fields.contains_key("type"), "{tool}: {schema}");
    }

    #[test]
    fn a_tool_shows_only_what_it_names_and_no_null() {
        let answer = serde_json::json!({"a": 1, "b": null, "c": 3});
        let fields = [("a", "first"), ("b", "second")];
        assert_eq!(
            shown(&answer, &fields).unwrap(),
            serde_json::json!({"first": 1})
        );
    }

    /// A turn runs tools on threads that take turns with it.
    #[test]
    fn a_call_may_move_between_threads() {
        fn expect_send<T: Send>(_: impl FnOnce(&'static App, &'static ActingUser) -> T) {}
        expect_send(|app, user| call(app, user, "usage", Value::Null));
    }
}
