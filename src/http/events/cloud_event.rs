//! A fact as clients see it.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};
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
    "cursor": "cDI6MC4xMw", "sequence": "00000000000000000001", "slice": 119, "userid": "0192d4e0-7f3a-7c3b-8f4e-0123456789ab", "userseq": 10,
    "caller": "user", "requestid": "0192d4e5-504f-73dc-9c27-27d54ab4189c",
})))]
pub struct CloudEvent {
    /// The program that acted for the user by MCP, as it names itself; a keyed hash of a name that genie does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub agent: Option<String>,
    /// The kind of caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = words::CallerWord, required = false)]
    pub caller: Option<&'static str>,
    /// The id of the user or service key that asked; of an impersonation, the administrator's id. Otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub callerid: Option<String>,
    /// The id of the user's own key with which a program acted for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub callerkey: Option<String>,
    /// The cursor after this event.
    pub cursor: String,
    /// Present, and true, when the row cannot be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub damaged: Option<True>,
    /// The fields that are not personal, by a written list for each type. Times, whose names end in `_at`, are RFC 3339. Null when the row is damaged, and when the user was forgotten, except in `account.forgotten`.
    #[schema(required, value_type = Option<HashMap<String, Value>>)]
    pub data: Option<Map<String, Value>>,
    pub datacontenttype: ApplicationJson,
    /// Present, and true, when the user was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub forgotten: Option<True>,
    pub id: Uuid,
    /// The user for whom an administrator acted. Present for an impersonation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid, nullable = false)]
    pub onbehalfof: Option<String>,
    /// The id of the HTTP request, as its answer's `X-Request-Id` or `Genie-Request-Id` told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub requestid: Option<String>,
    /// Its number in its stream, from 1, in 20 digits: the extension `sequence` of CloudEvents is text that sorts.
    pub sequence: StreamNumber,
    #[schema(value_type = u64, maximum = 1023)]
    pub slice: u16,
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

/// A number in a stream, as text that sorts as the numbers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{20}$")]
pub struct StreamNumber(pub u64);

impl Serialize for StreamNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:020}", self.0))
    }
}

/// A page of facts, in the order in which they happened.
#[derive(Serialize, ToSchema)]
pub struct FeedPage {
    // As JSON: parsed, the fields may take sixteen times the room.
    #[schema(value_type = Vec<CloudEvent>)]
    pub data: Vec<Box<RawValue>>,
    /// Whether there is anything behind the cursor.
    pub has_more: bool,
    /// The beginning of the next page.
    pub next_cursor: String,
}

#[cfg(test)]
mod tests {
    use genie_events::Timestamp;

    use super::*;

    fn bare() -> CloudEvent {
        CloudEvent {
            agent: None,
            caller: None,
            callerid: None,
            callerkey: None,
            cursor: "c".into(),
            damaged: None,
            data: None,
            datacontenttype: ApplicationJson,
            forgotten: None,
            id: Uuid::nil(),
            onbehalfof: None,
            requestid: None,
            sequence: StreamNumber(1),
            slice: 119,
            source: Genie,
            specversion: CloudEvents1,
            subject: "job/42".into(),
            time: Timestamp(0).into(),
            r#type: "job.submitted".into(),
            userid: None,
            userseq: None,
        }
    }

    #[test]
    fn a_fact_has_these_bytes() {
        let begin = r#""datacontenttype":"application/json""#;
        let id = r#""id":"00000000-0000-0000-0000-000000000000""#;
        let end = concat!(
            r#""sequence":"00000000000000000001","slice":119,"source":"/genie","specversion":"1.0","subject":"job/42","#,
            r#""time":"1970-01-01T00:00:00.000Z","type":"job.submitted""#
        );
        let damaged = CloudEvent {
            damaged: Some(True),
            ..bare()
        };
        assert_eq!(
            serde_json::to_string(&damaged).unwrap(),
            format!(r#"{{"cursor":"c","damaged":true,"data":null,{begin},{id},{end}}}"#)
        );
        let whole = CloudEvent {
            agent: Some("claude-code".into()),
            caller: Some("impersonator"),
            callerid: Some("a".into()),
            callerkey: Some("k".into()),
            data: Some(Map::new()),
            forgotten: Some(True),
            onbehalfof: Some("b".into()),
            requestid: Some("r".into()),
            userid: Some("b".into()),
            userseq: Some(10),
            ..bare()
        };
        assert_eq!(
            serde_json::to_string(&whole).unwrap(),
            format!(
                r#"{{"agent":"claude-code","caller":"impersonator","callerid":"a","callerkey":"k","cursor":"c","data":{{}},{begin},"forgotten":true,{id},"onbehalfof":"b","requestid":"r",{end},"userid":"b","userseq":10}}"#
            )
        );
    }
}
