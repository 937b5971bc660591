//! Index pushdown: which conditions of a query may reach an index before the policies of a protected table have been asked.
//!
//! Guarantees: only operators and functions that tell nothing of a row besides their result: those of `list`, and what a superuser has
//! added. Either is known by its symbol in the server or in a library, and not by its name, so that nothing can stand in its place.

pub mod list;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::guc;
use crate::pg::{
    self,
    index_pushdown::Judges,
    leakproof::Check,
    scan::{self, Cached},
};

// Columns of _tenancy.leakproof_operators.
const LIBRARY: i32 = 2;
const SYMBOL: i32 = 3;

/// A library, and a symbol in it.
type Symbol = (Vec<u8>, Vec<u8>);

thread_local! {
    static TABLE: Cached = const { Cached::new(c"leakproof_operators", c"leakproof_operators_pkey") };
    /// The functions of the operators that a superuser has added, and in which generation they were read.
    static ADDED: RefCell<Option<(u64, Rc<HashSet<Symbol>>)>> = const { RefCell::new(None) };
    /// A plan may depend on them.
    static IS_USED: Cell<bool> = const { Cell::new(false) };
}

pub fn init() {
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) && IS_USED.replace(false) {
            pg::leakproof::forget_trust();
            pg::planner::drop_plans();
        }
    });
    pg::leakproof::init(trust);
    pg::index_pushdown::init(Judges { indexes: guc::index_pushdown, policy: crate::context::OURS });
}

/// On what condition a function is trusted, if it is.
fn trust(library: &[u8], symbol: &[u8]) -> Option<Check> {
    list::find(library, symbol).or_else(|| is_added(library, symbol).then_some(Check::Nothing))
}

/// Whether a superuser has added an operator that has this function.
fn is_added(library: &[u8], symbol: &[u8]) -> bool {
    let added = added();
    !added.is_empty() && added.contains(&(library.to_vec(), symbol.to_vec()))
}

/// The functions of the operators that a superuser has added.
fn added() -> Rc<HashSet<Symbol>> {
    let generation = TABLE.with(Cached::generation);
    let known = ADDED.with_borrow(|added| {
        added.as_ref().filter(|(read, _)| *read == generation).map(|(_, found)| found.clone())
    });
    IS_USED.set(true);
    known.unwrap_or_else(|| {
        let text = |row: &scan::Row, column| row.text(column).map(|text| text.as_bytes().to_vec());
        let read = |row: &scan::Row| text(row, LIBRARY).zip(text(row, SYMBOL));
        let rows = TABLE.with(Cached::relations).map(|relations| scan::rows(relations, &[], read));
        let found = Rc::new(rows.into_iter().flatten().flatten().collect::<HashSet<_>>());
        ADDED.set(Some((generation, found.clone())));
        found
    })
}

/// The functions that are trusted as the extension comes: in which library (empty: the server's own), by which symbol, of which group, and what
/// is asked of their arguments. Immutable. For the view of them.
#[pg_extern(schema = "_tenancy", immutable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn leakproof_functions() -> TableIterator<
    'static,
    (
        name!(library, &'static str),
        name!(symbol, &'static str),
        name!(kind, &'static str),
        name!(condition, Option<&'static str>),
    ),
> {
    TableIterator::new(
        list::all().map(|entry| (entry.library, entry.symbol, entry.group, entry.check.condition())),
    )
}

impl Check {
    /// What is asked of the arguments, for people.
    fn condition(self) -> Option<&'static str> {
        match self {
            Check::Nothing => None,
            Check::Collation => Some("deterministic collation"),
            Check::Like => Some("pattern is a constant that is valid, deterministic collation"),
            Check::Regex => {
                Some("pattern is a constant without back references and lookaround, deterministic collation")
            }
            Check::Query | Check::QueryAt(_) => Some("value is a constant of at most 1000 bytes"),
            Check::Path => Some("path is a constant without variables, methods and like_regex"),
            Check::Array => Some("element type is compared by leakproof functions"),
            Check::Range => Some("subtype is compared by a leakproof function"),
        }
    }
}
