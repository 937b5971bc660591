//! For which tenant does the current statement run?
//!
//! Guarantees: the tenant is what the parameters `tenancy.cross_tenant`, `tenancy.token` and `tenancy.tenant_id` say, in this order, and
//! nothing else (they roll back with savepoints, reach parallel workers, and `DISCARD ALL` clears them); it is confirmed against the
//! registry at its first use in a transaction and after every change of parameter or registry.
//! Does not decide who may set it: PostgreSQL does (`GRANT SET ON PARAMETER`).

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

pub mod api;

use crate::error::Error;
use crate::guard;
use crate::guc::{self, BypassGuard, MissingTenant, Mode, Seal, SessionContext};
use crate::member;
use crate::pg::{
    self,
    accessor::{Form, Resolved},
    guc::{Assigned, Refusal, Source},
    hook::{self, Judges},
    running,
    setter::Request,
    statement::Statement,
    text::Text,
    token::Given,
};
use crate::registry::{self, Status};
use crate::scope;
use crate::statistics;
use crate::tenant::TenantId;
use crate::token::{self, Identity};

/// The policy by which a protected table is known.
pub const OURS: &CStr = c"tenancy_isolation";

/// The longest id of a user, in bytes: that of `_tenancy.users`. A pooler is told of it, and libpq takes no message of 30,000 bytes.
pub const LONGEST_USER: usize = 255;

/// The number of a transaction that no backend reaches: a value with it was given in an earlier transaction.
const EARLIER: u64 = 0;

struct Changes {
    /// The tenant that was found good to be set, just now.
    checked: Option<TenantId>,
    /// The tenant that was assigned last.
    last: Option<TenantId>,
}

thread_local! {
    /// The first tenant that this transaction set or used.
    static FIRST: Cell<Option<TenantId>> = const { Cell::new(None) };
    static CHANGES: RefCell<Changes> = const { RefCell::new(Changes { checked: None, last: None }) };
    /// `tenancy.seal()` was called in this transaction.
    static SEALED: Cell<bool> = const { Cell::new(false) };
    /// The library was loaded in this transaction, which may have been in any tenant before.
    static UNSEALABLE: Cell<bool> = const { Cell::new(false) };
    /// A start-up option that the role may not give has taken the place of what the role or the database sets.
    static OVERRIDDEN: Cell<bool> = const { Cell::new(false) };
    /// While the library is loaded late: what `SET` left in `tenancy.tenant_id`, and in `tenancy.token`, is from an earlier transaction.
    static LEFT_OVER: Cell<(bool, bool)> = const { Cell::new((false, false)) };
    /// The token that was used up, while it is being set for that.
    static USING: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// The parameters that the connection's start-up packet names, as they were before the library was loaded.
pub struct Named([bool; guc::PRIVILEGED.len()]);

/// To be called before the parameters are defined.
pub fn init() -> Named {
    pg::guc::init(check, check_user, assign);
    pg::accessor::init(resolve, find, note_use, api::deny_write);
    pg::setter::init(requested, || {
        if let Err(error) = refuse_in_scope(Source::Session) {
            error.raise()
        }
    });
    pg::token::init(check_token);
    pg::scope::init(check_scope, confirm_scope);
    pg::xact::listen(|event| {
        if event.is_end() {
            FIRST.set(None);
            USING.set(None);
            SEALED.set(false);
            UNSEALABLE.set(false);
            pg::accessor::forget();
            registry::trim();
        }
    });
    hook::init(Judges {
        statement: judge,
        touch,
        is_guarding: || guc::bypass_guard() != BypassGuard::Off,
        bypass: |table, is_refused| {
            let name = pg::relation_name(table);
            if is_refused {
                Error::Bypassed(&name).raise()
            } else if !guard::is_moving(None) {
                bypassed(&name)
            }
        },
        older: || Error::Moved.raise(),
        late: || Error::PlannedEarly.raise(),
        policy: OURS,
    });
    let is_left_over = pg::guc::is_left_over;
    LEFT_OVER.set((is_left_over(c"tenancy.tenant_id"), is_left_over(c"tenancy.token")));
    UNSEALABLE.set(pg::xact::in_transaction());
    Named(guc::PRIVILEGED.map(pg::guc::is_from_client))
}

/// To be called when the parameters are defined, and what a session had set before has been judged.
pub fn ready(named: Named) {
    LEFT_OVER.set((false, false));
    let refused = |(name, given): (&CStr, bool)| given && !pg::guc::is_from_client(name);
    OVERRIDDEN.set(guc::PRIVILEGED.into_iter().zip(named.0).any(refused));
}

/// Whether the transaction may run for no tenant but its first.
fn is_sealed() -> bool {
    SEALED.get() || guc::seal() == Seal::Transaction
}

fn refusal(error: Error) -> Refusal {
    let (message, detail, hint) = error.texts();
    Refusal { sqlstate: error.sqlstate(), message, detail, hint }
}

/// Judges a value of a parameter that holds a tenant id; form and seal only, because it may be called outside
/// a transaction.
fn check(value: &[u8], source: Source, takes_effect: bool) -> Result<Assigned, Refusal> {
    let mut assigned = Assigned { id: TenantId::NONE, source, transaction: EARLIER };
    assigned.id.read(value).map_err(|malformed| refusal(Error::IdInvalid(malformed)))?;
    if takes_effect {
        refuse_in_scope(source).map_err(refusal)?;
        judge_change(&assigned.id, source).map_err(refusal)?;
    }
    if !LEFT_OVER.get().0 {
        assigned.transaction = pg::xact::number();
    }
    Ok(assigned)
}

/// Judges a value of `tenancy.user_id`.
fn check_user(value: &[u8]) -> Result<(), Refusal> {
    if value.len() > LONGEST_USER {
        Err(refusal(Error::Argument("tenancy.user_id", "must have up to 255 bytes")))
    } else {
        Ok(())
    }
}

/// Judges a value of `tenancy.token`, which is verified where that can be done: see `pg::token`.
fn check_token(text: &[u8], source: Source, takes_effect: bool) -> Result<Given, Refusal> {
    if !takes_effect {
        return Err(refusal(Error::TokenKept));
    }
    let is_another = || !pg::token::is_given() || !pg::token::with_text(|given| given == text);
    let mut tenant = None;
    if pg::in_parallel_worker() {
        if pg::is_in_parallel_mode() && is_another() {
            return Err(refusal(Error::ChangedInStatement));
        }
    } else if pg::xact::in_transaction() {
        refuse_in_scope(source).map_err(refusal)?;
        let identity = token::verified(text).map_err(refusal)?;
        judge_change(&identity.tenant, source).map_err(refusal)?;
        tenant = Some(identity.tenant);
    }
    let transaction = if LEFT_OVER.get().1 { EARLIER } else { pg::xact::number() };
    Ok(Given {
        tenant,
        source,
        transaction,
        is_used: USING.with_borrow(|using| using.as_deref() == Some(text)),
    })
}

/// Judges a value of `tenancy.cross_tenant`.
fn check_scope(text: &[u8], source: Source, takes_effect: bool) -> Result<pg::scope::Given, Refusal> {
    let scope = match pg::in_parallel_worker() {
        true if takes_effect && !pg::is_in_parallel_mode() => scope::Scope::parse(text),
        true => None,
        false => scope::is_beginning(text).filter(|_| takes_effect && source == Source::Session),
    };
    let Some(scope) = scope else { return Err(refusal(Error::ScopeByHand)) };
    let id = TenantId::scope(scope.number);
    judge_change(&id, source).map_err(refusal)?;
    Ok(pg::scope::Given {
        assigned: Assigned { id, source, transaction: pg::xact::number() },
        number: scope.number,
        is_read_only: scope.is_read_only,
    })
}

/// Raises unless the statement runs in the scope of that number.
fn confirm_scope(number: i64) {
    match confirmed() {
        Ok(Some((id, _))) if id == TenantId::scope(number) => {}
        Ok(_) => Error::ScopeOver("ended").raise(),
        Err(error) => error.raise(),
    }
}

/// Whether the session is in a scope of several tenants.
pub fn is_crossing() -> bool {
    pg::scope::is_given()
}

/// What is set in a scope would have no effect until it ends, and whoever set it would not know.
fn refuse_in_scope(source: Source) -> Result<(), Error<'static>> {
    let is_asked = source == Source::Session && !pg::in_parallel_worker();
    if is_asked && !abandons_scope() { Err(Error::SetInScope) } else { Ok(()) }
}

/// Leaves a scope that is over: whoever goes on after it, as the next client of a pooler's connection, should not have to. Returns
/// whether the session is in none now.
pub fn abandons_scope() -> bool {
    if is_crossing() && pg::xact::in_transaction() && (is_stale() || scope::confirm().is_err()) {
        // As PostgreSQL sets one parameter where another changes: workers are to know.
        scope::leave(false);
    }
    !is_crossing()
}

/// Refuses a tenant that the transaction may not run for.
fn refuse_sealed(id: &TenantId) -> Result<(), Error<'static>> {
    if is_sealed()
        && let Some(first) = FIRST.get()
        && first != *id
    {
        return Err(Error::Sealed(first));
    }
    Ok(())
}

/// Judges a change of the tenant.
fn judge_change(id: &TenantId, source: Source) -> Result<(), Error<'static>> {
    let is_another = || !pg::guc::names(id);
    if pg::in_parallel_worker() {
        // What its leader has handed over comes before that.
        if pg::is_in_parallel_mode() && is_another() {
            return Err(Error::ChangedInStatement);
        }
    } else if source == Source::Session {
        refuse_sealed(id)?;
        if pg::distribute::is_set_by_function() {
            return Err(Error::ChangedOnNode);
        }
        if is_another() && (pg::is_in_parallel_mode() || running::refuses(id)) {
            return Err(Error::ChangedInStatement);
        }
        CHANGES.with_borrow_mut(|changes| changes.checked = Some(*id));
    }
    Ok(())
}

/// Notes the first tenant that a transaction sets. What rollback or commit restores is not of this transaction; but inside a
/// statement it is a change of the tenant that `check` is not asked about.
fn assign(value: Option<&Assigned>) {
    let id = value.map(|value| &value.id);
    let (was_asked, is_another) = CHANGES.with_borrow_mut(|changes| {
        let was_asked = id.is_some() && changes.checked.as_ref() == id;
        changes.checked = None;
        (was_asked, changes.last.as_ref() != id)
    });
    if is_another {
        if let Some(id) = id {
            statistics::follow(id);
        }
        CHANGES.with_borrow_mut(|changes| {
            running::note_change(changes.last.as_ref(), id, was_asked);
            changes.last = id.copied();
        });
    }
    if let Some(value) = value
        && value.source == Source::Session
        && value.transaction == pg::xact::number()
        && value.id != TenantId::NONE
        && FIRST.get().is_none()
    {
        FIRST.set(Some(value.id));
    }
}

/// Sees to it that a token that is given is good now, and not for another tenant than `tenancy.tenant_id`; whom it speaks for.
fn confirm_token() -> Result<Option<Rc<Identity>>, Error<'static>> {
    let Some(given) = pg::token::given() else { return Ok(None) };
    let identity = pg::token::with_text(token::verified)?;
    // A worker is not told, and its leader has asked.
    if identity.is_single_use && !given.is_used && !pg::in_parallel_worker() {
        return Err(Error::TokenInvalid("it is good for one use only, by tenancy.authenticate()"));
    }
    match given.tenant {
        Some(tenant) if tenant != identity.tenant => {
            return Err(Error::TokenInvalid("its issuer now names another tenant"));
        }
        Some(_) => {}
        None => pg::token::note_tenant(identity.tenant),
    }
    match pg::guc::by_id() {
        Some(other) if other.id != identity.tenant => Err(Error::TokenOfAnother),
        _ => Ok(Some(identity)),
    }
}

/// Until dropped, by an error as well.
struct Using;

impl Drop for Using {
    fn drop(&mut self) {
        USING.set(None);
    }
}

/// Sets `tenancy.token`. `is_used`: it is good for one use, and was used up for this.
pub fn set_token(text: &[u8], is_local: bool, is_used: bool) {
    let _using = Using;
    USING.set(is_used.then(|| text.into()));
    pg::setter::set_token(text, is_local);
}

/// The user on whose behalf the session runs its statements: that of the token, or of `tenancy.user_id`.
pub fn user_id() -> Option<Text> {
    if !pg::token::is_given() {
        return guc::user_id();
    }
    pg::token::with_text(token::identity).ok().and_then(|identity| identity.user.clone())
}

/// The tenant that the parameters name, confirmed by nobody.
fn named() -> Result<Option<TenantId>, Error<'static>> {
    match pg::guc::assigned() {
        Some(assigned) => Ok(Some(assigned.id)),
        None if guc::mode() == Mode::Single => match guc::default_tenant() {
            Some(id) => TenantId::parse(id.as_bytes()).map(Some).map_err(Error::IdInvalid),
            None => Ok(None),
        },
        None => Ok(None),
    }
}

/// The tenant that the context names, whether it is there or not; none in a scope of several.
pub fn named_tenant() -> Option<TenantId> {
    named().ok().flatten().filter(|id| !id.is_scope())
}

/// Whether `tenancy.session_context` refuses the context.
fn is_stale() -> bool {
    let Some(assigned) = pg::guc::assigned() else { return false };
    let earlier = assigned.source == Source::Session && assigned.transaction != pg::xact::number();
    earlier && guc::session_context() == SessionContext::Refuse && !pg::in_parallel_worker()
}

/// The tenant that the current statement runs for, and its forms: named, not refused, sealed to no other, registered, active. For a scope of several, no forms.
fn confirm() -> Result<Option<(TenantId, Resolved)>, Error<'static>> {
    if OVERRIDDEN.get() {
        return Err(Error::Overridden);
    }
    let identity = confirm_token()?;
    if running::is_changed() {
        return Err(Error::ChangedInStatement);
    }
    if is_stale() {
        return Err(Error::ContextStale);
    }
    let Some(id) = named()? else { return Ok(None) };
    if UNSEALABLE.get() && guc::seal() == Seal::Transaction {
        return Err(Error::Unsealable(id));
    }
    refuse_sealed(&id)?;
    if id.is_scope() {
        return scope::confirm().map(|()| Some((id, Resolved::None)));
    }
    // Forms may be those of the last tenant that was asked about: nothing below asks about another.
    let (standing, forms) = registry::entered(&id)?;
    if standing.status != Status::Active && !guard::is_moving(Some(&id)) {
        return Err(Error::NotActive(id, standing.status.as_str()));
    }
    let by = |what: fn(&Identity) -> bool| identity.as_deref().is_some_and(what);
    if standing.sso_required && by(|identity| !identity.is_of_own_issuer) {
        return Err(Error::TokenInvalid("its tenant takes those of its own issuers only"));
    }
    let of_password = identity.as_deref().filter(|identity| identity.is_for_password());
    if let Some(identity) = of_password
        && let Some(user) = &identity.user
        && member::password_stamp(user)? != identity.password
    {
        return Err(Error::TokenInvalid("the password that it was given for is another now"));
    }
    if (guc::require_membership() || of_password.is_some())
        && let Some(user) = user_id()
        && member::role(&id, &user)?.is_none()
    {
        return Err(Error::NotMember(id));
    }
    Ok(Some((id, forms)))
}

/// The same, for its use.
fn confirmed() -> Result<Option<(TenantId, Resolved)>, Error<'static>> {
    let found = confirm()?;
    if found.is_some() {
        note_use();
    }
    Ok(found)
}

/// Notes that the tenant is used, which is as good as set where a transaction is sealed.
fn note_use() {
    if FIRST.get().is_none() {
        FIRST.set(named().ok().flatten());
    }
}

/// Notes that the statement that is running is about rows of a tenant; raises where it is about another's.
fn touch(tenant: Option<TenantId>) {
    if !running::note_touch_of(tenant) {
        Error::ChangedInStatement.raise()
    }
}

/// Judges a statement that is about to run. A policy raises its error where it is evaluated, which is not always: a
/// table may be empty, an index may be asked no more (a FETCH), an UPDATE may find no row. This raises it always.
/// Returns whether parallel workers may run the statement: they know neither the seal of their leader's transaction
/// nor in which one the tenant was set, so the leader runs alone what it would refuse.
fn judge(statement: &Statement) -> bool {
    // Before anything asks for the tenant, which may not be known yet.
    let confirmed = confirm();
    let began = statement.began();
    // What a cursor has evaluated was evaluated for the tenant of its first FETCH.
    if let Some(tenant) = began
        && running::touched() != began
    {
        if tenant != pg::guc::assigned().map(|assigned| assigned.id) {
            Error::CursorOfAnother.raise()
        }
        touch(tenant);
    }
    // Nothing is called when its rows are fetched later.
    if statement.is_kept() && set_by_parameter().is_some() && (began.is_some() || statement.touches(OURS)) {
        Error::KeptCursor.raise()
    }
    match confirmed {
        Ok(Some(_)) => true,
        Ok(None) => {
            let refused = match guc::missing_tenant() {
                MissingTenant::Error => statement.touches(OURS),
                MissingTenant::Empty => statement.writes(OURS),
            };
            if refused {
                Error::ContextMissing.raise()
            }
            true
        }
        Err(error) => {
            if statement.touches(OURS) {
                error.raise()
            }
            // A token may have expired since it was asked for.
            pg::accessor::forget();
            false
        }
    }
}

fn resolve(form: Form) -> Resolved {
    let Some((id, forms)) = entered() else { return Resolved::None };
    match form {
        Form::Uuid if id.uuid().is_none() => Error::NoForm(id, "uuid").raise(),
        Form::Bigint if id.bigint().is_none() => Error::NoForm(id, "bigint").raise(),
        _ => {}
    }
    forms
}

/// The current tenant, where nothing refuses it: what would is raised by whatever asks for the tenant when it runs.
fn find() -> Resolved {
    match confirm() {
        Ok(Some((_, forms))) => forms,
        _ => Resolved::None,
    }
}

/// The current tenant; raises where there is none, unless `tenancy.missing_tenant` is `empty`.
pub fn current() -> Option<TenantId> {
    entered().map(|(id, _)| id)
}

/// The same, and its forms.
fn entered() -> Option<(TenantId, Resolved)> {
    match confirmed() {
        Err(error) => error.raise(),
        Ok(None) if guc::missing_tenant() == MissingTenant::Empty => None,
        Ok(None) => Error::ContextMissing.raise(),
        Ok(Some((id, _))) if id.is_scope() => Error::SeveralTenants.raise(),
        Ok(Some(found)) => Some(found),
    }
}

/// The user of the context; raises where the context is refused.
pub fn confirmed_user() -> Option<Text> {
    if let Err(error) = confirmed() {
        error.raise()
    }
    user_id()
}

/// The current tenant; raises where there is none.
pub fn required() -> TenantId {
    match confirmed() {
        Ok(Some((id, _))) if id.is_scope() => Error::SeveralTenants.raise(),
        Ok(Some((id, _))) => id,
        Ok(None) => Error::ContextMissing.raise(),
        Err(error) => error.raise(),
    }
}

/// What `set_tenant` is to set; raises where the arguments are not good.
fn requested(tenant_id: Option<&[u8]>, is_local: Option<bool>) -> Request {
    let Some(is_local) = is_local else { Error::NullArgument("is_local").raise() };
    // Not what clear_tenant() does: a variable that was never filled should not lead out of the tenant.
    let Some(text) = tenant_id else { Error::NullArgument("tenant_id").raise() };
    match TenantId::parse(text) {
        Ok(id) => Request { value: id.as_c_str(), is_local },
        Err(malformed) => Error::IdInvalid(malformed).raise(),
    }
}

/// Raises 42501 (`TENANT_ACCESS_DENIED`) where a tenant is set; `what` is called so.
pub fn refuse_in_context(what: &str) {
    if let Some(id) = set_by_parameter() {
        crate::pg::forget_error_context();
        Error::InContext(id, what).raise()
    }
}

/// Whether no tenant is set.
pub fn is_unset() -> bool {
    set_by_parameter().is_none()
}

/// The tenant that `tenancy.tenant_id` names. A single-tenant deployment's default is not set: its administrator and
/// its application may be one.
fn set_by_parameter() -> Option<TenantId> {
    if OVERRIDDEN.get() {
        Error::Overridden.raise()
    }
    pg::guc::assigned().map(|assigned| assigned.id)
}

/// Judges a statement that goes round the isolation of a table.
fn bypassed(table: &str) {
    match guc::bypass_guard() {
        BypassGuard::Off => {}
        BypassGuard::Log => {
            let tenant = pg::guc::assigned().map(|assigned| assigned.id);
            crate::error::log_bypass(table, tenant, user_id().as_ref())
        }
        BypassGuard::Refuse => Error::Bypassed(table).raise(),
    }
}
