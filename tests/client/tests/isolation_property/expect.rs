//! What a statement must do: applied to the model, it gives the answer that the database must give.

use crate::model::{Kind, Row, Seen, State, Table, Target};
use crate::statements::{Filter, Form, Given, Join, Matched, New, Statement};

/// For whom a statement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    None,
    /// A tenant that is set, but suspended.
    LockedOut,
    Tenant(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    Null,
    Tenant(usize),
    Number(i64),
}

pub type Answer = Vec<Vec<Cell>>;

#[derive(Clone, Debug)]
pub enum Expected {
    /// These rows, in any order.
    Rows(Answer),
    /// So many rows changed.
    Count(usize),
    /// One of these SQLSTATEs.
    Fails(&'static [&'static str]),
}

const DENIED: &[&str] = &["42501"];
const NO_CONTEXT: &[&str] = &["55000"];
/// An audit table's guard and the missing context: whichever PostgreSQL comes to first.
const DENIED_OR_NO_CONTEXT: &[&str] = &["42501", "55000"];
const NOT_UNIQUE: &[&str] = &["23505"];
const REFERENCE: &[&str] = &["23503"];
const OUT_OF_PARTITION: &[&str] = &["23514"];

type Refused = &'static [&'static str];

fn cells(seen: Seen) -> Vec<Cell> {
    vec![seen.0.map_or(Cell::Null, Cell::Tenant), Cell::Number(seen.1.into()), Cell::Number(seen.2.into())]
}

pub fn answer(rows: &[Row]) -> Answer {
    rows.iter().map(|row| cells(row.seen())).collect()
}

fn matches(filter: Filter, target: Target, row: &Row) -> bool {
    match filter {
        Filter::All => true,
        Filter::Id(id) => row.id == id,
        Filter::AmountBelow(bound) => row.amount < bound,
        Filter::Tenant(tenant) => target.kind() == Kind::System || row.tenant == Some(tenant),
    }
}

/// The rows that a query can see.
pub fn visible(state: &State, target: Target, context: Context) -> Vec<Row> {
    match context {
        Context::Tenant(tenant) => state.visible(target, tenant),
        _ => state.ownerless(target),
    }
}

/// A change of the model, and who makes it.
struct Change<'a> {
    state: &'a mut State,
    context: Context,
}

impl State {
    /// Applies a statement; a refused one changes nothing.
    pub fn apply(&mut self, statement: &Statement, context: Context) -> Expected {
        if let Statement::Select { target, filter, form } = *statement {
            return select(self, target, filter, form, context);
        }
        if let Statement::Join(join) = *statement {
            let rows = join_rows(self, join, context);
            return without_context(context, rows);
        }
        let before = self.clone();
        match (Change { state: self, context }).make(statement) {
            Ok(rows) if statement.returns_rows() => Expected::Rows(answer(&rows)),
            Ok(rows) => Expected::Count(rows.len()),
            Err(codes) => {
                *self = before;
                Expected::Fails(codes)
            }
        }
    }
}

fn without_context(context: Context, rows: Answer) -> Expected {
    match context {
        Context::Tenant(_) => Expected::Rows(rows),
        _ => Expected::Fails(NO_CONTEXT),
    }
}

fn select(state: &State, target: Target, filter: Filter, form: Form, context: Context) -> Expected {
    let mut rows = visible(state, target, context);
    rows.retain(|row| matches(filter, target, row));
    if matches!(form, Form::ForUpdate) && target.kind() == Kind::Shared {
        // What is locked for an update must be what may be updated.
        rows.retain(|row| row.tenant.is_some());
    }
    let rows = match form {
        Form::Aggregate => vec![vec![
            Cell::Number(rows.len() as i64),
            Cell::Number(rows.iter().map(|row| i64::from(row.amount)).sum()),
            rows.iter().map(|row| row.id).max().map_or(Cell::Null, |id| Cell::Number(id.into())),
        ]],
        _ => answer(&rows),
    };
    if target.kind() == Kind::System { Expected::Rows(rows) } else { without_context(context, rows) }
}

fn join_rows(state: &State, join: Join, context: Context) -> Answer {
    let number = |number: i32| Cell::Number(number.into());
    let accounts = visible(state, Target::Account, context);
    let lines = visible(state, Target::Line, context);
    let currencies = visible(state, Target::Currency, context);
    match join {
        Join::AccountsWithLines => accounts
            .iter()
            .flat_map(|a| lines.iter().filter(|l| l.parent == a.id).map(|l| (a.id, l.id, l.amount)))
            .map(|(a, l, amount)| vec![number(a), number(l), number(amount)])
            .collect(),
        Join::CurrenciesWithPrices => {
            let prices = visible(state, Target::Price, context);
            let price = |id: i32| prices.iter().find(|p| p.id == id);
            currencies
                .iter()
                .map(|c| match price(c.id) {
                    Some(p) => {
                        vec![number(c.id), p.tenant.map_or(Cell::Null, Cell::Tenant), number(p.amount)]
                    }
                    None => vec![number(c.id), Cell::Null, Cell::Null],
                })
                .collect()
        }
        Join::CurrenciesWithoutAccount => currencies
            .iter()
            .filter(|c| !accounts.iter().any(|a| a.id == c.id))
            .map(|c| vec![number(c.id)])
            .collect(),
        Join::Overview => accounts
            .iter()
            .map(|a| vec![number(a.id), number(lines.iter().filter(|l| l.parent == a.id).count() as i32)])
            .collect(),
    }
}

impl Change<'_> {
    fn make(&mut self, statement: &Statement) -> Result<Vec<Row>, Refused> {
        match *statement {
            Statement::Insert { target, new, .. } => self.insert(target, new).map(|row| vec![row]),
            Statement::InsertTwo { target, new, second } => {
                let second = New { tenant: second.tenant_like(new.tenant), ..second };
                // References are checked when the statement ends; whoever may not write hears that first.
                let first = self.insert_unreferenced(target, new)?;
                let second = self.insert_unreferenced(target, second)?;
                self.check_reference(target.table(), first)?;
                self.check_reference(target.table(), second)?;
                Ok(vec![first, second])
            }
            Statement::Upsert { target, new, update, .. } => self.upsert(target, new, update),
            Statement::Merge { target, new, matched } => self.merge(target, new, matched),
            Statement::Update { target, filter, amount, .. } => {
                self.check_change(target)?;
                Ok(self.change(target, filter, |row| row.amount = amount))
            }
            Statement::Move { target, filter, to } => {
                self.check_change(target)?;
                let own = self.own();
                let moved = self.change(target, filter, |row| row.tenant = to);
                if moved.is_empty() || (to.is_some() && to == own) { Ok(moved) } else { Err(DENIED) }
            }
            Statement::Rekey { target, from, to } => self.rekey(target, from, to),
            Statement::Delete { target, filter, .. } => {
                self.check_change(target)?;
                Ok(self.delete(target, filter))
            }
            Statement::Archive { id } => {
                let gone = match self.context {
                    Context::Tenant(_) => self.delete(Target::Event, Filter::Id(id)),
                    _ => return Err(NO_CONTEXT),
                };
                let archive = |row: &Row| New { tenant: Given::Default, id, amount: row.amount, parent: 0 };
                gone.iter().map(|row| self.insert(Target::Journal, archive(row))).collect()
            }
            Statement::Select { .. } | Statement::Join(_) => unreachable!("changes nothing"),
        }
    }

    fn own(&self) -> Option<usize> {
        match self.context {
            Context::Tenant(tenant) => Some(tenant),
            _ => None,
        }
    }

    /// Whether rows of the relation may be changed at all.
    fn check_change(&self, target: Target) -> Result<(), Refused> {
        match (target.kind(), self.context) {
            (Kind::System, Context::None) => Ok(()),
            (Kind::System, _) => Err(DENIED),
            (Kind::Audit, Context::Tenant(_)) => Err(DENIED),
            (Kind::Audit, _) => Err(DENIED_OR_NO_CONTEXT),
            (_, Context::Tenant(_)) => Ok(()),
            (_, _) => Err(NO_CONTEXT),
        }
    }

    /// The tenant that a new row gets.
    fn check_new(&self, target: Target, given: Given) -> Result<Option<usize>, Refused> {
        if target.kind() == Kind::System {
            return if self.context == Context::None { Ok(None) } else { Err(DENIED) };
        }
        let own = self.own().ok_or(NO_CONTEXT)?;
        match given {
            Given::Default => Ok(Some(own)),
            Given::Tenant(tenant) if tenant == own => Ok(Some(own)),
            _ => Err(DENIED),
        }
    }

    fn check_reference(&self, table: Table, row: Row) -> Result<(), Refused> {
        let found = |account: &Row| account.tenant == row.tenant && account.id == row.parent;
        if table == Table::Line && !self.state.rows(Table::Account).iter().any(found) {
            return Err(REFERENCE);
        }
        Ok(())
    }

    fn insert_unreferenced(&mut self, target: Target, new: New) -> Result<Row, Refused> {
        let tenant = self.check_new(target, new.tenant)?;
        if !target.holds(new.id) {
            return Err(OUT_OF_PARTITION);
        }
        let table = target.table();
        if self.state.conflicting(table, tenant, new.id).is_some() {
            return Err(NOT_UNIQUE);
        }
        let row = Row { tenant, id: new.id, amount: new.amount, parent: new.parent };
        self.state.rows_mut(table).push(row);
        Ok(row)
    }

    fn insert(&mut self, target: Target, new: New) -> Result<Row, Refused> {
        let row = self.insert_unreferenced(target, new)?;
        self.check_reference(target.table(), row)?;
        Ok(row)
    }

    fn upsert(&mut self, target: Target, new: New, update: bool) -> Result<Vec<Row>, Refused> {
        if update && target.kind() == Kind::Audit {
            self.check_change(target)?;
        }
        let tenant = self.check_new(target, new.tenant)?;
        if !target.holds(new.id) {
            return Err(OUT_OF_PARTITION);
        }
        let table = target.table();
        match self.state.conflicting(table, tenant, new.id) {
            None => self.insert(target, new).map(|row| vec![row]),
            Some(_) if !update => Ok(vec![]),
            Some(at) => {
                let row = &mut self.state.rows_mut(table)[at];
                if row.tenant != tenant {
                    return Err(DENIED);
                }
                row.amount = new.amount;
                Ok(vec![*row])
            }
        }
    }

    fn merge(&mut self, target: Target, new: New, matched: Matched) -> Result<Vec<Row>, Refused> {
        match (target.kind(), matched) {
            // The insertion's guard speaks before anything is read.
            (Kind::System, _) => self.check_change(target)?,
            (Kind::Audit, Matched::Update | Matched::Delete) => self.check_change(target)?,
            _ => {}
        }
        if target.kind() != Kind::System && self.own().is_none() {
            return Err(NO_CONTEXT);
        }
        let seen = visible(self.state, target, self.context);
        let found: Vec<Row> = seen.into_iter().filter(|row| row.id == new.id).collect();
        if found.is_empty() {
            return self.insert(target, New { tenant: Given::Default, ..new }).map(|row| vec![row]);
        }
        let foreign = target.kind() == Kind::Shared && found.iter().any(|row| row.tenant.is_none());
        match matched {
            Matched::Nothing => Ok(vec![]),
            _ if foreign => Err(DENIED),
            Matched::Update => Ok(self.change(target, Filter::Id(new.id), |row| row.amount = new.amount)),
            Matched::Delete => Ok(self.delete(target, Filter::Id(new.id))),
        }
    }

    /// Whether the row is one that an update or a deletion reaches.
    fn reaches(&self, target: Target, filter: Filter, row: &Row) -> bool {
        let own = target.kind() == Kind::System || row.tenant == self.own();
        own && target.holds(row.id) && matches(filter, target, row)
    }

    fn change(&mut self, target: Target, filter: Filter, to: impl Fn(&mut Row)) -> Vec<Row> {
        let mut changed = Vec::new();
        for &table in target.tables() {
            for at in 0..self.state.rows(table).len() {
                if self.reaches(target, filter, &self.state.rows(table)[at]) {
                    let row = &mut self.state.rows_mut(table)[at];
                    to(row);
                    changed.push(*row);
                }
            }
        }
        changed
    }

    fn delete(&mut self, target: Target, filter: Filter) -> Vec<Row> {
        let mut gone = Vec::new();
        for &table in target.tables() {
            let rows = self.state.rows(table).clone();
            let (reached, kept) = rows.into_iter().partition(|row| self.reaches(target, filter, row));
            *self.state.rows_mut(table) = kept;
            gone.extend::<Vec<Row>>(reached);
        }
        if target.table() == Table::Account {
            let orphan = |l: &Row| gone.iter().any(|a| a.tenant == l.tenant && a.id == l.parent);
            self.state.rows_mut(Table::Line).retain(|line| !orphan(line));
        }
        gone
    }

    fn rekey(&mut self, target: Target, from: i32, to: i32) -> Result<Vec<Row>, Refused> {
        self.check_change(target)?;
        let found = self.change(target, Filter::Id(from), |_| ());
        if found.is_empty() || from == to {
            return Ok(found);
        }
        if !target.holds(to) {
            return Err(OUT_OF_PARTITION);
        }
        for &table in target.tables() {
            let here = |row: &&Row| self.reaches(target, Filter::Id(from), row);
            let Some(&row) = self.state.rows(table).iter().find(here) else { continue };
            if self.state.conflicting(table, row.tenant, to).is_some() {
                return Err(NOT_UNIQUE);
            }
        }
        let own = self.own();
        let referenced = |line: &Row| line.tenant == own && line.parent == from;
        if target.table() == Table::Account && self.state.rows(Table::Line).iter().any(referenced) {
            return Err(REFERENCE);
        }
        Ok(self.change(target, Filter::Id(from), |row| row.id = to))
    }
}
