//! Rows as Postgres' `append` takes them: an array of records for each kind of row.

use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, types::PgRecordEncoder},
};

use crate::{stored_row::StoredRow, unfinished::UnfinishedRow};

/// A `new_event`.
pub(crate) struct NewEvent<'r>(pub &'r StoredRow);

/// An `unfinished_change`.
pub(crate) struct UnfinishedChange<'r>(pub &'r UnfinishedRow);

impl Type<Postgres> for NewEvent<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("new_event")
    }
}

impl PgHasArrayType for NewEvent<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_new_event")
    }
}

impl Encode<'_, Postgres> for NewEvent<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let row = self.0;
        let mut record = PgRecordEncoder::new(buffer);
        record
            .encode(row.owner)?
            .encode(row.owner_seq as i64)?
            .encode(row.stream)?
            .encode(row.sequence as i64)?
            .encode(row.kind)?
            .encode(row.event_type.as_ref())?
            .encode(row.event_version)?
            .encode(row.event_id)?
            .encode(row.slice as i16)? // 0..1023
            .encode(row.recorded_at.0)?
            .encode(row.digest.as_slice())?
            .encode(row.metadata.as_str())?
            .encode(row.payload.as_slice())?
            .finish();
        Ok(IsNull::No)
    }
}

impl Type<Postgres> for UnfinishedChange<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unfinished_change")
    }
}

impl PgHasArrayType for UnfinishedChange<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_unfinished_change")
    }
}

impl Encode<'_, Postgres> for UnfinishedChange<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (row, state, priority) = match self.0 {
            UnfinishedRow::Put(row) => (Some(row), Some(row.state), Some(row.priority)),
            UnfinishedRow::Change {
                state, priority, ..
            } => (None, Some(*state), *priority),
            UnfinishedRow::End { .. } => (None, None, None),
        };
        let mut record = PgRecordEncoder::new(buffer);
        record
            .encode(self.0.user().0)?
            .encode(self.0.job().0)?
            .encode(row.map(|row| row.queue.as_str()))?
            .encode(row.map(|row| row.operation.as_str()))?
            .encode(priority)?
            .encode(row.map(|row| row.submitted as i64))?
            .encode(state.map(|state| state.sequence as i64))?
            .encode(state.and_then(|state| state.due).map(|due| due.0))?
            .encode(state.map(|state| i64::from(state.is_running)))?
            .finish();
        Ok(IsNull::No)
    }
}
