//! What the database must hold and show: an in-memory model that knows nothing of row-level security.

use std::fmt;

/// A table as the model keeps it. Partitions are part of `Event`, the inheritance child is `Car`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Account,
    Line,
    Price,
    Journal,
    Event,
    Asset,
    Car,
    Currency,
}
pub const TABLES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tenant,
    Shared,
    Audit,
    System,
}

impl Table {
    pub fn kind(self) -> Kind {
        match self {
            Table::Price => Kind::Shared,
            Table::Journal => Kind::Audit,
            Table::Currency => Kind::System,
            _ => Kind::Tenant,
        }
    }

    /// Whether its key is the id alone, so that the rows of two tenants can collide.
    pub fn has_global_key(self) -> bool {
        matches!(self, Table::Account | Table::Price | Table::Currency)
    }
}

/// Ids below are in the first partition.
pub const PARTITION_BOUND: i32 = 6;

/// A relation that statements name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Account,
    AccountView,
    Line,
    Price,
    Journal,
    Event,
    LowPartition,
    HighPartition,
    Asset,
    OnlyAsset,
    Car,
    Currency,
}

impl Target {
    pub const ALL: [Target; 12] = [
        Target::Account,
        Target::AccountView,
        Target::Line,
        Target::Price,
        Target::Journal,
        Target::Event,
        Target::LowPartition,
        Target::HighPartition,
        Target::Asset,
        Target::OnlyAsset,
        Target::Car,
        Target::Currency,
    ];

    pub fn sql(self) -> &'static str {
        match self {
            Target::Account => "account",
            Target::AccountView => "account_view",
            Target::Line => "line",
            Target::Price => "price",
            Target::Journal => "journal",
            Target::Event => "event",
            Target::LowPartition => "event_low",
            Target::HighPartition => "event_high",
            Target::Asset => "asset",
            Target::OnlyAsset => "ONLY asset",
            Target::Car => "car",
            Target::Currency => "currency",
        }
    }

    /// The table that an insertion reaches.
    pub fn table(self) -> Table {
        match self {
            Target::Account | Target::AccountView => Table::Account,
            Target::Line => Table::Line,
            Target::Price => Table::Price,
            Target::Journal => Table::Journal,
            Target::Event | Target::LowPartition | Target::HighPartition => Table::Event,
            Target::Asset | Target::OnlyAsset => Table::Asset,
            Target::Car => Table::Car,
            Target::Currency => Table::Currency,
        }
    }

    /// The tables that a query reads, an update changes and a deletion empties.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Target::Account | Target::AccountView => &[Table::Account],
            Target::Line => &[Table::Line],
            Target::Price => &[Table::Price],
            Target::Journal => &[Table::Journal],
            Target::Event | Target::LowPartition | Target::HighPartition => &[Table::Event],
            Target::Asset => &[Table::Asset, Table::Car],
            Target::OnlyAsset => &[Table::Asset],
            Target::Car => &[Table::Car],
            Target::Currency => &[Table::Currency],
        }
    }

    /// Whether a row of that id can be in it.
    pub fn holds(self, id: i32) -> bool {
        match self {
            Target::LowPartition => id < PARTITION_BOUND,
            Target::HighPartition => id >= PARTITION_BOUND,
            _ => true,
        }
    }

    pub fn kind(self) -> Kind {
        self.table().kind()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// None means for everybody, or that the table has no tenants.
    pub tenant: Option<usize>,
    pub id: i32,
    pub amount: i32,
    /// The account of a line.
    pub parent: i32,
}

/// What clients see of a row: tenant, id, amount.
pub type Seen = (Option<usize>, i32, i32);

impl Row {
    pub fn seen(&self) -> Seen {
        (self.tenant, self.id, self.amount)
    }
}

/// Everything that a rollback restores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    tables: [Vec<Row>; TABLES],
    /// The tenant set with SET.
    session: Option<usize>,
    /// The tenant set with SET LOCAL, if that came later.
    local: Option<Option<usize>>,
}

impl State {
    /// What the superuser writes before each sequence: rows for everybody, system data, and two rows of each
    /// tenant in each of its tables.
    pub fn seeded(tenants: usize) -> State {
        let mut state = State::default();
        for id in 0..3 {
            state.rows_mut(Table::Price).push(Row { tenant: None, id, amount: 10 + id, parent: 0 });
            state.rows_mut(Table::Currency).push(Row { tenant: None, id, amount: 20 + id, parent: 0 });
        }
        let mine = [Table::Account, Table::Line, Table::Journal, Table::Event, Table::Asset, Table::Car];
        for (tenant, table) in (0..tenants).flat_map(|tenant| mine.map(|table| (tenant, table))) {
            // Ids that are unique among tenants, and one on each side of the partitions' bound.
            for id in [tenant as i32, PARTITION_BOUND + tenant as i32] {
                let amount = 30 + 10 * tenant as i32 + id;
                state.rows_mut(table).push(Row { tenant: Some(tenant), id, amount, parent: id });
            }
        }
        state
    }

    pub fn rows(&self, table: Table) -> &Vec<Row> {
        &self.tables[table as usize]
    }

    pub fn rows_mut(&mut self, table: Table) -> &mut Vec<Row> {
        &mut self.tables[table as usize]
    }

    pub fn named(&self) -> Option<usize> {
        self.local.unwrap_or(self.session)
    }

    pub fn set(&mut self, tenant: Option<usize>, is_local: bool) {
        if is_local {
            self.local = Some(tenant);
        } else {
            self.session = tenant;
            self.local = None;
        }
    }

    pub fn end_of_transaction(&mut self) {
        self.local = None;
    }

    /// The row that a new row of that tenant and id would collide with.
    pub fn conflicting(&self, table: Table, tenant: Option<usize>, id: i32) -> Option<usize> {
        self.rows(table)
            .iter()
            .position(|row| row.id == id && (table.has_global_key() || row.tenant == tenant))
    }

    /// What a tenant sees of a relation.
    pub fn visible(&self, target: Target, tenant: usize) -> Vec<Row> {
        self.rows_where(target, |row| row.tenant == Some(tenant) || row.tenant.is_none())
    }

    /// What is for everybody.
    pub fn ownerless(&self, target: Target) -> Vec<Row> {
        self.rows_where(target, |row| row.tenant.is_none())
    }

    fn rows_where(&self, target: Target, wanted: impl Fn(&Row) -> bool) -> Vec<Row> {
        let tables = target.tables().iter().flat_map(|&table| self.rows(table));
        tables.filter(|row| wanted(row) && target.holds(row.id)).copied().collect()
    }
}

/// How the database differed from the model.
#[derive(Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}
