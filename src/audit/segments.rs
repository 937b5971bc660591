//! How far has this session come in the segments that it writes?
//!
//! A segment is begun with the first entry for a tenant, and goes on until the session ends, or forgets it. What a rolled back transaction
//! or savepoint has written is not there, so the next entry follows what was written before it.

use std::collections::HashMap;

use super::chain::{self, Hash, Link};
use super::{SEGMENTS, Tenant, table};
use crate::error::internal;
use crate::pg::{
    self,
    insert::{Place, Table, Value},
    text::Text,
    xact::{self, Event},
};

/// Segments that a session goes on with; past this it begins new ones when it is idle.
const KEPT: usize = 16_384;

/// Whether an entry goes with its transaction. Each kind has segments of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kept {
    WithTransaction,
    ForGood,
}

pub type Name = (Tenant, Kept);

/// How far a segment goes.
#[derive(Clone, Copy)]
struct Mark {
    number: i64,
    hash: Hash,
}

struct Segment {
    tenant: Tenant,
    id: i64,
    opened_at: i64,
    after: Option<Link>,
    now: Mark,
    /// As of the last transaction that was committed, and where the row is that says so.
    committed: Option<(Mark, Place)>,
    /// Where this transaction has written it.
    written: Option<Place>,
    is_touched: bool,
    /// The levels of subtransactions at which an `Undo` tells of it, the innermost last.
    noted: Vec<i32>,
    /// Not to be gone on with after this transaction.
    is_void: bool,
}

/// What a segment was at before a level of subtransactions wrote to it; none: it was not there.
struct Undo {
    level: i32,
    name: Name,
    before: Option<Mark>,
}

#[derive(Default)]
pub struct Segments {
    all: HashMap<Name, Segment>,
    /// Of this transaction, the latest last.
    undo: Vec<Undo>,
    heads: Option<pg::Oid>,
}

/// The row of a segment in `_tenancy.audit_heads`.
pub struct Head {
    tenant: Tenant,
    id: i64,
    opened_at: i64,
    after: Option<Link>,
    mark: Mark,
    /// Where it is, if it is there.
    place: Option<Place>,
}

impl Head {
    /// Writes it; returns where it is.
    pub fn write(&self, heads: &Table) -> Option<Place> {
        match self.place {
            // In the second column.
            Some(place) => Some(heads.update(place, (2, self.id), self.columns())),
            None => heads.insert_one(self.columns()),
        }
    }

    pub fn columns(&self) -> [Value<'_>; 8] {
        let after = self.after.as_ref();
        [
            self.tenant.as_ref().map_or(Value::Null, |id| Value::Text(id.as_bytes())),
            Value::Bigint(self.id),
            Value::Bigint(self.mark.number),
            Value::Bytes(&self.mark.hash),
            Value::Timestamp(self.opened_at),
            after.map_or(Value::Null, |link| Value::Bigint(link.segment)),
            after.map_or(Value::Null, |link| Value::Bigint(link.number)),
            after.map_or(Value::Null, |link| Value::Bytes(&link.hash)),
        ]
    }
}

/// The next place in the session's segment of a tenant, and what `hash` makes of the one before it: segment, number and hash.
pub fn next(tenant: &Tenant, kept: Kept, hash: impl FnOnce(&Hash, i64, i64) -> Hash) -> (i64, i64, Hash) {
    let name = (*tenant, kept);
    if SEGMENTS.with_borrow(|segments| segments.undo.is_empty()) {
        // Locked until the transaction ends: rows stay where they are known to be, and of what was before that we hear now.
        Table::open(table(c"audit_heads"));
        SEGMENTS.with_borrow_mut(|segments| segments.all.retain(|_, segment| !segment.is_void));
    }
    if !SEGMENTS.with_borrow(|segments| segments.all.contains_key(&name)) {
        // Not while the segments are borrowed: an invalidation may come.
        let segment = begin(tenant);
        SEGMENTS.with_borrow_mut(|segments| segments.all.insert(name, segment));
    }
    SEGMENTS.with_borrow_mut(|segments| {
        let Segments { all, undo, .. } = segments;
        let Some(segment) = all.get_mut(&name) else {
            crate::error::Error::Internal("a segment of the audit trail is gone").raise()
        };
        if kept == Kept::WithTransaction {
            let level = xact::level();
            if segment.noted.last() != Some(&level) {
                segment.noted.push(level);
                let before = segment.is_touched.then_some(segment.now);
                let before = before.or(segment.committed.map(|(mark, _)| mark));
                undo.push(Undo { level, name, before });
            }
            segment.is_touched = true;
        }
        let number = segment.now.number + 1;
        let hash = hash(&segment.now.hash, segment.id, number);
        segment.now = Mark { number, hash };
        (segment.id, number, hash)
    })
}

/// Begins a segment, after the latest of the tenant that is on record.
fn begin(tenant: &Tenant) -> Segment {
    let heads = table(c"audit_heads");
    let mut after = None;
    // Each by the index.
    const OF_TENANT: &str = "SELECT h.segment, h.number, h.hash FROM _tenancy.audit_heads h
                             WHERE h.tenant_id = $1 ORDER BY h.opened_at DESC, h.number DESC LIMIT 1";
    const OF_NONE: &str = "SELECT h.segment, h.number, h.hash FROM _tenancy.audit_heads h
                           WHERE h.tenant_id IS NULL ORDER BY h.opened_at DESC, h.number DESC LIMIT 1";
    let id = tenant.map(|id| Text::of(id.as_bytes()).argument());
    let query = if id.is_some() { OF_TENANT } else { OF_NONE };
    pg::query::latest_planned(heads, query, id.as_slice(), |row| {
        if let (Some(segment), Some(number), Some(hash)) = (row.get(1)?, row.get(2)?, row.get::<Vec<u8>>(3)?)
        {
            // What is no hash is for verify_audit() to find.
            let mut link = Link { segment, number, hash: [0; 32] };
            link.hash.iter_mut().zip(&hash).for_each(|(to, from)| *to = *from);
            after = Some(link);
        }
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    // Positive, so that it is easy to type.
    let id = i64::from_be_bytes(pg::random()) & i64::MAX;
    let hash = chain::start(tenant.as_ref().map(|id| id.as_bytes()), id, after.as_ref());
    SEGMENTS.with_borrow_mut(|segments| segments.heads = Some(heads));
    Segment {
        tenant: *tenant,
        id,
        opened_at: xact::now(),
        after,
        now: Mark { number: 0, hash },
        committed: None,
        written: None,
        is_touched: false,
        noted: Vec::new(),
        is_void: false,
    }
}

impl Segment {
    fn head(&self) -> Head {
        Head {
            tenant: self.tenant,
            id: self.id,
            opened_at: self.opened_at,
            after: self.after,
            mark: self.now,
            place: self.committed.map(|(_, place)| place),
        }
    }
}

impl Segments {
    /// The heads that this transaction has to write, in the order of tenants.
    pub fn heads(&self) -> Vec<(Name, Head)> {
        let is_due = |segment: &&Segment| {
            segment.is_touched && segment.committed.is_none_or(|(mark, _)| mark.number != segment.now.number)
        };
        let mut due: Vec<_> = self.all.iter().filter(|(_, segment)| is_due(segment)).collect();
        let id = |name: &Name| name.0.map(|id| id.as_bytes().to_vec());
        due.sort_by_cached_key(|(name, _)| id(name));
        due.into_iter().map(|(name, segment)| (*name, segment.head())).collect()
    }

    /// The head of a segment whose entries stay: a row for each, of which the last counts.
    pub fn head_to_stay(&self, tenant: &Tenant) -> Option<Head> {
        self.all.get(&(*tenant, Kept::ForGood)).map(Segment::head)
    }

    /// Notes where the transaction has written a head.
    pub fn note_head(&mut self, name: &Name, place: Option<Place>) {
        if let Some(segment) = self.all.get_mut(name) {
            segment.written = place;
        }
    }

    /// Begins another segment with the next entry.
    pub fn forget(&mut self, tenant: &Tenant, kept: Kept) {
        self.all.remove(&(*tenant, kept));
    }

    /// A change of the heads by somebody else than the sessions that write them, or a new table: what is known of them is void.
    pub fn note_change(&mut self, changed: Option<pg::Oid>) {
        if self.heads.is_some() && (changed.is_none() || changed == self.heads) {
            self.all.retain(|_, segment| segment.is_touched);
            self.all.values_mut().for_each(|segment| segment.is_void = true);
        }
    }

    /// Takes note of what becomes of the transaction.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::SubCommitted(level) => {
                // The levels never fall in the order of the list.
                let first = self.undo.iter().rposition(|undo| undo.level < level).map_or(0, |last| last + 1);
                for mut undo in self.undo.split_off(first) {
                    undo.level -= 1;
                    let Some(segment) = self.all.get_mut(&undo.name) else { continue };
                    segment.noted.pop();
                    // What was before is what the outer level has noted, if it has.
                    if segment.noted.last() != Some(&undo.level) {
                        segment.noted.push(undo.level);
                        self.undo.push(undo);
                    }
                }
            }
            Event::SubAborted(level) => {
                while let Some(undo) = self.undo.pop_if(|undo| undo.level >= level) {
                    self.restore(undo);
                }
            }
            Event::Aborted => {
                while let Some(undo) = self.undo.pop() {
                    self.restore(undo);
                }
                self.end();
            }
            Event::Committed => {
                for segment in self.all.values_mut().filter(|segment| segment.is_touched) {
                    if let Some(place) = segment.written {
                        segment.committed = Some((segment.now, place));
                    }
                }
                self.end();
            }
            // Whether its entries come to be is not known for long.
            Event::Prepared => {
                self.all.retain(|_, segment| !segment.is_touched);
                self.end();
            }
            Event::BeforeCommit | Event::BeforePrepare => {}
        }
    }

    fn restore(&mut self, undo: Undo) {
        match undo.before {
            Some(mark) => {
                if let Some(segment) = self.all.get_mut(&undo.name) {
                    segment.now = mark;
                    segment.noted.pop();
                }
            }
            None => drop(self.all.remove(&undo.name)),
        }
    }

    fn end(&mut self) {
        self.undo.clear();
        let mut excess = self.all.len().saturating_sub(KEPT);
        self.all.retain(|_, segment| {
            let is_excess = excess > 0;
            excess -= usize::from(is_excess);
            !segment.is_void && !is_excess
        });
        for segment in self.all.values_mut() {
            segment.is_touched = false;
            segment.noted.clear();
            segment.written = None;
        }
    }
}
