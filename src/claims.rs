//! Keeps what a provider says of a user, in as little memory as it takes: a process may hold a hundred thousand of these.
//!
//! The same values as JSON's, immutable, each exactly as large as it is. Fields are in the order of their names, so that
//! one is found without a table of hashes, and no name is there twice: the last of several counts, as `serde_json` has it.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Number, Value};

/// The fields of a JSON object.
#[derive(Clone, Default, PartialEq)]
pub struct Claims(Box<[(Box<str>, Claim)]>);

/// A JSON value.
#[derive(Clone, PartialEq)]
pub enum Claim {
    /// `null`, which stands for an absent claim.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, in the notation it came in.
    Number(Number),
    /// A text.
    Text(Box<str>),
    /// An array.
    List(Box<[Claim]>),
    /// An object.
    Object(Claims),
}

impl Claims {
    /// The field of this name.
    pub fn get(&self, name: &str) -> Option<&Claim> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name));
        at.ok().map(|at| &self.0[at].1)
    }

    /// The same as `serde_json` has it, for what is read once in a while.
    pub fn to_map(&self) -> Map<String, Value> {
        let fields = self.0.iter();
        fields
            .map(|(name, value)| (name.to_string(), value.to_value()))
            .collect()
    }

    /// About how many bytes of memory it takes, beside its own few.
    pub fn footprint(&self) -> usize {
        let fields = self.0.iter();
        fields
            .map(|(name, value)| {
                ALLOCATION + size_of::<(Box<str>, Claim)>() + name.len() + value.heap()
            })
            .sum()
    }

    fn from_fields(mut fields: Vec<(Box<str>, Claim)>) -> Self {
        // The later of two goes before the earlier, and is the one that stays.
        fields.reverse();
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Self(fields.into_boxed_slice())
    }
}

impl Claim {
    /// Whether it says nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The fields, of an object.
    pub fn as_object(&self) -> Option<&Claims> {
        match self {
            Self::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The number, of one that is whole and fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    /// The same as `serde_json` has it.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.to_string()),
            Self::List(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(fields) => Value::Object(fields.to_map()),
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::Text(text) => ALLOCATION + text.len(),
            Self::List(items) => items
                .iter()
                .map(|item| size_of::<Self>() + item.heap())
                .sum(),
            Self::Object(fields) => fields.footprint(),
        }
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(fields: Map<String, Value>) -> Self {
        let fields = fields.into_iter();
        Self::from_fields(
            fields
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl From<Value> for Claim {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(flag),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text.into()),
            Value::Array(items) => Self::List(items.into_iter().map(Into::into).collect()),
            Value::Object(fields) => Self::Object(fields.into()),
        }
    }
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Claim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Object(fields) => fields.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Claim::deserialize(deserializer)? {
            Claim::Object(fields) => Ok(fields),
            _ => Err(de::Error::custom("an object is expected")),
        }
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

/// Reads a value without a detour over `serde_json`'s.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Claim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Claim, E> {
        Ok(Claim::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
        Ok(Claim::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
        Ok(Claim::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Claim, E> {
        // JSON knows no other numbers.
        Ok(Number::from_f64(number).map_or(Claim::Null, Claim::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Claim, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Claim::List(items.into_boxed_slice()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Claim::Object(Claims::from_fields(fields)))
    }
}

// What is said of people does not belong in logs.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claims({})", self.0.len())
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Bool(_) => "Bool(..)",
            Self::Number(_) => "Number(..)",
            Self::Text(_) => "Text(..)",
            Self::List(_) => "List(..)",
            Self::Object(_) => "Object(..)",
        })
    }
}

/// What an allocator adds to a small piece of memory, on average.
const ALLOCATION: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn fields_are_found_by_name_and_the_last_of_several_counts() {
        let read: Claims =
            serde_json::from_str(r#"{"b":1,"a":"x","b":2,"":null,"o":{"z":1,"z":[2]}}"#).unwrap();
        assert_eq!(read.get("b").and_then(Claim::as_i64), Some(2));
        assert!(read.get("a") == Some(&Claim::Text("x".into())));
        assert!(read.get("").is_some_and(Claim::is_null));
        let inner = read.get("o").and_then(Claim::as_object).unwrap();
        assert_eq!(inner.get("z").map(Claim::to_value), Some(json!([2])));
        assert!(read.get("c").is_none() && inner.get("b").is_none());
        assert!(read.get("a").unwrap().as_object().is_none());
    }

    #[test]
    fn only_objects_are_claims() {
        for text in ["null", "[]", "1", r#""a""#, "{", r#"{"a":}"#] {
            assert!(serde_json::from_str::<Claims>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_of_a_person_is_shown() {
        let jane = claims(&json!({"name": "Jane", "groups": ["ops"]}));
        assert_eq!(format!("{jane:?}"), "Claims(2)");
        assert_eq!(format!("{:?}", jane.get("name")), "Some(Text(..))");
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Claims>(), 16);
        assert_eq!(size_of::<Claim>(), 24);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_it_was(fields in proptest::collection::btree_map(".{0,4}", value(), 0..5)) {
            let map: Map<String, Value> = fields.into_iter().collect();
            let compact = Claims::from(map.clone());
            prop_assert!(compact.to_map() == map);
            prop_assert!(claims(&Value::Object(map.clone())) == compact);
            // As the sealed record has it.
            let text = serde_json::to_string(&compact).unwrap();
            let again: Claims = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
            for (name, value) in &map {
                prop_assert!(compact.get(name).is_some_and(|claim| claim.to_value() == *value));
            }
        }
    }
}
