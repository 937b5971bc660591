//! Random sequences of what an application does, and what an administrator does meanwhile.

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::Target;
use crate::statements::{Filter, Form, Given, Join, Matched, New, Statement};

#[derive(Clone, Copy, Debug)]
pub enum Switch {
    /// SET LOCAL
    Local(usize),
    /// SET
    Session(usize),
    /// tenancy.set_tenant
    Function {
        tenant: usize,
        is_local: bool,
    },
    /// tenancy.clear_tenant
    Clear,
    Reset,
}

#[derive(Clone, Debug)]
pub enum Step {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    /// To one of the savepoints there are, counted from the newest.
    RollbackTo(usize),
    Release(usize),
    Switch(Switch),
    PlanCacheMode(&'static str),
    /// `guarded`: in a savepoint of its own, so that an error costs nothing else.
    Run {
        statement: Statement,
        prepared: bool,
        guarded: bool,
    },
    OpenCursor(Target),
    Fetch(usize),
    CloseCursor,
    /// DISCARD ALL, as a pooler sends it between two clients.
    Discard,
    /// By an administrator in another session.
    Suspend(usize),
    Resume(usize),
}

fn id() -> impl Strategy<Value = i32> {
    0..12i32
}

fn amount() -> impl Strategy<Value = i32> {
    0..100i32
}

fn target() -> impl Strategy<Value = Target> {
    select(Target::ALL.to_vec())
}

fn target_where(wanted: fn(Target) -> bool) -> impl Strategy<Value = Target> {
    select(Target::ALL.into_iter().filter(|&target| wanted(target)).collect::<Vec<_>>())
}

fn with_tenant() -> impl Strategy<Value = Target> {
    target_where(|target| target != Target::Currency)
}

fn filter(tenants: usize) -> impl Strategy<Value = Filter> {
    prop_oneof![
        2 => Just(Filter::All),
        4 => id().prop_map(Filter::Id),
        2 => amount().prop_map(Filter::AmountBelow),
        1 => (0..tenants).prop_map(Filter::Tenant),
    ]
}

/// Deletions of everything would leave little to find.
fn narrow(tenants: usize) -> impl Strategy<Value = Filter> {
    prop_oneof![
        6 => id().prop_map(Filter::Id),
        2 => (0..20i32).prop_map(Filter::AmountBelow),
        1 => (0..tenants).prop_map(Filter::Tenant),
    ]
}

fn given(tenants: usize) -> impl Strategy<Value = Given> {
    prop_oneof![
        6 => Just(Given::Default),
        3 => (0..tenants).prop_map(Given::Tenant),
        1 => Just(Given::Null),
    ]
}

fn new(tenants: usize) -> impl Strategy<Value = New> {
    (given(tenants), id(), amount(), id()).prop_map(|(tenant, id, amount, parent)| New {
        tenant,
        id,
        amount,
        parent,
    })
}

fn statement(tenants: usize) -> impl Strategy<Value = Statement> {
    let form = select(vec![Form::Plain, Form::Cte, Form::MaterializedCte, Form::ForUpdate, Form::Aggregate]);
    let plain = select(vec![Form::Plain, Form::Cte, Form::MaterializedCte, Form::Aggregate]);
    let join = select(vec![
        Join::AccountsWithLines,
        Join::CurrenciesWithPrices,
        Join::CurrenciesWithoutAccount,
        Join::Overview,
    ]);
    let matched = select(vec![Matched::Update, Matched::Update, Matched::Delete, Matched::Nothing]);
    // PostgreSQL merges into views from 17 on.
    let mergeable = target_where(|target| target != Target::AccountView);
    let rekeyable = target_where(|target| target != Target::Line);
    prop_oneof![
        8 => (target(), new(tenants), any::<bool>())
            .prop_map(|(target, new, returning)| Statement::Insert { target, new, returning }),
        2 => (target(), new(tenants), new(tenants))
            .prop_map(|(target, new, second)| Statement::InsertTwo { target, new, second }),
        4 => (target(), new(tenants), any::<bool>(), any::<bool>())
            .prop_map(|(target, new, update, returning)| Statement::Upsert { target, new, update, returning }),
        3 => (mergeable, new(tenants), matched)
            .prop_map(|(target, new, matched)| Statement::Merge { target, new, matched }),
        4 => (target(), filter(tenants), amount(), any::<bool>()).prop_map(
            |(target, filter, amount, returning)| Statement::Update { target, filter, amount, returning }
        ),
        2 => (with_tenant(), narrow(tenants), proptest::option::weighted(0.9, 0..tenants))
            .prop_map(|(target, filter, to)| Statement::Move { target, filter, to }),
        2 => (rekeyable, id(), id()).prop_map(|(target, from, to)| Statement::Rekey { target, from, to }),
        2 => (target(), narrow(tenants), any::<bool>())
            .prop_map(|(target, filter, returning)| Statement::Delete { target, filter, returning }),
        1 => id().prop_map(|id| Statement::Archive { id }),
        4 => (with_tenant(), filter(tenants), form)
            .prop_map(|(target, filter, form)| Statement::Select { target, filter, form }),
        1 => (Just(Target::Currency), filter(tenants), plain)
            .prop_map(|(target, filter, form)| Statement::Select { target, filter, form }),
        3 => join.prop_map(Statement::Join),
    ]
}

fn switch(tenants: usize) -> impl Strategy<Value = Switch> {
    prop_oneof![
        8 => (0..tenants).prop_map(Switch::Local),
        4 => (0..tenants).prop_map(Switch::Session),
        4 => (0..tenants, any::<bool>()).prop_map(|(tenant, is_local)| Switch::Function { tenant, is_local }),
        1 => Just(Switch::Clear),
        1 => Just(Switch::Reset),
    ]
}

fn step(tenants: usize) -> impl Strategy<Value = Step> {
    let mode = select(vec!["auto", "force_generic_plan", "force_custom_plan"]);
    prop_oneof![
        4 => Just(Step::Begin),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        3 => Just(Step::Savepoint),
        2 => (0..3usize).prop_map(Step::RollbackTo),
        1 => (0..3usize).prop_map(Step::Release),
        9 => switch(tenants).prop_map(Step::Switch),
        1 => mode.prop_map(Step::PlanCacheMode),
        // Mostly guarded: an error that ends the transaction ends what came before it, too.
        30 => (statement(tenants), any::<bool>(), proptest::bool::weighted(0.8))
            .prop_map(|(statement, prepared, guarded)| Step::Run { statement, prepared, guarded }),
        4 => target().prop_map(Step::OpenCursor),
        6 => (1..4usize).prop_map(Step::Fetch),
        1 => Just(Step::CloseCursor),
        1 => Just(Step::Discard),
        1 => (0..tenants).prop_map(Step::Suspend),
        4 => (0..tenants).prop_map(Step::Resume),
    ]
}

pub fn sequence(tenants: usize, length: usize) -> impl Strategy<Value = Vec<Step>> {
    // Sequences begin in a tenant's context, as applications do.
    let begin = (0..tenants).prop_map(|tenant| Step::Switch(Switch::Session(tenant)));
    (begin, prop::collection::vec(step(tenants), length / 2..=length)).prop_map(|(first, mut steps)| {
        steps.insert(0, first);
        steps
    })
}
