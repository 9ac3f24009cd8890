use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct WantedInput {
    count: u32,
    signed: i64,
    ratio: Option<f64>,
    flag: Option<bool>,
    text: String,
    list: Vec<String>,
    inner: Option<Box<WantedInput>>,
    params: Map<String, Value>,
    any: Value,
    color: Option<InputColor>,
    id: Option<uuid::Uuid>,
    #[serde(deserialize_with = "whole")]
    whole_text: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InputColor {
    Red,
    DarkBlue,
}

fn read_json(body: &str) -> Result<WantedInput, String> {
    read_bytes(body.as_bytes())
}

fn read_bytes(body: &[u8]) -> Result<WantedInput, String> {
    let mut bytes = body.to_vec();
    let read = json(&mut bytes).and_then(|tree| read(&tree));
    read.map_err(|error| error.sentence("The body"))
}

#[test]
fn numbers_and_nothing_are_taken_in_every_spelling() {
    let count = |count| WantedInput {
        count,
        ..WantedInput::default()
    };
    for (body, expected) in [
        (r#"{"count": 10}"#, count(10)),
        (r#"{"count": 10.0}"#, count(10)),
        (r#"{"count": 1e1}"#, count(10)),
        (r#"{"count": -0.0}"#, count(0)),
        (r#"{"count": 4294967295}"#, count(u32::MAX)),
        // Null is absent, and what nobody asked for is ignored.
        (
            r#"{"count": null, "list": null, "text": null, "params": null, "flag": null}"#,
            count(0),
        ),
        (r#"{"other": {"count": "x"}, "count": 7}"#, count(7)),
        ("\u{feff} {\"count\": 7}\n", count(7)),
    ] {
        assert_eq!(read_json(body), Ok(expected), "{body}");
    }
    assert_eq!(read_json(r#"{"ratio": 3}"#).unwrap().ratio, Some(3.0));
    let color = read_json(r#"{"color": "dark_blue"}"#).unwrap().color;
    assert_eq!(color, Some(InputColor::DarkBlue));
}

#[test]
fn what_a_client_may_fill_as_it_likes_is_kept_as_it_was_sent() {
    let params =
        json!({"a": null, "b": [10.5, -1, 18_446_744_073_709_551_615_u64, true], "c": {"d": null}});
    let body = json!({"params": params, "any": [null, {"x": "ü"}]}).to_string();
    let read = read_json(&body).unwrap();
    assert_eq!(Value::Object(read.params), params);
    assert_eq!(read.any, json!([null, {"x": "ü"}]));
}

#[test]
fn a_refusal_names_the_field_and_never_the_value() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let numbers = "must be a whole number";
    for (body, expected) in [
        (r#"{"count": "canary"}"#.to_owned(), format!("`count` {numbers}")),
        (r#"{"count": 10.5}"#.into(), format!("`count` {numbers}")),
        (r#"{"count": -1}"#.into(), format!("`count` {numbers} from 0 to 4294967295")),
        (r#"{"signed": 1e300}"#.into(), format!("`signed` {numbers}")),
        (r#"{"signed": 9223372036854775808}"#.into(), format!("`signed` {numbers} from {} to {}", i64::MIN, i64::MAX)),
        (r#"{"inner": {"inner": {"list": ["a", {"canary": 1}]}}}"#.into(), "`inner.inner.list[1]` must be a string".into()),
        (r#"{"list": "canary"}"#.into(), "`list` must be a list".into()),
        (r#"{"inner": "canary"}"#.into(), "`inner` must be an object".into()),
        (r#"{"params": []}"#.into(), "`params` must be an object".into()),
        (r#"{"flag": 1}"#.into(), "`flag` must be true or false".into()),
        (r#"{"ratio": "canary"}"#.into(), "`ratio` must be a number".into()),
        (r#"{"text": 7}"#.into(), "`text` must be a string".into()),
        (r#"{"color": "canary"}"#.into(), "`color` must be one of: red, dark_blue".into()),
        (r#"{"color": 7}"#.into(), "`color` must be one of: red, dark_blue".into()),
        (r#"{"id": "canary"}"#.into(), "`id` must be a UUID".into()),
        (r#"{"any": {"a": {"b": 1, "c": 2, "b": 3}}}"#.into(), "`any.a.b` is there twice; send it once".into()),
        (r#"{"count": 1, "count": 1}"#.into(), "`count` is there twice; send it once".into()),
        (
            format!(r#"{{"any": {}}}"#, deep(100)),
            "`any[0][0][0][0][0][0][0]...` is nested too deep; at most 100 levels of lists and objects are read".into(),
        ),
        ("[]".into(), "The body must be an object".into()),
        ("7".into(), "The body must be an object".into()),
        ("null".into(), "The body must be an object".into()),
        ("canary".into(), "The body is not valid JSON, at line 1 column 1".into()),
        (r#"{"text": "a"} canary"#.into(), "The body is not valid JSON, at line 1 column 15".into()),
        ("{\"a\":\n1e999}".into(), "The body has a number that is too large, at line 2 column 5".into()),
        (String::new(), "The body is empty; it must be JSON".into()),
        (" \r\n".into(), "The body is empty; it must be JSON".into()),
    ] {
        assert_eq!(read_json(&body).unwrap_err(), expected, "{body}");
    }
    assert!(read_json(&format!(r#"{{"any": {}}}"#, deep(99))).is_ok());
    assert_eq!(
        read_bytes(b"{\"text\": \"\xff\"}").unwrap_err(),
        "The body is not UTF-8, at byte 11"
    );
}

#[test]
fn half_characters_are_replaced_but_in_secrets() {
    for (sent, read) in [
        (r"a\ud83d", "a\u{fffd}"),
        (r"\ud83d\ude00", "😀"),
        (r"\uD83D\uDE00\ude00", "😀\u{fffd}"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\u{fffd}"),
        (r"\ud83dx", "\u{fffd}x"),
        ("\u{ffff}", "\u{ffff}"),
    ] {
        let body = format!(r#"{{"text": "{sent}"}}"#);
        assert_eq!(read_json(&body).unwrap().text, read, "{sent}");
        let secret = read_json(&format!(r#"{{"whole_text": "{sent}"}}"#));
        if read.contains('\u{fffd}') {
            assert_eq!(
                secret.unwrap_err(),
                "`whole_text` must be whole: half of a character in it was cut off, as in \\ud83d without its other half"
            );
        } else {
            assert_eq!(secret.unwrap().whole_text, read);
        }
    }
}

#[test]
fn inputs_mean_the_same_when_no_reader_can_tell_them_apart() {
    let meaning = |body: &str| json(&mut body.as_bytes().to_vec()).unwrap().meaning();
    let plain = meaning(r#"{"a": 10, "b": ["ü", {"c": 1.5}]}"#);
    for same in [
        r#"{"b":["\u00fc",{"c":15e-1}],"a":10.0}"#,
        r#" { "a" : 1e1, "b" : [ "ü", { "d": null, "c" : 1.50 } ], "x": null } "#,
    ] {
        assert_eq!(meaning(same), plain, "{same}");
    }
    for other in [
        r#"{"a": 11, "b": ["ü", {"c": 1.5}]}"#,
        r#"{"a": "10", "b": ["ü", {"c": 1.5}]}"#,
        r#"{"a": 10, "b": ["u\u0308", {"c": 1.5}]}"#,
        r#"{"a": 10, "b": [{"c": 1.5}, "ü"]}"#,
        r#"{"a": 10, "b": ["ü", {"c": 1.5}, null]}"#,
        r#"{"a": 10, "b": "ü", "c": 1.5}"#,
        r#"{"a": 10, "b": ["ü", {"c": true}]}"#,
    ] {
        assert_ne!(meaning(other), plain, "{other}");
    }
}

proptest::proptest! {
    /// Whatever comes: no panic, and what is JSON to others is read as they read it.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn any_text_of_json_signs_is_read_as_serde_reads_it(text in r#"[\[\]{}",:\\0-9a-fntrul.eE+\- ]{0,60}"#) {
        let ours = json(&mut text.clone().into_bytes()).and_then(|tree| read::<Value>(&tree));
        match (ours, serde_json::from_str::<Value>(&text)) {
            (Ok(ours), Ok(theirs)) => proptest::prop_assert_eq!(ours, theirs),
            // Only what is checked beyond serde_json, and half characters, make a difference.
            (Ok(_), Err(_)) => proptest::prop_assert!(text.contains("\\u")),
            (Err(ours), Ok(_)) => proptest::prop_assert!(ours.to_string().contains("twice")),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn any_json_comes_back_the_same(value in any_json()) {
        let ours: Value = read(&json(&mut value.to_string().into_bytes()).unwrap()).unwrap();
        proptest::prop_assert_eq!(ours, value);
    }

    #[test]
    fn any_query_is_read_or_refused(query in ".{0,80}") {
        let tree = super::query::tree(&query);
        let _ = tree.and_then(|tree| read::<WantedInput>(&tree));
    }
}

fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;

    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn queries_are_read_by_the_same_rules() {
    let read_query = |query: &str| {
        let tree = super::query::tree(query).and_then(|tree| read::<WantedInput>(&tree));
        tree.map_err(|error| match error.of_query() {
            ApiError::Invalid { sentence, .. } => sentence,
            other => other.to_string(),
        })
    };
    let read = read_query("count=7&flag=true&text=a%20b+c&ratio=&signed=-3&list&other=1").unwrap();
    assert_eq!(
        (read.count, read.flag, read.ratio, read.signed),
        (7, Some(true), None, -3)
    );
    assert_eq!(read.text, "a b c");
    for number in ["7.0", "+7", "%2B7.000", "%207%20", "007"] {
        let query = format!("count={number}&text=a");
        assert_eq!(read_query(&query).unwrap().count, 7, "{number}");
    }
    for (query, expected) in [
        ("count=canary", "`count` must be a whole number"),
        ("count=1.5", "`count` must be a whole number"),
        ("count=7.", "`count` must be a whole number"),
        ("count=.0", "`count` must be a whole number"),
        ("count=7.0.0", "`count` must be a whole number"),
        ("flag=canary", "`flag` must be true or false"),
        ("count=1&count=2", "`count` is there twice; send it once"),
        ("list=canary", "`list` must be a list"),
    ] {
        assert_eq!(read_query(query).unwrap_err(), expected, "{query}");
    }
}
