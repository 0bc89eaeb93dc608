//! JSON text as PostgreSQL's `jsonb`, without a tree in between.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// The version byte that `jsonb_recv` and `jsonb_send` put before the text.
const VERSION: u8 = 1;

/// Types by their numbers, as in [`super::numeric`].
const JSONB: Oid = Oid(3802);
const JSONB_ARRAY: Oid = Oid(3807);

/// A JSON text on its way into or out of a `jsonb` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jsonb<T>(pub T);

impl<T> Type<Postgres> for Jsonb<T> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB)
    }
}

impl<T> PgHasArrayType for Jsonb<T> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB_ARRAY)
    }
}

impl<T: AsRef<str>> Encode<'_, Postgres> for Jsonb<T> {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&[VERSION]);
        buf.extend_from_slice(self.0.as_ref().as_bytes());
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        1 + self.0.as_ref().len()
    }
}

impl Decode<'_, Postgres> for Jsonb<Box<str>> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes = value.as_bytes()?;
        let text = match (value.format(), bytes.split_first()) {
            (PgValueFormat::Text, _) => bytes,
            (PgValueFormat::Binary, Some((&VERSION, text))) => text,
            (PgValueFormat::Binary, _) => return Err("an unknown version of the jsonb format".into()),
        };
        Ok(Self(std::str::from_utf8(text)?.into()))
    }
}
