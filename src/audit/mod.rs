//! What has been done, by whom, and is the record whole?
//!
//! Guarantees: an entry belongs to the transaction that did what it tells of, and is gone with it; one of what was refused stays when its
//! transaction is rolled back (`pg::insert`). Entries are chained (`chain`) in segments: those that one session writes for one tenant, so
//! that nobody waits for anybody. A segment begins after the latest entry of another segment of the tenant, and its head tells how far it
//! goes; so neither a segment nor its last entries can be removed without a trace, unless whoever does so rewrites all that came later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

pub mod api;
mod chain;
pub mod events;
mod segments;

pub use events::refused_sign_in;

use crate::context;
use crate::error::{Error, internal};
use crate::pg::{
    self,
    insert::{Table, Value},
    text::Text,
    xact::{self, Event},
};
use crate::tenant::TenantId;
use chain::Entry;
use segments::{Kept, Segments};

/// The name of a tenant; none of what is of no tenant.
type Tenant = Option<TenantId>;

/// In which transaction the client acts as which role.
type ActsAs = (u64, pg::Oid);

thread_local! {
    static SEGMENTS: RefCell<Segments> = RefCell::new(Segments::default());
    static SESSION: RefCell<Option<Rc<Text>>> = const { RefCell::new(None) };
    /// In which transaction the client acted as which role, and that role's name.
    static ROLE: RefCell<Option<(ActsAs, Rc<Text>)>> = const { RefCell::new(None) };
    static ENTRIES: Cell<Option<pg::Oid>> = const { Cell::new(None) };
    /// Where entries of which month go, until a partition comes or goes.
    static PARTITIONS: RefCell<HashMap<i64, pg::Oid>> = RefCell::new(HashMap::new());
}

pub fn init() {
    crate::error::init(events::refused);
    xact::listen(|event| match event {
        Event::BeforeCommit | Event::BeforePrepare => write_heads(),
        event => SEGMENTS.with_borrow_mut(|segments| segments.note(event)),
    });
    pg::inval::listen(|changed| {
        if changed.is_none() || changed == ENTRIES.get() {
            PARTITIONS.with_borrow_mut(HashMap::clear);
        }
        SEGMENTS.with_borrow_mut(|segments| segments.note_change(changed));
    });
}

/// What an entry says besides who and when.
#[derive(Default)]
pub struct Record<'a> {
    pub tenant: Tenant,
    pub operation: &'a str,
    pub relation: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    pub old: Option<&'a [u8]>,
    pub new: Option<&'a [u8]>,
    pub detail: Option<&'a [u8]>,
}

/// The tables of the audit trail.
fn table(name: &'static std::ffi::CStr) -> pg::Oid {
    pg::scan::table(name).unwrap_or_else(|| Error::NotInstalled.raise())
}

/// The partition that takes entries of a moment, open and locked.
fn partition(at: i64) -> Table {
    let month = crate::period::Period::Month.start(at);
    loop {
        let known = PARTITIONS.with_borrow(|partitions| partitions.get(&month).copied());
        let partition = known.unwrap_or_else(|| find_partition(at));
        PARTITIONS.with_borrow_mut(|partitions| partitions.insert(month, partition));
        let open = Table::open(partition);
        // A partition may have come for the month while we waited for the lock; after it, none does.
        if PARTITIONS.with_borrow(|partitions| partitions.get(&month) == Some(&partition)) {
            return open;
        }
    }
}

fn find_partition(at: i64) -> pg::Oid {
    let entries = table(c"audit_entries");
    ENTRIES.set(Some(entries));
    let mut found = None;
    let query = "SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = $1
                   AND i.inhrelid = to_regclass(to_char($2 AT TIME ZONE 'UTC', '\"_tenancy.audit_entries_\"YYYY_MM'))";
    pg::query::latest_planned(entries, query, &[entries.into(), pg::query::timestamp(at)], |row| {
        found = row.get::<pg::Oid>(1)?;
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    found.unwrap_or_else(|| table(c"audit_entries_default"))
}

/// The name of the role that the client acts as.
fn role() -> Rc<Text> {
    let now = (xact::number(), pg::user::role());
    let known =
        ROLE.with_borrow(|known| known.as_ref().filter(|known| known.0 == now).map(|known| known.1.clone()));
    known.unwrap_or_else(|| {
        let name = Rc::new(pg::user::role_name());
        ROLE.set(Some((now, name.clone())));
        name
    })
}

/// Who does something, and when: what all entries of a statement say.
struct Who {
    at: i64,
    actor: Option<Text>,
    role: Rc<Text>,
    session: Rc<Text>,
}

impl Who {
    fn now() -> Who {
        Who {
            at: xact::statement_began(),
            actor: context::user_id().map(|user| user.clipped(context::LONGEST_USER)),
            role: role(),
            session: SESSION
                .with_borrow_mut(|name| name.get_or_insert_with(|| Rc::new(pg::session_name())).clone()),
        }
    }

    fn entry<'a>(&'a self, record: &'a Record, transaction: i64) -> Entry<'a> {
        Entry {
            tenant: record.tenant.as_ref().map(TenantId::as_bytes),
            recorded_at: self.at,
            operation: record.operation.as_bytes(),
            relation: record.relation,
            key: record.key,
            old: record.old,
            new: record.new,
            detail: record.detail,
            actor: self.actor.as_ref().map(Text::as_bytes),
            role: self.role.as_bytes(),
            session: self.session.as_bytes(),
            transaction,
        }
    }
}

fn columns<'a>(entry: &Entry<'a>, segment: i64, number: i64, hash: &'a chain::Hash) -> [Value<'a>; 15] {
    let text = |text: Option<&'a [u8]>| text.map_or(Value::Null, Value::Text);
    [
        text(entry.tenant),
        Value::Timestamp(entry.recorded_at),
        Value::Text(entry.operation),
        text(entry.relation),
        text(entry.key),
        text(entry.old),
        text(entry.new),
        text(entry.detail),
        text(entry.actor),
        Value::Text(entry.role),
        Value::Text(entry.session),
        Value::Bigint(entry.transaction),
        Value::Bigint(segment),
        Value::Bigint(number),
        Value::Bytes(hash),
    ]
}

/// Writes an entry, as part of the transaction.
pub fn record(record: &Record) {
    let who = Who::now();
    let entry = who.entry(record, xact::full_id());
    let table = partition(who.at);
    let (segment, number, hash) =
        segments::next(&record.tenant, Kept::WithTransaction, |previous, segment, number| {
            chain::hash(previous, segment, number, &entry)
        });
    table.insert_one(columns(&entry, segment, number, &hash));
}

/// An entry that has its place, and is not there yet: where it does not come to be, nothing must follow it.
struct Unwritten<'a>(&'a Tenant);

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        SEGMENTS.with_borrow_mut(|segments| segments.forget(self.0, Kept::ForGood));
    }
}

/// Writes an entry that stays when the transaction is rolled back. Of what is short: see `Table::insert_to_stay`.
pub fn record_to_stay(record: &Record) {
    let who = Who::now();
    let entry = who.entry(record, xact::full_id());
    let table = partition(who.at);
    let heads = Table::open(self::table(c"audit_heads"));
    let (segment, number, hash) =
        segments::next(&record.tenant, Kept::ForGood, |previous, segment, number| {
            chain::hash(previous, segment, number, &entry)
        });
    let unwritten = Unwritten(&record.tenant);
    table.insert_to_stay(columns(&entry, segment, number, &hash));
    std::mem::forget(unwritten);
    if let Some(row) = SEGMENTS.with_borrow(|segments| segments.head_to_stay(&record.tenant)) {
        heads.insert_to_stay(row.columns());
    }
}

/// Writes how far the segments go that the transaction has written.
fn write_heads() {
    let rows = SEGMENTS.with_borrow(Segments::heads);
    if rows.is_empty() {
        return;
    }
    let heads = Table::open(table(c"audit_heads"));
    for (name, head) in rows {
        let place = head.write(&heads);
        SEGMENTS.with_borrow_mut(|segments| segments.note_head(&name, place));
    }
}
