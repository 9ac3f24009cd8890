//! The OpenAPI document of all routes. It is kept by hand, beside the handlers that it tells of.

use actix_web::HttpResponse;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /api/openapi.json`
pub async fn document() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use genie_events::{
        Event,
        job_operation::{QUEUES, queue_of},
        tier::Counter,
    };
    use serde_json::Value;

    use super::*;
    use crate::http::routes;

    const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Path, method, and the operation with what its path says of all its operations.
    fn operations(document: &Value) -> Vec<(String, String, &Value, &Value)> {
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if METHODS.contains(&method.as_str()) {
                    operations.push((path.clone(), method.clone(), operation, item));
                }
            }
        }
        operations
    }

    fn routes() -> BTreeSet<(String, String)> {
        let built_in = routes::API.iter().filter(|route| route.is_built_in());
        built_in
            .map(|route| {
                let method = route.method.as_str().to_lowercase();
                (route.path.to_owned(), method)
            })
            .collect()
    }

    fn strings(values: &Value) -> BTreeSet<&str> {
        values
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_str().unwrap())
            .collect()
    }

    #[test]
    fn the_document_has_the_routes_that_there_are() {
        let document = document();
        let told: BTreeSet<_> = operations(&document)
            .into_iter()
            .map(|(path, method, ..)| (path, method))
            .collect();
        let routes = routes();
        let (missing, gone): (Vec<_>, Vec<_>) = (
            routes.difference(&told).collect(),
            told.difference(&routes).collect(),
        );
        assert!(
            missing.is_empty() && gone.is_empty(),
            "not in openapi.json: {missing:?}; no longer in routes.rs: {gone:?}"
        );
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_operation_says_what_it_is_who_may_call_it_and_what_it_answers() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, method, operation, item) in operations(&document) {
            let of = format!("{method} {path}");
            let id = operation["operationId"]
                .as_str()
                .unwrap_or_else(|| panic!("{of} has no operationId"));
            assert!(ids.insert(id), "{of}: the operationId {id} is taken");
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|summary| !summary.is_empty()),
                "{of} has no summary"
            );
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|answers| !answers.is_empty()),
                "{of} answers nothing"
            );
            assert!(
                operation["security"].is_array(),
                "{of} does not say who may call it; nobody in particular is []"
            );
            for scheme in operation["security"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|way| way.as_object().unwrap().keys())
            {
                assert!(
                    document["components"]["securitySchemes"]
                        .get(scheme)
                        .is_some(),
                    "{of}: what is {scheme}?"
                );
            }
            let of_path = item["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path");
            let named: BTreeSet<&str> = of_path
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let wanted: BTreeSet<&str> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            assert_eq!(
                named, wanted,
                "{of}: left: the path's parameters that are told of; right: those there are"
            );
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
        let (document, mut references) = (document(), BTreeSet::new());
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
        for kind in ["schemas", "responses", "parameters", "headers"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(
                    references.contains(&format!("#/components/{kind}/{name}")),
                    "nothing uses {kind}/{name}"
                );
            }
        }
    }

    #[test]
    fn the_words_of_the_document_are_those_of_the_rules() {
        let document = document();
        let schema = |name: &str| &document["components"]["schemas"][name];
        assert_eq!(
            strings(&schema("EventType")["enum"]),
            Event::all_types().into_iter().collect()
        );
        assert_eq!(
            strings(&schema("Queue")["enum"]),
            QUEUES.into_iter().collect()
        );
        for counters in ["Counts", "Limits"] {
            assert_eq!(
                strings(&schema(counters)["required"]),
                Counter::ALL.into_iter().map(Counter::as_str).collect()
            );
        }
        for operation in strings(&schema("Operation")["enum"]) {
            assert!(queue_of(operation).is_some(), "no queue knows {operation}");
        }
    }
}
