//! Makes the JSON Schema of the configuration file, for editors and for `daypass schema`.

use serde_json::{Map, Value, json};

use super::table::{self, Key, Need, Shape, Table};
use super::tree::{self, Kind, Node};

/// The JSON Schema (draft 2020-12) of the configuration file.
///
/// It says which keys there are and what their values look like; what only `check` can know (references, shadowed
/// routes, files) it leaves to `check`.
pub fn schema() -> Value {
    let mut root = of_table(&table::ROOT);
    if let Value::Object(root) = &mut root {
        root.insert(
            "oneOf".into(),
            json!([{"required": ["provider"]}, {"required": ["providers"]}]),
        );
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    });
    if let (Value::Object(schema), Value::Object(root)) = (&mut schema, root) {
        schema.extend(root);
        schema.insert("$defs".into(), json!({
            "duration": {"type": "string", "pattern": "^([0-9]+ ?[a-zA-Z]+ ?)+$", "examples": ["90s", "15m", "12h", "7d"]},
            "secret": {
                "oneOf": [
                    {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": false},
                    {"type": "object", "properties": {"env": {"type": "string"}}, "required": ["env"], "additionalProperties": false},
                    {"type": "string", "minLength": 1}
                ]
            },
            "scalar": {"type": ["string", "number", "boolean"]}
        }));
    }
    schema
}

fn of_table(table: &Table) -> Value {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), of_key(key)))
        .collect();
    let required: Vec<_> = table
        .keys
        .iter()
        .filter(|key| matches!(key.need, Need::Required(_)))
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "title": table.title,
        "description": table.about,
        "properties": properties,
        "additionalProperties": false
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn of_key(key: &Key) -> Value {
    let mut schema = of_shape(&key.shape);
    schema["description"] = key.about.into();
    if let Need::Default(text) = key.need
        && let Ok((node, _)) = tree::parse(text.as_bytes())
    {
        schema["default"] = of_default(&node);
    }
    schema
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Text | Shape::File => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Duration { zero: false } => json!({"$ref": "#/$defs/duration"}),
        Shape::Duration { zero: true } => {
            json!({"anyOf": [{"$ref": "#/$defs/duration"}, {"const": 0}, {"const": "0"}]})
        }
        Shape::Size(min, _) => {
            let pattern = json!({"type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB)$"});
            if *min == 0 {
                json!({"anyOf": [pattern, {"const": 0}]})
            } else {
                pattern
            }
        }
        Shape::Count(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::Secret => json!({"$ref": "#/$defs/secret"}),
        Shape::Scalar => json!({"$ref": "#/$defs/scalar"}),
        Shape::OneOf(choices) => json!({"enum": choices}),
        Shape::List(item) => json!({"type": "array", "items": of_shape(item)}),
        Shape::Map(value) => json!({"type": "object", "additionalProperties": of_shape(value)}),
        Shape::Table(table) => of_table(table),
        Shape::Any(shapes) => json!({"anyOf": shapes.iter().map(of_shape).collect::<Vec<_>>()}),
    }
}

fn of_default(node: &Node) -> Value {
    match &node.kind {
        Kind::Scalar { text, .. } => {
            serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
        }
        Kind::Sequence(nodes) => nodes.iter().map(of_default).collect(),
        Kind::Mapping(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), of_default(&entry.value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}
