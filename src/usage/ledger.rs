//! The ledger: what every transaction has used, in tables. It is the truth that everything else is derived from.
//!
//! `_tenancy.usage_open` takes the entries of transactions. `_tenancy.settle_usage` moves them to `_tenancy.usage_settled` and
//! adds them up (`usage_totals`, `usage_hourly`). It does both in one transaction, so a snapshot sees each entry once.

use super::cells::{self, Amount};
use super::{Key, Note, OVER};
use crate::error::internal;
use crate::period::{Moment, Period, next_hour};
use crate::pg::{
    self,
    insert::{Table, Value},
};

/// An entry that is to be written.
pub struct Entry {
    pub key: Key,
    pub amount: i64,
    pub at: Moment,
    pub note: Note,
}

/// Writes entries, with the actor of the context.
pub fn write(ledger: &Table, entries: &[Entry]) {
    // Connections that charge the same key insert into the index at places of their own.
    let lane = i64::from(pg::process()) & Key::LANES;
    let actor = crate::context::user_id();
    let actor = actor.as_ref().map_or(Value::Null, |actor| Value::Text(actor.as_bytes()));
    ledger.insert(entries.iter().map(|entry| {
        [
            Value::Text(entry.key.tenant.as_bytes()),
            Value::Text(entry.key.resource.as_bytes()),
            Value::Bigint(entry.amount),
            Value::Timestamp(entry.at),
            actor,
            match &entry.note {
                Note::Metadata(metadata) => Value::Json(metadata),
                Note::Merged | Note::Correction => Value::Null,
            },
            Value::Boolean(matches!(entry.note, Note::Correction)),
            Value::Bigint(entry.key.hash() | lane),
            Value::Boolean(false),
        ]
    }));
}

const SUMS: &str = "
    WITH open AS MATERIALIZED (
        SELECT o.amount, o.recorded_at, o.amount > 0 AND NOT o.is_correction AS is_use FROM _tenancy.usage_open o
        WHERE o.hash BETWEEN $6 AND $6 + 7 AND o.tenant_id = $1 AND o.resource = $2
    ), hours AS MATERIALIZED (
        SELECT h.added, h.hour FROM _tenancy.usage_hourly h
        WHERE h.tenant_id = $1 AND h.resource = $2 AND h.hour >= least($3, $4, $5)
    )
    SELECT _tenancy.to_bigint(s.amount) FROM (VALUES
        (1, coalesce((SELECT t.amount FROM _tenancy.usage_totals t WHERE t.tenant_id = $1 AND t.resource = $2), 0)
            + coalesce((SELECT sum(o.amount) FROM open o), 0)),
        (2, coalesce((SELECT sum(h.added) FROM hours h WHERE h.hour >= $3), 0)
            + coalesce((SELECT sum(o.amount) FROM open o WHERE o.is_use AND o.recorded_at >= $3), 0)),
        (3, coalesce((SELECT sum(h.added) FROM hours h WHERE h.hour >= $4), 0)
            + coalesce((SELECT sum(o.amount) FROM open o WHERE o.is_use AND o.recorded_at >= $4), 0)),
        (4, coalesce((SELECT sum(h.added) FROM hours h WHERE h.hour >= $5), 0)
            + coalesce((SELECT sum(o.amount) FROM open o WHERE o.is_use AND o.recorded_at >= $5), 0))
    ) AS s (place, amount) ORDER BY s.place";

/// The same over an interval: what is settled is added up by hours, and before the first whole one by entries.
const SUM_OVER: &str = "
    SELECT _tenancy.to_bigint(
        coalesce((SELECT sum(o.amount) FROM _tenancy.usage_open o
                  WHERE o.hash BETWEEN $5 AND $5 + 7 AND o.tenant_id = $1 AND o.resource = $2 AND o.recorded_at >= $3
                    AND o.amount > 0 AND NOT o.is_correction), 0)
        + coalesce((SELECT sum(s.amount) FROM _tenancy.usage_settled s
                    WHERE s.tenant_id = $1 AND s.resource = $2 AND s.recorded_at >= $3 AND s.recorded_at < $4
                      AND s.amount > 0 AND NOT s.is_correction), 0)
        + coalesce((SELECT sum(h.added) FROM _tenancy.usage_hourly h
                    WHERE h.tenant_id = $1 AND h.resource = $2 AND h.hour >= $4), 0))";

/// What is committed now: for good, and in the periods that began then. What this transaction has charged is not in it,
/// because its entries are written last.
pub fn sums(key: &Key, starts: &[Moment; 4]) -> [Amount; 4] {
    let mut amounts: [Amount; 4] = starts.map(|since| Amount { since, ..Amount::default() });
    if key.interval.is_some() {
        amounts[OVER].used = sum_over(key, starts[OVER]);
        return amounts;
    }
    let mut places = amounts.iter_mut();
    let start = |period: Period| pg::query::timestamp(starts[period as usize]);
    pg::query::latest_planned(
        key.ledger,
        SUMS,
        &[
            key.tenant.as_str().into(),
            key.resource.as_str().into(),
            start(Period::Hour),
            start(Period::Day),
            start(Period::Month),
            key.hash().into(),
        ],
        |row| {
            if let Some(amount) = places.next() {
                amount.used = row.get::<i64>(1)?.unwrap_or(0);
            }
            Ok(())
        },
    )
    .unwrap_or_else(|error| internal(error));
    amounts
}

fn sum_over(key: &Key, start: Moment) -> i64 {
    let mut sum = 0;
    pg::query::latest_planned(
        key.ledger,
        SUM_OVER,
        &[
            key.tenant.as_str().into(),
            key.resource.as_str().into(),
            pg::query::timestamp(start),
            pg::query::timestamp(next_hour(start)),
            key.hash().into(),
        ],
        |row| {
            sum = row.get::<i64>(1)?.unwrap_or(0);
            Ok(())
        },
    )
    .unwrap_or_else(|error| internal(error));
    sum
}

/// Takes the row lock of the key's total until the transaction ends, and settles its entries if they have become many, so
/// that adding them up stays cheap.
pub fn lock_total(key: &Key) {
    cells::wait_for_prepared(key);
    let arguments = [key.tenant.as_str().into(), key.resource.as_str().into(), key.hash().into()];
    let command = "SELECT _tenancy.lock_usage($1, $2, $3)";
    pg::query::run_planned(key.ledger, command, &arguments).unwrap_or_else(|error| internal(error));
}
