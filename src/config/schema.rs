//! The JSON schema of the configuration file, made from the table of keys.

use serde_json::{Map, Value, json};

use super::keys::{FILE, Key, Kind};
use super::sysctl;
use super::values::Form;

/// The schema (JSON Schema draft 2020-12) of the file as a JSON document.
pub fn schema() -> Value {
    let mut root = object(FILE);
    if let Value::Object(map) = &mut root {
        map.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".into(), json!("softlvs configuration"));
    }
    root
}

fn object(keys: &[Key]) -> Value {
    let mut properties = Map::new();
    for key in keys.iter().filter(|k| !matches!(k.kind, Kind::Later(_))) {
        let mut value = of(&key.kind);
        if let Value::Object(map) = &mut value {
            map.insert("description".into(), json!(key.doc));
        }
        properties.insert(key.name.into(), value);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn of(kind: &Kind) -> Value {
    match kind {
        Kind::Text(form) => text(*form),
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Int(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::AutoOr(high) => json!({ "oneOf": [
            { "type": "string", "const": "auto" },
            { "type": "integer", "minimum": 1, "maximum": high },
        ] }),
        Kind::Texts(form) => json!({ "type": "array", "items": text(*form) }),
        Kind::TextOrTexts(form) => {
            json!({ "oneOf": [text(*form), { "type": "array", "items": text(*form) }] })
        }
        Kind::Choices(words) => json!({ "type": "array", "items": { "type": "string", "enum": words } }),
        Kind::Table(keys) => object(keys),
        Kind::Tables(keys) => json!({ "type": "array", "items": object(keys) }),
        Kind::Map(keys, values) => json!({
            "type": "object",
            "propertyNames": text(*keys),
            "additionalProperties": text(*values),
        }),
        Kind::Sysctl => {
            let one = |k: &sysctl::Known| {
                let value = match k.range {
                    sysctl::Range::Int(low, high) => {
                        json!({ "type": "integer", "minimum": low, "maximum": high })
                    }
                    sysctl::Range::PowerOfTwo(high) => {
                        json!({ "type": "integer", "minimum": 1, "maximum": high })
                    }
                    sysctl::Range::Pair => json!({ "type": "string", "pattern": "^[0-9]+\\s+[0-9]+$" }),
                    sysctl::Range::Text => json!({ "type": "string" }),
                };
                (k.name.to_owned(), value)
            };
            let properties: Map<String, Value> = sysctl::ALL.iter().map(one).collect();
            json!({ "type": "object", "additionalProperties": false, "properties": properties })
        }
        Kind::Later(_) => json!({}),
    }
}

fn text(form: Form) -> Value {
    match form.pattern() {
        Some(pattern) => json!({ "type": "string", "pattern": pattern }),
        None => json!({ "type": "string" }),
    }
}
