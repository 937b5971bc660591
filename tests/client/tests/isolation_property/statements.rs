//! The statements that an application sends, and their SQL.

use crate::model::{Kind, Table, Target};

#[derive(Clone, Copy, Debug)]
pub enum Given {
    /// The column is left out, so its default applies.
    Default,
    Tenant(usize),
    Null,
}

#[derive(Clone, Copy, Debug)]
pub enum Filter {
    All,
    Id(i32),
    AmountBelow(i32),
    /// Asks for a tenant's rows by name.
    Tenant(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Form {
    Plain,
    Cte,
    MaterializedCte,
    ForUpdate,
    Aggregate,
}

#[derive(Clone, Copy, Debug)]
pub enum Join {
    AccountsWithLines,
    CurrenciesWithPrices,
    CurrenciesWithoutAccount,
    /// A view with security_invoker over two tables.
    Overview,
}

#[derive(Clone, Copy, Debug)]
pub enum Matched {
    Update,
    Delete,
    Nothing,
}

/// A new row; `parent` is the account of a line.
#[derive(Clone, Copy, Debug)]
pub struct New {
    pub tenant: Given,
    pub id: i32,
    pub amount: i32,
    pub parent: i32,
}

#[derive(Clone, Debug)]
pub enum Statement {
    Insert {
        target: Target,
        new: New,
        returning: bool,
    },
    /// Two rows in one statement: both or none.
    InsertTwo {
        target: Target,
        new: New,
        second: New,
    },
    Upsert {
        target: Target,
        new: New,
        update: bool,
        returning: bool,
    },
    Merge {
        target: Target,
        new: New,
        matched: Matched,
    },
    Update {
        target: Target,
        filter: Filter,
        amount: i32,
        returning: bool,
    },
    /// Gives rows to a tenant, or to nobody.
    Move {
        target: Target,
        filter: Filter,
        to: Option<usize>,
    },
    /// Changes an id, which may move a row to another partition.
    Rekey {
        target: Target,
        from: i32,
        to: i32,
    },
    Delete {
        target: Target,
        filter: Filter,
        returning: bool,
    },
    /// Moves an event to the journal in one statement, a CTE that changes data.
    Archive {
        id: i32,
    },
    Select {
        target: Target,
        filter: Filter,
        form: Form,
    },
    Join(Join),
}

/// How tenants are written in a run: their ids, and the type of each table's tenant column.
#[derive(Clone, Debug)]
pub struct Layout {
    pub name: &'static str,
    pub ids: &'static [&'static str],
    pub types: [&'static str; 5],
}

impl Layout {
    /// The type of a table's tenant column.
    pub fn type_of(&self, table: Table) -> &'static str {
        match table {
            Table::Account => self.types[0],
            // The foreign key of a line includes the tenant, so both have one type.
            Table::Line => self.types[0],
            Table::Price => self.types[1],
            Table::Journal => self.types[2],
            Table::Event => self.types[3],
            Table::Asset | Table::Car => self.types[4],
            Table::Currency => "text",
        }
    }
}

pub enum Value {
    Number(i32),
    Tenant(Option<String>, &'static str),
}

/// A statement with its values beside it: `?` stands for each in turn.
pub struct Sql {
    pub text: String,
    pub values: Vec<Value>,
}

impl Sql {
    pub fn literal(&self) -> String {
        self.replaced(|_, value| match value {
            Value::Number(number) => format!("({number})"),
            Value::Tenant(Some(id), of) => format!("'{id}'::{of}"),
            Value::Tenant(None, of) => format!("NULL::{of}"),
        })
    }

    pub fn with_parameters(&self) -> String {
        self.replaced(|n, value| match value {
            Value::Number(_) => format!("(${n}::int4)"),
            Value::Tenant(_, of) => format!("(${n}::text)::{of}"),
        })
    }

    fn replaced(&self, with: impl Fn(usize, &Value) -> String) -> String {
        let mut parts = self.text.split('?');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for (n, (part, value)) in parts.zip(&self.values).enumerate() {
            out += &with(n + 1, value);
            out += part;
        }
        out
    }
}

struct Writer<'a> {
    layout: &'a Layout,
    values: Vec<Value>,
}

impl Writer<'_> {
    fn number(&mut self, number: i32) -> char {
        self.values.push(Value::Number(number));
        '?'
    }

    fn tenant(&mut self, tenant: Option<usize>, table: Table) -> char {
        let id = tenant.map(|tenant| self.layout.ids[tenant].to_owned());
        self.values.push(Value::Tenant(id, self.layout.type_of(table)));
        '?'
    }

    fn condition(&mut self, filter: Filter, table: Table) -> String {
        match filter {
            Filter::All => "true".to_owned(),
            Filter::Id(id) => format!("id = {}", self.number(id)),
            Filter::AmountBelow(bound) => format!("amount < {}", self.number(bound)),
            Filter::Tenant(_) if table.kind() == Kind::System => "true".to_owned(),
            Filter::Tenant(tenant) => format!("tenant_id = {}", self.tenant(Some(tenant), table)),
        }
    }

    fn columns(&self, table: Table, given: Given) -> String {
        let tenant = table.kind() != Kind::System && !matches!(given, Given::Default);
        let parent = table == Table::Line;
        format!(
            "{}id, amount{}",
            if tenant { "tenant_id, " } else { "" },
            if parent { ", account_id" } else { "" }
        )
    }

    /// The values for `columns`, in that order.
    fn row(&mut self, table: Table, new: New) -> String {
        let mut row = match new.tenant {
            _ if table.kind() == Kind::System => String::new(),
            Given::Default => String::new(),
            Given::Tenant(tenant) => format!("{}, ", self.tenant(Some(tenant), table)),
            Given::Null => format!("{}, ", self.tenant(None, table)),
        };
        row += &format!("{}, {}", self.number(new.id), self.number(new.amount));
        if table == Table::Line {
            row += &format!(", {}", self.number(new.parent));
        }
        row
    }
}

/// The columns that statements return: tenant, id, amount.
pub fn returned(target: Target) -> &'static str {
    match target.kind() {
        Kind::System => "NULL::text, id::text, amount::text",
        _ => "tenant_id::text, id::text, amount::text",
    }
}

fn returning(target: Target, wanted: bool) -> String {
    if wanted { format!(" RETURNING {}", returned(target)) } else { String::new() }
}

/// PostgreSQL has no INSERT INTO ONLY: an insertion never reaches a child.
fn insertable(target: Target) -> &'static str {
    if target == Target::OnlyAsset { "asset" } else { target.sql() }
}

impl Statement {
    pub fn returns_rows(&self) -> bool {
        match self {
            Statement::Insert { returning, .. }
            | Statement::Upsert { returning, .. }
            | Statement::Update { returning, .. }
            | Statement::Delete { returning, .. } => *returning,
            Statement::Archive { .. } | Statement::Select { .. } | Statement::Join(_) => true,
            _ => false,
        }
    }

    pub fn sql(&self, layout: &Layout) -> Sql {
        let mut w = Writer { layout, values: Vec::new() };
        let text = match *self {
            Statement::Insert { target, new, returning: wanted } => {
                let table = target.table();
                let (columns, row) = (w.columns(table, new.tenant), w.row(table, new));
                format!(
                    "INSERT INTO {} ({columns}) VALUES ({row}){}",
                    insertable(target),
                    returning(target, wanted)
                )
            }
            Statement::InsertTwo { target, new, second } => {
                let table = target.table();
                let second = New { tenant: second.tenant_like(new.tenant), ..second };
                let columns = w.columns(table, new.tenant);
                let (row, other) = (w.row(table, new), w.row(table, second));
                format!("INSERT INTO {} ({columns}) VALUES ({row}), ({other})", insertable(target))
            }
            Statement::Upsert { target, new, update, returning: wanted } => {
                let table = target.table();
                let (columns, row) = (w.columns(table, new.tenant), w.row(table, new));
                let key = if table.has_global_key() { "id" } else { "tenant_id, id" };
                let action = if update { "UPDATE SET amount = excluded.amount" } else { "NOTHING" };
                format!(
                    "INSERT INTO {} ({columns}) VALUES ({row}) ON CONFLICT ({key}) DO {action}{}",
                    insertable(target),
                    returning(target, wanted)
                )
            }
            Statement::Merge { target, new, matched } => {
                let (id, amount) = (w.number(new.id), w.number(new.amount));
                let action = match matched {
                    Matched::Update => "UPDATE SET amount = s.amount",
                    Matched::Delete => "DELETE",
                    Matched::Nothing => "DO NOTHING",
                };
                let parent = if target.table() == Table::Line {
                    (", account_id", format!(", {}", w.number(new.parent)))
                } else {
                    ("", String::new())
                };
                format!(
                    "MERGE INTO {} AS t USING (VALUES ({id}, {amount})) AS s(id, amount) ON t.id = s.id \
                     WHEN MATCHED THEN {action} \
                     WHEN NOT MATCHED THEN INSERT (id, amount{}) VALUES (s.id, s.amount{})",
                    target.sql(),
                    parent.0,
                    parent.1
                )
            }
            Statement::Update { target, filter, amount, returning: wanted } => {
                let amount = w.number(amount);
                let condition = w.condition(filter, target.table());
                format!(
                    "UPDATE {} SET amount = {amount} WHERE {condition}{}",
                    target.sql(),
                    returning(target, wanted)
                )
            }
            Statement::Move { target, filter, to } => {
                let to = w.tenant(to, target.table());
                let condition = w.condition(filter, target.table());
                format!("UPDATE {} SET tenant_id = {to} WHERE {condition}", target.sql())
            }
            Statement::Rekey { target, from, to } => {
                let (to, from) = (w.number(to), w.number(from));
                format!("UPDATE {} SET id = {to} WHERE id = {from}", target.sql())
            }
            Statement::Delete { target, filter, returning: wanted } => {
                let condition = w.condition(filter, target.table());
                format!("DELETE FROM {} WHERE {condition}{}", target.sql(), returning(target, wanted))
            }
            Statement::Archive { id } => format!(
                "WITH gone AS (DELETE FROM event WHERE id = {} RETURNING id, amount) \
                 INSERT INTO journal (id, amount) SELECT id, amount FROM gone RETURNING {}",
                w.number(id),
                returned(Target::Journal)
            ),
            Statement::Select { target, filter, form } => {
                let condition = w.condition(filter, target.table());
                let (from, columns) = (target.sql(), returned(target));
                match form {
                    Form::Plain => format!("SELECT {columns} FROM {from} WHERE {condition}"),
                    Form::Cte => {
                        format!("WITH c AS (SELECT * FROM {from}) SELECT {columns} FROM c WHERE {condition}")
                    }
                    Form::MaterializedCte => format!(
                        "WITH c AS MATERIALIZED (SELECT * FROM {from}) SELECT {columns} FROM c WHERE {condition}"
                    ),
                    Form::ForUpdate => format!("SELECT {columns} FROM {from} WHERE {condition} FOR UPDATE"),
                    Form::Aggregate => format!(
                        "SELECT count(*)::text, coalesce(sum(amount), 0)::text, max(id)::text \
                         FROM {from} WHERE {condition}"
                    ),
                }
            }
            Statement::Join(join) => match join {
                Join::AccountsWithLines => {
                    "SELECT a.id::text, l.id::text, l.amount::text FROM account a JOIN line l ON l.account_id = a.id"
                }
                Join::CurrenciesWithPrices => {
                    "SELECT c.id::text, p.tenant_id::text, p.amount::text \
                     FROM currency c LEFT JOIN price p ON p.id = c.id"
                }
                Join::CurrenciesWithoutAccount => {
                    "SELECT c.id::text FROM currency c WHERE NOT EXISTS (SELECT FROM account a WHERE a.id = c.id)"
                }
                Join::Overview => "SELECT id::text, lines::text FROM overview",
            }
            .to_owned(),
        };
        Sql { text, values: w.values }
    }
}

impl New {
    /// Rows of one VALUES list have the same columns.
    pub fn tenant_like(self, first: Given) -> Given {
        match (first, self.tenant) {
            (Given::Default, _) => Given::Default,
            (_, Given::Default) => first,
            (_, own) => own,
        }
    }
}
