//! Does a tenant have a partition of its own, and who still reads it elsewhere?
//!
//! Guarantees: rows are moved as they are, each once: what is removed from one partition is what the other has, or nothing is done. A statement
//! that could not see them in either is refused. Which partition, and when it is attached, is SQL: `sql/api/isolate_tenant.sql`.

use std::cell::RefCell;

use pgrx::{prelude::*, spi};

use crate::context;
use crate::error::{Error, internal};
use crate::pg::{
    self,
    moved::{self, LONG_AGO, Move},
    moving::{self, Heap, Moment, Mover, Place},
    scan::Cached,
    text::Text,
    xact::{self, Event},
};

// Columns of _tenancy.isolated.
const PARTITION: i32 = 1;
const MOVED_BY: i32 = 2;

/// As many rows are copied in a statement, where they are not all that there are.
const BATCH: usize = 10_000;

/// Rows that were copied, as they were at a moment, and are to be removed where they came from.
struct Copied {
    from: pg::Oid,
    to: pg::Oid,
    at: Moment,
    rows: i64,
    /// The nesting level at which they were: a rollback to a savepoint takes them back.
    level: i32,
}

thread_local! {
    static TABLE: Cached = const { Cached::new(c"isolated", c"isolated_pkey") };
    static COPIED: RefCell<Option<Copied>> = const { RefCell::new(None) };
}

pub fn init() {
    moved::init(moves);
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) {
            moved::forget();
        }
    });
    xact::listen(|event| {
        COPIED.with_borrow_mut(|copied| match event {
            Event::SubAborted(level) => drop(copied.take_if(|copied| copied.level >= level)),
            Event::SubCommitted(level) => {
                if let Some(copied) = copied {
                    copied.level = copied.level.min(level - 1);
                }
            }
            event if event.is_end() => *copied = None,
            _ => {}
        });
    });
}

/// The partitions that rows have been moved to, but for long ago.
fn moves() -> Vec<Move> {
    let Some(relations) = TABLE.with(Cached::relations) else { return Vec::new() };
    let next = xact::next_id();
    let read = |row: &pg::scan::Row| {
        let by_full = row.bigint(MOVED_BY).filter(|by| next - by < LONG_AGO)?;
        Some(Move { partition: row.oid(PARTITION)?, by: xact::short_id(by_full), by_full })
    };
    pg::scan::rows(relations, &[], read).into_iter().flatten().collect()
}

fn isolated() -> pg::Oid {
    TABLE.with(Cached::relations).unwrap_or_else(|| Error::NotInstalled.raise()).table
}

/// Gives a tenant of a partitioned table a partition of its own; returns that. The caller must own the table. Raises 42501
/// (`RELATION_NOT_OWNED`, `TENANT_ACCESS_DENIED` in the context of a tenant) and what `_tenancy.isolate_as` does. Volatile. For
/// `tenancy.isolate_tenant`, with the rights of its caller.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn isolate(
    relation: pg::Oid,
    tenant_id: Text,
    partition_name: Option<Text>,
    tablespace: Option<Text>,
) -> Option<pg::Oid> {
    pg::forget_error_context();
    context::refuse_in_context("isolate_tenant");
    if !pg::user::owns_relation(relation) {
        Error::NotOwned.raise()
    }
    let mut made = None;
    let arguments = [
        relation.into(),
        tenant_id.argument(),
        pg::text::nullable(partition_name),
        pg::text::nullable(tablespace),
        pg::user::current().into(),
    ];
    let query = "SELECT _tenancy.isolate_as($1, $2, $3, $4, $5)::oid";
    pg::query::write(isolated(), query, &arguments, |row| {
        made = row.get::<pg::Oid>(1)?;
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    made
}

/// Which rows are copied, by conditions that are SQL: `condition` on a row `d` of the table; `columns` are copied; `same_key` tells of a row `n`
/// of the other table and a row `d` that they have the same key; without it, all are copied anew where some have been changed.
struct Statements<'a> {
    source: &'a str,
    target: &'a str,
    condition: &'a str,
    columns: &'a str,
    same_key: Option<&'a str>,
}

impl Statements<'_> {
    fn insert(&self, which: &str) -> String {
        let Statements { source, target, columns, .. } = self;
        format!("INSERT INTO {target} ({columns}) SELECT {columns} FROM ONLY {source} AS d WHERE {which}")
    }

    fn places(&self) -> String {
        format!("SELECT d.ctid FROM ONLY {} AS d WHERE {}", self.source, self.condition)
    }

    fn copy_all(&self, mover: &Mover, at: &Moment) -> Result<i64, spi::Error> {
        Ok(mover.run(at, &self.insert(self.condition), &[])?.0 as i64)
    }

    /// Copies rows that were inserted or updated, in the place of what was copied of them before; there are `unchanged` others, and `held`
    /// copies of earlier. Returns how many rows have been changed. What is not there any more goes first: the rows of one moment have no key
    /// twice, but those of two may.
    fn copy(
        &self,
        mover: &Mover,
        at: &Moment,
        to: pg::Oid,
        fresh: &[Place],
        unchanged: i64,
        held: i64,
    ) -> Result<i64, spi::Error> {
        let mut stale = held - unchanged;
        if stale > 0 {
            let Some(same_key) = self.same_key else {
                let (all, now) = (format!("SELECT n.ctid FROM ONLY {} AS n", self.target), Moment::now());
                let gone = self.drop_copies(mover, &now, to, &all)?;
                now.end();
                return Ok(gone + self.copy_all(mover, at)?);
            };
            let earlier = format!(
                "DELETE FROM ONLY {} AS n USING ONLY {} AS d WHERE d.ctid = ANY ($1) AND {same_key}",
                self.target, self.source
            );
            for places in fresh.chunks(BATCH) {
                stale -= mover.run(at, &earlier, &[moving::argument(places.to_vec())])?.0 as i64;
            }
            if stale > 0 {
                stale -= self.drop_gone(mover, at, to, same_key)?;
            }
            if stale != 0 {
                Error::Internal("rows that were copied could not be told from those that are gone").raise()
            }
        }
        for places in fresh.chunks(BATCH) {
            let copied = self.insert("d.ctid = ANY ($1)");
            if mover.run(at, &copied, &[moving::argument(places.to_vec())])?.0 != places.len() as u64 {
                Error::Internal("rows that were found could not be copied").raise()
            }
        }
        Ok(fresh.len() as i64 + held - unchanged)
    }

    /// Removes the copies whose rows are gone, or have got another key; returns how many.
    fn drop_gone(&self, mover: &Mover, at: &Moment, to: pg::Oid, same_key: &str) -> Result<i64, spi::Error> {
        let Statements { source, target, condition, .. } = self;
        let gone = format!(
            "SELECT n.ctid FROM ONLY {target} AS n
             WHERE NOT EXISTS (SELECT FROM ONLY {source} AS d WHERE {condition} AND {same_key})"
        );
        self.drop_copies(mover, at, to, &gone)
    }

    fn drop_copies(&self, mover: &Mover, at: &Moment, to: pg::Oid, which: &str) -> Result<i64, spi::Error> {
        let (copies, mut count) = (Heap::open(to), 0);
        mover.places(at, which, |places| {
            copies.remove(places);
            count += places.len() as i64;
            Ok(())
        })?;
        Ok(count)
    }

    /// Returns how many rows there are, and how many have been changed.
    fn catch_up(&self, mover: &Mover, known: &Copied, at: &Moment) -> Result<(i64, i64), spi::Error> {
        let heap = Heap::open(known.from);
        let mut unchanged = 0;
        let mut fresh: Vec<Place> = Vec::new();
        mover.places(at, &self.places(), |places| {
            let known = heap.split_at(&known.at, places);
            unchanged += known as i64;
            fresh.extend_from_slice(&places[known..]);
            Ok(())
        })?;
        let changes = self.copy(mover, at, known.to, &fresh, unchanged, known.rows)?;
        Ok((unchanged + fresh.len() as i64, changes))
    }

    /// Removes the rows where they came from, and copies before what has not been copied yet; returns how many there were.
    fn remove(&self, mover: &Mover, known: &Copied, at: &Moment) -> Result<i64, spi::Error> {
        let heap = Heap::open(known.from);
        let mut unchanged = 0;
        let mut fresh: Vec<Place> = Vec::new();
        mover.places(at, &self.places(), |places| {
            let known = heap.split_at(&known.at, places);
            heap.remove(&mut places[..known]);
            unchanged += known as i64;
            fresh.extend_from_slice(&places[known..]);
            Ok(())
        })?;
        // Of that moment, at which none had been removed.
        self.copy(mover, at, known.to, &fresh, unchanged, known.rows)?;
        heap.remove(&mut fresh);
        Ok(unchanged + fresh.len() as i64)
    }
}

/// The SQL that rows are moved by, as the functions below are given it.
struct Given {
    source: (pg::Oid, Text),
    target: (pg::Oid, Text),
    condition: Text,
    columns: Text,
    same_key: Option<Text>,
}

impl Given {
    fn new(
        source: pg::Oid,
        target: pg::Oid,
        condition: Text,
        columns: Text,
        same_key: Option<Text>,
    ) -> Given {
        let (source, target) = ((source, pg::qualified_name(source)), (target, pg::qualified_name(target)));
        Given { source, target, condition, columns, same_key }
    }

    fn with<T>(&self, work: impl FnOnce(&Statements) -> Result<T, spi::Error>) -> T {
        let same_key = self.same_key.as_ref().map(Text::to_utf8);
        work(&Statements {
            source: &self.source.1.to_utf8(),
            target: &self.target.1.to_utf8(),
            condition: &self.condition.to_utf8(),
            columns: &self.columns.to_utf8(),
            same_key: same_key.as_deref(),
        })
        .unwrap_or_else(|error| internal(error))
    }

    /// What was copied before, if anything was.
    fn known(&self) -> Option<Copied> {
        COPIED.take().filter(|copied| (copied.from, copied.to) == (self.source.0, self.target.0))
    }
}

/// Copies the rows of a table, an ordinary one or a partition, that meet a condition (on `d`) to another that is not in use, and that has
/// none others; called again, brings what it has copied up to what there is now. Returns how many rows it has copied, and removed, in doing so.
/// `columns` are copied; `same_key` tells of a row `n` of the other table and a row `d` that they have the same key; without it, all are
/// copied anew where some have been changed. As the owner of the first table, and without its policies. Volatile. For
/// `_tenancy.isolate_as`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn carry_rows(
    source: pg::Oid,
    target: pg::Oid,
    condition: Text,
    columns: Text,
    same_key: Option<Text>,
) -> i64 {
    let given = Given::new(source, target, condition, columns, same_key);
    let known = given.known();
    let (mover, at) = (Mover::of(source), Moment::now());
    let (rows, changes) = given.with(|statements| match &known {
        None => statements.copy_all(&mover, &at).map(|rows| (rows, rows)),
        Some(known) => statements.catch_up(&mover, known, &at),
    });
    if let Some(known) = known {
        known.at.end();
    }
    COPIED.set(Some(Copied { from: source, to: target, at, rows, level: xact::level() }));
    changes
}

/// Does the same for the last time, for rows that `carry_rows` has copied, and removes them where they came from, without any trigger or check;
/// returns how many it was. The caller has locked the table. Volatile. For `_tenancy.isolate_as`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn move_rows(
    source: pg::Oid,
    target: pg::Oid,
    condition: Text,
    columns: Text,
    same_key: Option<Text>,
) -> i64 {
    if !Heap::open(source).is_locked() {
        Error::Internal("rows of a table that is not locked cannot be moved").raise()
    }
    let given = Given::new(source, target, condition, columns, same_key);
    let Some(mut known) = given.known() else {
        Error::Internal("rows that were not copied cannot be removed").raise()
    };
    let mover = Mover::of(source);
    if given.same_key.is_none() {
        // What is gone is told by all that there is, so none may have been removed.
        let at = Moment::now();
        let rows = given.with(|statements| statements.catch_up(&mover, &known, &at)).0;
        std::mem::replace(&mut known.at, at).end();
        known.rows = rows;
    }
    let at = Moment::now();
    let removed = given.with(|statements| statements.remove(&mover, &known, &at));
    let counted = given.with(|statements| {
        mover.run(&at, &format!("SELECT count(*) FROM ONLY {} AS n", statements.target), &[])
    });
    at.end();
    known.at.end();
    let now = Moment::now();
    let left = given.with(|statements| {
        let Statements { source, condition, .. } = statements;
        let some = format!("SELECT FROM ONLY {source} AS d WHERE {condition} LIMIT 1");
        mover.run(&now, &format!("SELECT count(*) FROM ({some}) AS s"), &[])
    });
    now.end();
    if counted.1 != Some(removed) || left.1 != Some(0) {
        Error::Internal("rows that were copied are not those that were removed").raise()
    }
    removed
}

/// Adds a CHECK that is known to hold, by a command as ALTER TABLE takes it, without reading the table. The caller has locked the table.
/// Volatile. For `_tenancy.isolate_as`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn add_known_check(relation: pg::Oid, command: Text) {
    if !Heap::open(relation).is_locked() {
        Error::Internal("a table that is not locked cannot be given a CHECK").raise()
    }
    moving::add_known_check(relation, &command.to_utf8());
}

/// Runs a command that is no query as the owner of a table, as if policies were not forced on owners where asked for. Volatile. For
/// `_tenancy.isolate_as`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn run_as_owner(relation: pg::Oid, command: Text, is_unforced: bool) {
    let done = Mover::of(relation).command(&command.to_utf8(), is_unforced, &[]);
    done.unwrap_or_else(|error| internal(error));
}
