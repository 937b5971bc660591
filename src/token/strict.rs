//! Reading JSON so that no two readers can understand it differently.
//!
//! Pure: no PostgreSQL call.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The most levels of objects and arrays.
const MAX_DEPTH: usize = 32;

/// Why a text is not read.
pub enum Unread {
    Malformed,
    /// A member name is there twice.
    Duplicate,
}

/// The JSON object that a text is.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, Unread> {
    let is_duplicate = Cell::new(false);
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0, is_duplicate: &is_duplicate }.deserialize(&mut json);
    match value.and_then(|value| json.end().map(|()| value)) {
        Ok(Value::Object(members)) => Ok(members),
        _ if is_duplicate.get() => Err(Unread::Duplicate),
        _ => Err(Unread::Malformed),
    }
}

/// Reads what serde_json's own `Value` would, but refuses a member name twice (of which it would take the last),
/// a NUL in a text (at which C would end it) and more than `MAX_DEPTH` levels.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    is_duplicate: &'a Cell<bool>,
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth {
            MAX_DEPTH.. => Err(E::custom("nested too deep")),
            depth => Ok(Strict { depth: depth + 1, ..self }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        if text.contains('\0') { Err(E::custom("a NUL")) } else { Ok(Value::from(text)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let (inner, mut values) = (self.deeper()?, Vec::new());
        while let Some(value) = from.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let (inner, mut members) = (self.deeper()?, Map::new());
        while let Some(name) = from.next_key::<String>()? {
            inner.visit_str::<A::Error>(&name)?;
            let value = from.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                self.is_duplicate.set(true);
                return Err(A::Error::custom("a member name twice"));
            }
        }
        Ok(Value::Object(members))
    }
}
