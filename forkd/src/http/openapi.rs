//! `/openapi.json`: the API's description, made from the code that serves it

use axum::Extension;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as OpenApiDocument;

/// What the description says of the API as a whole; routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "forkd",
        description = "Runs Firecracker microVMs and BRANCHes them: pause, snapshot, resume, fork children.\n\n\
            Requests refuse unknown fields (400) and bodies over 64 KiB (413). Every error is an `ErrorBody`. \
            Durations are nanoseconds (`_ns`); `_ms` fields repeat one of them for people. Times without a \
            unit of the epoch in their name are CLOCK_MONOTONIC of the daemon's host."
    ),
    tags(
        (name = "snapshots", description = "What sandboxes are forked from"),
        (name = "sandboxes", description = "Running microVMs"),
        (name = "branches", description = "BRANCHes that were taken"),
        (name = "events", description = "What happens, as it happens"),
        (name = "daemon", description = "The daemon itself"),
    )
)]
pub(super) struct Description;

/// The description, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Document(Bytes);

impl Document {
    pub fn of(document: &OpenApiDocument) -> Self {
        // Its maps have strings as keys, which is all that can fail here.
        Self(document.to_json().expect("a description of the API is JSON").into())
    }
}

/// The description of the API, in OpenAPI 3.1.
pub fn document() -> OpenApiDocument {
    super::routes().into_openapi()
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object))
)]
pub(super) async fn show(Extension(Document(document)): Extension<Document>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::document;

    const METHODS: [&str; 7] = ["get", "post", "put", "delete", "patch", "head", "options"];

    fn json() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    /// Each operation of the document as `method path`, with its description.
    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        let methods = |(path, item): (&String, &'_ Value)| -> Vec<String> {
            METHODS
                .into_iter()
                .filter(|method| item.get(method).is_some())
                .map(|method| format!("{method} {path}"))
                .collect()
        };
        let keys = paths.iter().flat_map(methods);
        keys.map(|key| {
            let (method, path) = key.split_once(' ').unwrap();
            let operation = &paths[path][method];
            (key, operation)
        })
        .collect()
    }

    /// The router's own routes as `method path`, from its `Debug` form, which is all that axum shows of them:
    /// `routes: {RouteId(1): MethodRouter { get: BoxedHandler, .. } }` and `paths: {RouteId(1): "/x"}`.
    fn served() -> BTreeSet<String> {
        let (router, _) = super::super::routes().split_for_parts();
        let shown = format!("{router:?}");
        let shown = shown.split("fallback_router").next().unwrap();
        let (routes, paths) = shown.split_once("paths: {").unwrap();
        let mut served = BTreeSet::new();
        for piece in paths.split("RouteId(").skip(1) {
            let (id, rest) = piece.split_once("): \"").unwrap();
            let path = rest.split('"').next().unwrap();
            let route = routes.split(&format!("RouteId({id}): ")).nth(1).unwrap();
            let route = route.split("RouteId(").next().unwrap();
            for method in METHODS {
                let field = route.split(&format!(" {method}: ")).nth(1).unwrap();
                if !field.starts_with("None") {
                    served.insert(format!("{method} {path}"));
                }
            }
        }
        served
    }

    #[test]
    fn every_route_is_described_and_every_description_is_served() {
        let document = json();
        let described: BTreeSet<String> =
            operations(&document).into_iter().map(|(operation, _)| operation).collect();
        assert_eq!(described, served());
        assert!(
            described.contains("post /v1/sandboxes/{id}/branch") && described.len() > 15,
            "{described:?}"
        );
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    }

    #[test]
    fn operations_types_and_fields_say_what_they_are() {
        let document = json();
        let mut silent = Vec::new();
        for (name, operation) in operations(&document) {
            if operation["summary"].as_str().is_none_or(str::is_empty) {
                silent.push(name);
            }
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for (name, schema) in schemas {
            if schema["description"].as_str().is_none() {
                silent.push(name.clone());
            }
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let variants = property["oneOf"].as_array().into_iter().flatten();
                if std::iter::once(property).chain(variants).all(|one| one["description"].is_null()) {
                    silent.push(format!("{name}.{field}"));
                }
            }
        }
        assert!(silent.is_empty(), "without a description: {silent:?}");
        for needed in ["Branch", "BranchRecord", "BranchRequest", "CreateSnapshot", "Event", "ErrorBody"] {
            assert!(schemas.contains_key(needed), "{needed}");
        }
    }

    #[test]
    fn every_reference_leads_to_a_type() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|field| references(field, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = json();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
