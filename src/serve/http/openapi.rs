//! The OpenAPI document, made from the table of routes.

use hyper::Response;
use serde_json::{Map, Value, json};

use super::Context;
use super::answer::{Body, Trouble, json as answer};
use super::health;
use super::routes::{Call, Route, all};

/// `GET /v1/openapi.json`
pub async fn get(_: Context, _: Call) -> Result<Response<Body>, Trouble> {
    Ok(answer(&document()))
}

/// The document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in all() {
        let path = paths.entry(route.path.to_owned()).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(&route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "softlvs",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The control interface of a running director. Everything on the control socket; \
                            over TCP what is marked x-public.",
        },
        "servers": [{ "url": "http://localhost" }],
        "paths": paths,
        "components": { "schemas": {
            "Health": health::schema(),
            "Errors": {
                "type": "object",
                "required": ["errors"],
                "properties": { "errors": { "type": "array", "items": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": { "type": "string", "description": "what is wrong" },
                        "help": { "type": "string", "description": "what to do about it" },
                        "key": { "type": "string", "description": "key of the configuration" },
                        "line": { "type": "integer" },
                        "column": { "type": "integer" },
                    },
                } } },
            },
        } },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(|(name, about)| {
        json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } })
    }));
    let trouble = json!({
        "description": "refused, with the reason and what to do",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Errors" } } },
    });
    let mut operation = json!({
        "summary": route.about,
        "operationId": operation_id(route),
        "parameters": parameters,
        "responses": { "2XX": done(route), "4XX": trouble },
        "x-public": route.public,
    });
    if route.takes_body {
        operation["requestBody"] = json!({
            "content": { "application/json": { "schema": { "type": "object" } } },
        });
    }
    operation
}

/// The answer when all is well, with its schema where there is one.
fn done(route: &Route) -> Value {
    if route.path != "/v1/health" {
        return json!({ "description": "done" });
    }
    let schema = json!({ "$ref": "#/components/schemas/Health" });
    json!({ "description": route.about, "content": { "application/json": { "schema": schema } } })
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split('/').filter(|s| !s.is_empty() && *s != "v1");
    let path: Vec<String> = words.map(|w| w.replace(['{', '}', '.'], "")).collect();
    format!("{}_{}", route.method.as_str().to_lowercase(), path.join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once_under_its_own_name() {
        let document = document();
        let mut ids = std::collections::HashSet::new();
        for route in all() {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert_eq!(operation["summary"], route.about);
            assert!(ids.insert(operation["operationId"].to_string()), "{}", route.path);
            for name in route.path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')) {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"));
            }
        }
        let described: usize =
            document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(described, all().len());
    }
}
