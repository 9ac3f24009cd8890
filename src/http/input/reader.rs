//! Reads types from a tree, by serde.

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    InputError, InputTree,
    error::{PathStep, one_of},
    secret,
    tree::InputText,
};

#[derive(Clone, Copy)]
pub(super) struct InputReader<'t, 'b>(&'t InputTree<'b>);

impl<'t, 'b> InputReader<'t, 'b> {
    pub fn of(tree: &'t InputTree<'b>) -> Self {
        Self(tree)
    }

    fn whole(self, least: i128, most: i128) -> Result<i128, InputError> {
        match self.0.whole() {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            Some(_) => Err(InputError::must_be(format!(
                "a whole number from {least} to {most}"
            ))),
            None => Err(InputError::must_be("a whole number")),
        }
    }

    fn number(self) -> Result<f64, InputError> {
        let number = match self.0 {
            InputTree::Whole(number) => Some(*number as f64),
            InputTree::Fraction(number) => Some(*number),
            InputTree::Word(word) => word.as_str().parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        };
        number.ok_or_else(|| InputError::must_be("a number"))
    }

    fn text(self) -> Result<&'t str, InputError> {
        match self.0 {
            InputTree::Text(text) | InputTree::Word(text) => Ok(text.as_str()),
            _ => Err(InputError::must_be("a string")),
        }
    }

    fn list(self) -> Result<ListItems<'t, 'b>, InputError> {
        match self.0 {
            InputTree::List(items) => Ok(ListItems {
                left: items.iter().enumerate(),
            }),
            _ => Err(InputError::must_be("a list")),
        }
    }

    fn object(self) -> Result<ObjectFields<'t, 'b>, InputError> {
        match self.0 {
            InputTree::Object(fields) => Ok(ObjectFields {
                left: fields.iter(),
                skips_absent: false,
                value: None,
            }),
            _ => Err(InputError::must_be("an object")),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
            let number = self.whole(<$type>::MIN.into(), <$type>::MAX.into())?;
            visitor.$visit(number as $type)
        }
    )*};
}

impl<'de> Deserializer<'de> for InputReader<'_, '_> {
    type Error = InputError;

    whole_numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    /// A value of any kind, as it was sent.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        match self.0 {
            InputTree::Null => visitor.visit_unit(),
            InputTree::Flag(flag) => visitor.visit_bool(*flag),
            InputTree::Whole(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => visitor.visit_i128(*number),
            },
            InputTree::Fraction(number) => visitor.visit_f64(*number),
            InputTree::Text(text) | InputTree::Word(text) => visitor.visit_str(text.as_str()),
            InputTree::List(_) => visitor.visit_seq(self.list()?),
            InputTree::Object(_) => visitor.visit_map(self.object()?),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        let flag = match self.0 {
            InputTree::Flag(flag) => Some(*flag),
            InputTree::Word(word) => word.as_str().parse().ok(),
            _ => None,
        };
        visitor.visit_bool(flag.ok_or_else(|| InputError::must_be("true or false"))?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_f64(self.number()?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_f64(self.number()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        if self.0.is_absent() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, InputError> {
        if secret::NAMES.contains(&name) && self.0.is_broken() {
            return Err(InputError::must_be(
                "whole: half of a character in it was cut off, as in \\ud83d without its other half",
            ));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_seq(self.list()?)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, InputError> {
        visitor.visit_seq(self.list()?)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_map(self.object()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, InputError> {
        visitor.visit_map(ObjectFields {
            skips_absent: true,
            ..self.object()?
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, InputError> {
        match self.text() {
            Ok(text) => visitor.visit_enum(text.into_deserializer()),
            Err(_) => Err(InputError::must_be(one_of(known))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InputError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple_struct }
}

/// The items of a list.
struct ListItems<'t, 'b> {
    left: std::iter::Enumerate<std::slice::Iter<'t, InputTree<'b>>>,
}

impl<'de> SeqAccess<'de> for ListItems<'_, '_> {
    type Error = InputError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, InputError> {
        let Some((n, item)) = self.left.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(InputReader(item));
        read.map(Some)
            .map_err(|error| error.inside(PathStep::Item(n)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

/// The fields of an object.
struct ObjectFields<'t, 'b> {
    left: std::slice::Iter<'t, (InputText<'b>, InputTree<'b>)>,
    /// Known fields that are null count as absent; of an object with fields of the client's own they are kept.
    skips_absent: bool,
    /// The field whose name was read.
    value: Option<&'t (InputText<'b>, InputTree<'b>)>,
}

impl<'de> MapAccess<'de> for ObjectFields<'_, '_> {
    type Error = InputError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, InputError> {
        let skips_absent = self.skips_absent;
        self.value = self
            .left
            .find(|(_, value)| !(skips_absent && value.is_absent()));
        let Some((name, _)) = self.value else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, InputError> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, InputError> {
        let Some((name, value)) = self.value.take() else {
            return Err(serde::de::Error::custom("a value before its name"));
        };
        seed.deserialize(InputReader(value))
            .map_err(|error| error.inside(PathStep::Field(name.as_str().to_owned())))
    }
}
