//! What PostgreSQL calls: the row trigger of audited tables, and the hashes that `tenancy.verify_audit` compares.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::chain::{self, Entry, Link};
use super::{Record, record, table};
use crate::error::{Error, internal};
use crate::guard;
use crate::pg::{
    self,
    row_trigger::{self, Layout, Shown, Trigger},
    text::{Json, Text},
    transition::Event,
};

thread_local! {
    /// What the triggers that were called know of their tables, until any relation changes.
    static KNOWN: RefCell<HashMap<pg::Oid, Rc<Layout>>> = RefCell::new(HashMap::new());
}

pub fn init() {
    row_trigger::init(audit);
    pg::inval::listen(|_| KNOWN.with_borrow_mut(HashMap::clear));
}

/// Writes what has become of a row, or of all of a table.
fn audit(trigger: &Trigger) {
    let arguments = trigger.arguments();
    // A dump that is restored into tables of the extension tells of what others did, long ago.
    if !arguments.is_empty() && guard::is_restoring() {
        return;
    }
    let layout = layout(trigger, &arguments);
    if trigger.event() == Event::Truncate {
        record(&Record {
            operation: "TRUNCATE",
            relation: Some(layout.name.as_bytes()),
            ..Record::default()
        });
        return;
    }
    let Some(change) = trigger.change(&layout) else { return };
    let part = |tenant, operation, old: Option<&[u8]>, new| {
        let relation = Some(layout.name.as_bytes());
        let key = if old.is_none() { &change.new_key } else { &change.key };
        record(&Record { tenant, operation, relation, key: key.as_deref(), old, new, detail: None })
    };
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    match (trigger.event(), change.old_tenant == change.new_tenant) {
        (Event::Insert, _) => part(change.new_tenant, "INSERT", None, new),
        (Event::Delete, _) => part(change.old_tenant, "DELETE", old, None),
        (_, true) => part(change.new_tenant, "UPDATE", old, new),
        // To each tenant what is its own.
        (_, false) => {
            part(change.old_tenant, "DELETE", old, None);
            part(change.new_tenant, "INSERT", None, new);
        }
    }
}

/// The triggers of audited tables: whoever may attach a partition may make a trigger that calls the function.
const TRIGGERS: [&[u8]; 2] = [b"tenancy_audit", b"tenancy_audit_truncate"];

/// What there is to know of the table. The triggers of the extension's own tables say it in their arguments: the tenant column, or
/// nothing, and the columns that are left out.
fn layout(trigger: &Trigger, arguments: &[Text]) -> Rc<Layout> {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&trigger.id()).cloned()) {
        return known;
    }
    let refuse = || Error::NotAudited(&trigger.name().to_utf8()).raise();
    let made = match arguments {
        [_, ..] if !pg::scan::is_ours(trigger.relation()) => refuse(),
        [tenant, excluded @ ..] => {
            let shown = |name: &[u8]| {
                if excluded.iter().any(|one| one.as_bytes() == name) { Shown::Not } else { Shown::Whole }
            };
            trigger.layout(Some(tenant).filter(|tenant| !tenant.as_bytes().is_empty()), shown)
        }
        [] => configured(trigger).unwrap_or_else(refuse),
    };
    let layout = Rc::new(made.unwrap_or_else(|column| Error::MeteredColumn(&column.to_utf8()).raise()));
    KNOWN.with_borrow_mut(|known| known.insert(trigger.id(), layout.clone()));
    layout
}

/// The same of a table of a user's, or of one that it is a partition or child of; none where it is not audited.
fn configured(trigger: &Trigger) -> Option<Result<Layout, Text>> {
    let (mut tenant, mut columns, mut is_audited) = (None, HashMap::new(), false);
    let query = "WITH RECURSIVE up (relation, depth) AS (
                     SELECT $1, 0
                     UNION
                     SELECT i.inhparent, up.depth + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
                 ), nearest AS (
                     SELECT a.excluded, a.masked FROM up JOIN _tenancy.audited a ON a.relation = up.relation ORDER BY up.depth LIMIT 1
                 )
                 SELECT NULL::text, NULL::text, NULL::boolean FROM nearest
                 UNION ALL
                 SELECT p.tenant_column::text, NULL, NULL FROM _tenancy.protected p WHERE p.relation = $1
                 UNION ALL
                 SELECT NULL, c::text, false FROM nearest n, unnest(n.excluded) AS c
                 UNION ALL
                 SELECT NULL, c::text, true FROM nearest n, unnest(n.masked) AS c";
    let audited = table(c"audited");
    pg::query::latest_planned(audited, query, &[trigger.relation().into()], |row| {
        match (row.get::<Text>(1)?, row.get::<Text>(2)?, row.get::<bool>(3)?) {
            (Some(column), ..) => tenant = Some(column),
            (_, Some(column), Some(is_masked)) => {
                let shown = if is_masked { Shown::Masked } else { Shown::Not };
                columns.insert(column.as_bytes().to_vec(), shown);
            }
            _ => is_audited = true,
        }
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    (is_audited && TRIGGERS.contains(&trigger.name().as_bytes()))
        .then(|| trigger.layout(tenant.as_ref(), |name| columns.get(name).copied().unwrap_or(Shown::Whole)))
}

/// Writes an entry of no tenant. Volatile. For functions of the extension that change the trail itself.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn note_audit(operation: Text, detail: Json) {
    let detail = pg::text::reportable(detail.value().unwrap_or_default().to_string());
    let operation = operation.to_utf8();
    record(&Record { operation: &operation, detail: Some(detail.as_bytes()), ..Record::default() });
}

/// What the first entry of a segment is chained to. Immutable. For `tenancy.verify_audit`.
#[pg_extern(schema = "_tenancy", immutable, parallel_safe)]
pub fn audit_start(
    tenant_id: Option<Text>,
    segment: i64,
    after_segment: Option<i64>,
    after_number: Option<i64>,
    after_hash: Option<&[u8]>,
) -> Vec<u8> {
    let link = match (after_segment, after_number, after_hash.and_then(as_hash)) {
        (Some(segment), Some(number), Some(hash)) => Some(Link { segment, number, hash }),
        _ => None,
    };
    chain::start(tenant_id.as_ref().map(Text::as_bytes), segment, link.as_ref()).to_vec()
}

fn as_hash(bytes: &[u8]) -> Option<chain::Hash> {
    bytes.try_into().ok()
}

/// The hash that an entry must have after one with the hash `previous`; NULL where that is none. Immutable. For `tenancy.verify_audit`.
#[pg_extern(schema = "_tenancy", immutable, parallel_safe)]
#[allow(clippy::too_many_arguments)]
pub fn audit_hash(
    previous: Option<&[u8]>,
    segment: i64,
    number: i64,
    tenant_id: Option<Text>,
    recorded_at: TimestampWithTimeZone,
    operation: Text,
    relation: Option<Text>,
    key: Option<Text>,
    old: Option<Text>,
    new: Option<Text>,
    detail: Option<Text>,
    actor: Option<Text>,
    role: Text,
    session: Text,
    transaction: i64,
) -> Option<Vec<u8>> {
    fn bytes(text: &Option<Text>) -> Option<&[u8]> {
        text.as_ref().map(Text::as_bytes)
    }
    let entry = Entry {
        tenant: bytes(&tenant_id),
        recorded_at: recorded_at.into(),
        operation: operation.as_bytes(),
        relation: bytes(&relation),
        key: bytes(&key),
        old: bytes(&old),
        new: bytes(&new),
        detail: bytes(&detail),
        actor: bytes(&actor),
        role: role.as_bytes(),
        session: session.as_bytes(),
        transaction,
    };
    Some(chain::hash(&previous.and_then(as_hash)?, segment, number, &entry).to_vec())
}
