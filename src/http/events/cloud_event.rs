//! A fact as clients see it.

#[cfg(doc)]
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::words::{self, ApplicationJson, CloudEvents1, Genie, Time, True};

/// A fact as a CloudEvent 1.0, with extensions.
// Fields are sorted by name.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({
    "specversion": "1.0", "id": "0192d4e5-50aa-7042-89fb-a3eb12ab3b39", "source": "/genie", "type": "job.submitted",
    "subject": "job/42", "time": "2026-11-23T08:42:06.288Z", "datacontenttype": "application/json",
    "data": {"max_attempts": 3, "operation": "resize_image", "priority": 10, "queue": "media-jobs"},
    "cursor": "cDE6MTM", "sequence": 1, "slice": 119, "userid": "0192d4e0-7f3a-7c3b-8f4e-0123456789ab", "userseq": 10,
    "caller": "user", "requestid": "0192d4e5-504f-73dc-9c27-27d54ab4189c",
})))]
pub struct CloudEvent {
    /// The kind of caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = words::CallerWord, required = false)]
    pub caller: Option<&'static str>,
    /// The id of the user or service key that asked; of an impersonation, the administrator's id. Otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub callerid: Option<String>,
    /// The cursor after this event.
    pub cursor: String,
    /// Present, and true, when the row cannot be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = True, required = false)]
    pub damaged: Option<True>,
    /// The fields that are not personal, by a written list for each type. Times, whose names end in `_at`, are RFC 3339. Null when the row is damaged, and when the user was forgotten, except in `account.forgotten`.
    #[schema(required, value_type = Option<BTreeMap<String, Value>>)]
    pub data: Option<Map<String, Value>>,
    pub datacontenttype: ApplicationJson,
    /// Present, and true, when the user was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = True, required = false)]
    pub forgotten: Option<True>,
    pub id: Uuid,
    /// The user for whom an administrator acted. Present for an impersonation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid, nullable = false)]
    pub onbehalfof: Option<String>,
    /// The id of the HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub requestid: Option<Option<String>>,
    /// Its number in its stream, from 1.
    #[schema(minimum = 1)]
    pub sequence: u64,
    #[schema(maximum = 1023)]
    pub slice: u64,
    pub source: Genie,
    pub specversion: CloudEvents1,
    /// The stream: its kind and its id.
    pub subject: String,
    pub time: Time,
    #[schema(value_type = words::EventType)]
    pub r#type: String,
    /// The owner. Absent on events of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid, nullable = false)]
    pub userid: Option<String>,
    /// Its number among the user's events, from 1. Absent on events of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    pub userseq: Option<u64>,
}

/// A page of facts, in the order in which they happened.
#[derive(Serialize, ToSchema)]
pub struct FeedPage {
    pub data: Vec<CloudEvent>,
    /// The beginning of the next page.
    pub next_cursor: String,
}
