//! The answers that handlers write piece by piece.

use genie_events::{JobId, TurnId, chat::TurnMetrics};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Document,
    describe::{Describe, Operation},
};
use crate::http::{
    account_export::ExportDocument,
    agui::{RunEvent, RunEvents},
    chats::{NewTurn, TurnEvents, event::TurnStreamEvent},
    error::FailureBody,
    events::{LiveFeed, cloud_event::CloudEvent},
    files::{
        download::FileBytes,
        receive::{FileBody, FileForm},
        tus::{TusAnswer, TusChunk, TusCreated, TusShown},
    },
    jobs::{JobAnswer, stream::JobEvents},
    mcp::McpReply,
    openai::{CatalogueModel, Completion, CompletionAnswer, CompletionChunk, ModelCatalogue},
    response::RawAnswer,
    sse,
};

impl<T: Describe> Describe for RawAnswer<T> {
    fn describe(operation: &mut Operation) {
        T::describe(operation);
    }
}

impl Describe for ExportDocument {
    fn describe(operation: &mut Operation) {
        let fields = operation.reference::<Self>();
        operation.answers_with_flags(&fields, true);
    }
}

impl Describe for FileBytes {
    fn describe(operation: &mut Operation) {
        operation.content("*/*", bytes());
        let answer = json!({"content": {"*/*": bytes()}});
        operation.answers.insert("206".to_owned(), answer);
        for without_body in ["304", "416"] {
            operation.answers.insert(without_body.to_owned(), json!({}));
        }
    }
}

impl Describe for FileBody {
    fn describe(operation: &mut Operation) {
        let form = json!({"schema": operation.reference::<FileForm>()});
        let content = json!({"multipart/form-data": form, "application/octet-stream": bytes()});
        operation.body = Some(json!({"required": true, "content": content}));
    }
}

impl Describe for TusAnswer {
    fn describe(operation: &mut Operation) {
        operation.answers.insert("204".to_owned(), json!({}));
    }
}

impl Describe for TusShown {
    fn describe(operation: &mut Operation) {
        operation.answers.insert("200".to_owned(), json!({}));
    }
}

impl Describe for TusCreated {
    fn describe(operation: &mut Operation) {
        operation.answers.insert("201".to_owned(), json!({}));
    }
}

impl Describe for TusChunk {
    fn describe(operation: &mut Operation) {
        let content = json!({"application/offset+octet-stream": bytes()});
        operation.body = Some(json!({"required": true, "content": content}));
    }
}

fn bytes() -> Value {
    json!({"schema": {"type": "string", "format": "binary"}})
}

impl Describe for Document {
    fn describe(operation: &mut Operation) {
        operation.content("application/json", json!({"schema": {"type": "object"}}));
    }
}

impl Describe for McpReply {
    fn describe(operation: &mut Operation) {
        let message = json!({"application/json": {"schema": {
            "type": "object",
            "required": ["jsonrpc"],
            "properties": {
                "jsonrpc": {"const": "2.0"},
                "id": {"type": ["string", "integer", "null"]},
                "method": {"type": ["string", "null"]},
                "params": {"type": ["object", "null"]},
            },
        }}});
        operation.body = Some(json!({"required": true, "content": message}));
        let schema = json!({
            "type": "object",
            "required": ["jsonrpc"],
            "properties": {
                "jsonrpc": {"const": "2.0"},
                "id": {"type": ["string", "integer", "null"]},
                "result": {"type": "object"},
                "error": {"type": "object"},
            },
        });
        operation.content("application/json", json!({"schema": schema}));
        operation.answers.insert("202".to_owned(), json!({}));
        // A message that is wrong is told in JSON-RPC, and a request that is none in genie's own shape.
        let failure = operation.reference::<FailureBody>();
        let either = json!({"anyOf": [failure, rpc_error()]});
        for status in ["400", "404", "413", "415"] {
            let answer = json!({"content": {"application/json": {"schema": either}}});
            operation.answers.insert(status.to_owned(), answer);
        }
    }
}

fn rpc_error() -> Value {
    json!({
        "type": "object",
        "required": ["jsonrpc", "id", "error"],
        "properties": {
            "jsonrpc": {"const": "2.0"},
            "id": {"type": ["string", "integer", "null"]},
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "integer"},
                    "message": {"type": "string"},
                    "data": {"type": "object"},
                },
            },
        },
    })
}

impl Describe for NewTurn {
    fn describe(operation: &mut Operation) {
        TurnEvents::describe(operation);
        operation.header("Genie-Position");
    }
}

impl Describe for TurnEvents {
    fn describe(operation: &mut Operation) {
        stream_of::<TurnStreamEvent>(operation, &turn());
        operation.header("Genie-Turn");
    }
}

impl Describe for RunEvents {
    fn describe(operation: &mut Operation) {
        let event = operation.reference::<RunEvent>();
        let content = json!({"schema": {"type": "string"}, "x-event-schema": event});
        operation.content("text/event-stream", content);
        operation.header("Genie-Turn");
        operation.header("Genie-Position");
    }
}

impl Describe for CompletionAnswer {
    fn describe(operation: &mut Operation) {
        let whole = operation.reference::<Completion>();
        let event = operation.reference::<CompletionChunk>();
        operation.content("application/json", json!({"schema": whole}));
        let content = json!({"schema": {"type": "string"}, "x-event-schema": event});
        operation.content("text/event-stream", content);
        operation.header("Genie-Turn");
        operation.header("Genie-Position");
    }
}

impl Describe for ModelCatalogue {
    fn describe(operation: &mut Operation) {
        let schema = operation.reference::<Self>();
        operation.content("application/json", json!({"schema": schema}));
    }
}

impl Describe for CatalogueModel {
    fn describe(operation: &mut Operation) {
        let schema = operation.reference::<Self>();
        operation.content("application/json", json!({"schema": schema}));
    }
}

impl Describe for JobEvents {
    fn describe(operation: &mut Operation) {
        let job: JobId = "0192d4e1-15c2-7d09-9a41-5e6f708192a3".parse().unwrap();
        let data =
            json!({"jobId": job, "id": job, "status": "completed", "ok": true, "success": true});
        let example = [sse::retry(), sse::event("end", &data)].concat();
        stream_of::<JobAnswer>(operation, &example);
    }
}

impl Describe for LiveFeed {
    fn describe(operation: &mut Operation) {
        operation.reference::<CloudEvent>();
        let event: Value = operation.schemas["CloudEvent"]["examples"][0].clone();
        let cursor = event["cursor"].as_str().unwrap();
        let example = [sse::retry(), sse::event(cursor, &event)].concat();
        stream_of::<CloudEvent>(operation, &example);
    }
}

/// OpenAPI 3.1 has no word for the schema of one event of a stream.
fn stream_of<T: ToSchema>(operation: &mut Operation, example: &[u8]) {
    let event = operation.reference::<T>();
    let example = str::from_utf8(example).unwrap();
    let content =
        json!({"schema": {"type": "string"}, "x-event-schema": event, "example": example});
    operation.content("text/event-stream", content);
}

fn turn() -> Vec<u8> {
    let turn: TurnId = "0192d4e1-15c2-7d09-9a41-5e6f708192a3".parse().unwrap();
    let event = |place, event| sse::event(&format!("{turn}:{place}"), &event);
    let model = Some("qwen2.5:latest".to_owned());
    let metrics = TurnMetrics {
        answer_tokens: Some(2),
        ..TurnMetrics::default()
    };
    [
        sse::retry(),
        event(0, TurnStreamEvent::stage("Writing", "focused")),
        event(5, TurnStreamEvent::chunk(turn, "Hello".to_owned())),
        event(5, TurnStreamEvent::stage("Done", "idle")),
        event(6, TurnStreamEvent::text_end(turn)),
        event(
            7,
            TurnStreamEvent::end(turn, false, "completed", model, &metrics),
        ),
    ]
    .concat()
}
