//! Text in whatever encoding the database has. pgrx's own strings are UTF-8: in a database of another encoding, it answers an
//! argument, a row or an error that has a character outside ASCII with an internal error.

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int};

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::DatumWithOid;
use pgrx::fcinfo::direct_function_call_as_datum;
use pgrx::nullable::Nullable;
use pgrx::{FromDatum, IntoDatum, pg_sys};

/// A value of type `text`: its bytes, as the server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<u8>);

/// A value of type `jsonb`: the text that PostgreSQL writes for it.
#[derive(Clone)]
pub struct Json(Text);

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;

fn is_utf8() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetDatabaseEncoding() == UTF8 }
}

/// A copy of `bytes` in another encoding; what has no place there is a question mark.
fn converted(bytes: &[u8], from: c_int, to: c_int) -> Vec<u8> {
    // SAFETY: called inside a transaction. PostgreSQL is given the room that it asks for, which it ends with a NUL; with `noError`
    // it says how much of the source it could convert.
    unsafe {
        let procedure = pg_sys::FindDefaultConversionProc(from, to);
        if procedure == pg_sys::InvalidOid {
            // SQL_ASCII says nothing of what its bytes mean.
            return bytes.to_vec();
        }
        let (mut rest, mut out) = (bytes, Vec::with_capacity(bytes.len()));
        let mut room = vec![0u8; bytes.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
        while !rest.is_empty() {
            let done = pg_sys::pg_do_encoding_conversion_buf(
                procedure,
                from,
                to,
                rest.as_ptr().cast_mut(),
                rest.len() as c_int,
                room.as_mut_ptr(),
                room.len() as c_int,
                true,
            );
            out.extend(room.iter().take_while(|byte| **byte != 0));
            rest = rest.get(done.max(0) as usize..).unwrap_or_default();
            if !rest.is_empty() {
                out.push(b'?');
                let wide = pg_sys::pg_encoding_mblen(from, rest.as_ptr().cast::<c_char>());
                rest = rest.get(wide.max(1) as usize..).unwrap_or_default();
            }
        }
        out
    }
}

impl Text {
    /// Bytes that the server has.
    pub fn of(bytes: &[u8]) -> Text {
        Text(bytes.to_vec())
    }

    /// What is UTF-8 here, as the server has it.
    fn from_utf8(text: &str) -> Text {
        if text.is_ascii() || is_utf8() {
            return Text::of(text.as_bytes());
        }
        // SAFETY: reads backend-local state.
        Text(converted(text.as_bytes(), UTF8, unsafe { pg_sys::GetDatabaseEncoding() }))
    }

    /// The same; none where the server's encoding has no place for some of it.
    pub fn exactly(text: &str) -> Option<Text> {
        Some(Text::from_utf8(text)).filter(|converted| converted.to_utf8() == text)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As much of it as so many bytes hold, in whole characters.
    pub fn clipped(mut self, longest: usize) -> Text {
        if self.0.len() > longest {
            // SAFETY: as many bytes as it says.
            let length = unsafe {
                pg_sys::pg_mbcliplen(
                    self.0.as_ptr().cast::<c_char>(),
                    self.0.len() as c_int,
                    longest as c_int,
                )
            };
            self.0.truncate(length.max(0) as usize);
        }
        self
    }

    /// The text in UTF-8, to be shown; what is no character in it is U+FFFD.
    pub fn to_utf8(&self) -> Cow<'_, str> {
        if self.0.is_ascii() || is_utf8() {
            return String::from_utf8_lossy(&self.0);
        }
        // SAFETY: reads backend-local state.
        let utf8 = converted(&self.0, unsafe { pg_sys::GetDatabaseEncoding() }, UTF8);
        String::from_utf8_lossy(&utf8).into_owned().into()
    }

    /// As an argument of a query.
    pub fn argument(&self) -> DatumWithOid<'static> {
        // SAFETY: a `text`.
        unsafe { DatumWithOid::new(self.clone(), pg_sys::TEXTOID) }
    }
}

/// As an argument of a query, of a text or null.
pub fn nullable(text: Option<Text>) -> DatumWithOid<'static> {
    text.map_or_else(DatumWithOid::null::<Text>, |text| text.argument())
}

/// A C string of PostgreSQL's; empty for a null one. The caller sees to it that it lives.
pub(super) unsafe fn of_c_string(text: *const c_char) -> Text {
    // SAFETY: null or a C string, by the caller.
    Text::of(if text.is_null() { b"" } else { unsafe { CStr::from_ptr(text) }.to_bytes() })
}

/// What an error may say: pgrx sends it as it is, so in another encoding than UTF-8 a character outside ASCII is written as JSON
/// writes it. SQL_ASCII takes any bytes, and cannot read what JSON writes so.
pub fn reportable(text: String) -> String {
    // SAFETY: reads backend-local state.
    let takes_any = || unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_SQL_ASCII as c_int };
    if text.is_ascii() || is_utf8() || takes_any() {
        return text;
    }
    let mut ascii = String::with_capacity(text.len());
    let mut units = [0; 2];
    for character in text.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                let units = character.encode_utf16(&mut units);
                ascii.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    ascii
}

impl Json {
    /// What is JSON, as the server has it.
    pub fn of(text: Text) -> Json {
        Json(text)
    }

    /// As an argument of a query.
    pub fn argument(self) -> DatumWithOid<'static> {
        // SAFETY: a `jsonb`.
        unsafe { DatumWithOid::new(self, pg_sys::JSONBOID) }
    }

    /// What it says; none where that is more than a `Value` holds: a number beyond a double, a depth beyond 128.
    pub fn value(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.0.to_utf8()).ok()
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Json {
        Json(Text::from_utf8(&value.to_string()))
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Text> {
        // SAFETY: a varlena, by the caller; its bytes are copied.
        unsafe { <&[u8]>::from_polymorphic_datum(datum, is_null, oid) }.map(Text::of)
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

impl FromDatum for Json {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Json> {
        if is_null {
            return None;
        }
        // SAFETY: a `jsonb`, by the caller; its output function returns a C string, which is copied.
        unsafe {
            let text = direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)])?;
            Some(Json(of_c_string(text.cast_mut_ptr())))
        }
    }
}

impl IntoDatum for Json {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let mut text = self.0.0;
        text.push(0);
        // SAFETY: the text of a JSON value, which ends with a NUL and has no other.
        unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text.as_ptr().into())]) }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

/// How pgrx takes a type as an argument and gives it as a result.
macro_rules! in_sql {
    ($type:ty, $name:literal) => {
        // SAFETY: values of that SQL type are what `FromDatum` and `IntoDatum` read and write.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: as the caller says; pgrx has refused a null before.
                unsafe { arg.unbox_arg_using_from_datum() }.expect("an argument that is not null")
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: as the caller says.
                unsafe { arg.unbox_arg_using_from_datum() }.into()
            }
        }

        // SAFETY: the same.
        unsafe impl pgrx::callconv::BoxRet for $type {
            unsafe fn box_into<'fcx>(
                self,
                frame: &mut pgrx::callconv::FcInfo<'fcx>,
            ) -> pgrx::datum::Datum<'fcx> {
                // SAFETY: a datum of the type that the function returns.
                unsafe {
                    match self.into_datum() {
                        Some(datum) => frame.return_raw_datum(datum),
                        None => frame.return_null(),
                    }
                }
            }
        }

        pgrx::impl_sql_translatable!($type, $name);
    };
}

in_sql!(Text, "TEXT");
in_sql!(Json, "jsonb");
