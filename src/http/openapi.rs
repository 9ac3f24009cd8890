//! The published OpenAPI document. It is generated from the table of routes, the types of handlers, bodies and
//! answers, and the prose in `openapi/`. A test compares the file with the code, and `scripts/openapi write` writes
//! it anew.

use actix_web::HttpResponse;

use crate::http::response::RawAnswer;

#[cfg(test)]
mod answers;
#[cfg(test)]
mod components;
#[cfg(test)]
pub mod describe;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod prose;

const DOCUMENT: &str = include_str!("openapi.json");

/// An OpenAPI document.
pub enum Document {}

/// `GET /api/openapi.json`
pub async fn document() -> RawAnswer<Document> {
    let response = HttpResponse::Ok()
        .content_type("application/json")
        .body(DOCUMENT);
    RawAnswer::new(response)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::{access::RouteAccess, routes};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn the_document_says_what_the_code_does() {
        let mut generated = serde_json::to_string_pretty(&generate::document()).unwrap();
        generated.push('\n');
        if std::env::var_os("GENIE_WRITE_OPENAPI").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.json");
            return std::fs::write(file, generated).unwrap();
        }
        let differs = generated
            .lines()
            .zip(DOCUMENT.lines())
            .position(|(generated, kept)| generated != kept);
        assert!(
            generated == DOCUMENT,
            "src/http/openapi.json is not what the code says, from line {:?} on; write it by `scripts/openapi write`",
            differs.map(|line| line + 1)
        );
    }

    #[test]
    fn the_table_says_who_may_call_as_the_handlers_do() {
        for route in routes::API {
            let of = format!("{} {}", route.method, route.path);
            let asked_for = route.told_by_types().access;
            let is_asked_in_the_handler = route.access == RouteAccess::PublicByDefault;
            let expected = asked_for.unwrap_or(RouteAccess::Public);
            assert!(
                is_asked_in_the_handler || route.access == expected,
                "{of}: {asked_for:?}"
            );
        }
    }

    #[test]
    fn operation_ids_are_unique_and_every_operation_answers() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{method} {path}: {id} is taken");
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.keys().any(|status| status.starts_with('2')), "{id}");
                for (status, answer) in answers {
                    let is_shared = answer.get("$ref").is_some();
                    assert!(
                        is_shared || answer["description"].is_string(),
                        "{id} {status}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_used() {
        fn collect(value: &Value, references: &mut BTreeSet<String>) {
            match value {
                Value::Object(map) => {
                    references.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| collect(value, references));
                }
                Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
                _ => {}
            }
        }
        let document = document();
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        for reference in &references {
            let pointer = reference
                .strip_prefix('#')
                .unwrap_or_else(|| panic!("{reference} leads out of the document"));
            assert!(
                document.pointer(pointer).is_some(),
                "{reference} leads nowhere"
            );
        }
        for kind in ["schemas", "responses", "headers"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(
                    references.contains(&format!("#/components/{kind}/{name}")),
                    "nothing uses {kind}/{name}"
                );
            }
        }
    }
}
