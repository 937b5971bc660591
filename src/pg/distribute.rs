//! Statements on protected tables whose rows Citus has on other servers, its nodes.
//!
//! Policies are asked there, for the tenant of a session there, which learns of it by one thing alone: the text of SET LOCAL, that Citus sends along
//! (`citus.propagate_set_commands = 'local'`). Whatever else changes the tenant here, from a function to the end of a savepoint, changes it here only. So such a
//! statement runs only where the last change was a SET LOCAL outside any savepoint, of which Citus is given a text that says nothing else (`in_words`). What a
//! function that Citus sends would change there is refused there (`is_set_by_function`). A statement runs only as Citus sends statements as they are: INSERT ... SELECT and
//! MERGE, where they cannot be sent, are written by a COPY that asks no policy of rows of this server. On the nodes all policies are permissive, so each must
//! isolate.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use pgrx::{FromDatum, pg_sys, prelude::*};

use super::{guc, hook, portal, rewrite, scope, statement::entries, token, xact};
use crate::error::Error;

mod raw {
    use super::*;
    pub use crate::pg::{
        pushed_scan::raw::planstate_tree_walker,
        raw::{equal, palloc0},
    };
    unsafe extern "C-unwind" {
        pub fn IsTransactionBlock() -> bool;
        pub fn GetCurrentTransactionNestLevel() -> c_int;
        pub fn GetConfigOption(
            name: *const c_char,
            is_missing_ok: bool,
            is_restricted: bool,
        ) -> *const c_char;
    }
}

const PROPAGATES: &CStr = c"citus.propagate_set_commands";
/// Without it, Citus reads with no transaction there, in which it would have told of the tenant.
const OPENS_BLOCK: &CStr = c"citus.select_opens_transaction_block";
/// How Citus names its nodes in plans; the one that sends statements as they are, and the one that only raises an error.
const CITUS: &[u8] = b"Citus ";
const SENDS: [&CStr; 2] = [c"Citus Adaptive", c"Citus Delayed Error"];
/// The policies of a table that is distributed.
const POLICIES: [&CStr; 2] = [c"tenancy_isolation", c"tenancy_access"];

/// Whether there is Citus, which must be loaded before us.
static mut IS_LOADED: bool = false;
static mut APPLICATION_NAME: Option<*mut pg_sys::config_generic> = None;
/// What the nodes were told in the transaction that is running.
#[derive(Clone, Copy, Default)]
struct Told {
    /// The current tenant.
    is_current: bool,
    /// A tenant, be it the current one or not.
    is_any: bool,
    /// Who somebody is, which can be taken back here without telling.
    is_unsure: bool,
}

static mut TOLD: Told = Told { is_current: false, is_any: false, is_unsure: false };

/// To be called when the library is loaded.
pub fn init() {
    // SAFETY: a backend is single-threaded.
    unsafe { IS_LOADED = guc::find(PROPAGATES).is_some() }
    if is_loaded() {
        // SAFETY: as above.
        unsafe { APPLICATION_NAME = guc::find(c"application_name") }
        xact::listen(|event| {
            // SAFETY: as above.
            unsafe {
                if event == xact::Event::BeforePrepare && has_told() {
                    refuse(
                        "PREPARE TRANSACTION not supported where nodes of Citus were told of a tenant",
                        "Use COMMIT.",
                    );
                }
                if event.is_end() {
                    TOLD = Told::default();
                }
            }
        });
    }
}

#[inline]
pub fn is_loaded() -> bool {
    // SAFETY: only written at load.
    unsafe { IS_LOADED }
}

/// Whether Citus has distributed a table, or one that it is a part of. To be called inside a guard.
pub fn is_distributed(table: pg_sys::Oid) -> bool {
    let function = rewrite::find(c"_tenancy", c"is_distributed", &[pg_sys::REGCLASSOID]);
    // SAFETY: a function that takes a table's number, and returns a boolean; called inside a transaction.
    function != pg_sys::InvalidOid
        && unsafe { pg_sys::OidFunctionCall1Coll(function, pg_sys::InvalidOid, table.into()).value() != 0 }
}

/// The current tenant has changed, or may have.
#[inline]
pub fn changed() {
    // SAFETY: a backend is single-threaded.
    unsafe { TOLD.is_current = false }
}

/// Whether a command sets a parameter; to be asked before it runs, because others may take the statement along.
#[inline]
pub unsafe fn sets(command: *const pg_sys::Node) -> bool {
    // SAFETY: a command that is about to run.
    is_loaded() && unsafe { (*command).type_ == pg_sys::NodeTag::T_VariableSetStmt }
}

/// Whether Citus sends such a command to the nodes, as its `ShouldPropagateSetCommand` has it.
unsafe fn is_sent(command: &pg_sys::VariableSetStmt) -> bool {
    use pg_sys::VariableSetKind::*;
    // SAFETY: a name is a C string; a look-up that raises nothing.
    unsafe {
        (match command.kind {
            VAR_RESET | VAR_RESET_ALL => true,
            VAR_SET_MULTI => CStr::from_ptr(command.name) == c"TRANSACTION",
            _ => command.is_local,
        }) && is_setting(PROPAGATES, c"local")
    }
}

/// What Citus is to be given of a command that sets a parameter, and of its text.
///
/// It sends the text of the whole message before the command runs, and to each server that is connected to later, put together with all others. A comment
/// to the end of a line would take the next ones away, other statements would run there as well, and a backslash may end a string there that it does
/// not end here. So it is given what the command says in other words, where it was not said plainly.
pub unsafe fn to_send(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
) -> (*mut pg_sys::PlannedStmt, *const c_char) {
    // SAFETY: a command that sets a parameter, and its text; a frame of plain data, which an error may skip.
    unsafe {
        let command = &*(*statement).utilityStmt.cast::<pg_sys::VariableSetStmt>();
        if !is_sent(command) || is_plain(statement, CStr::from_ptr(text).to_bytes()) {
            return (statement, text);
        }
        let mut words = std::ptr::null();
        in_words(command, &mut words);
        let copy = raw::palloc0(size_of::<pg_sys::PlannedStmt>()).cast::<pg_sys::PlannedStmt>();
        std::ptr::copy_nonoverlapping(statement, copy, 1);
        ((*copy).stmt_location, (*copy).stmt_len) = (0, 0);
        (copy, words)
    }
}

/// A command in words of its own.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn in_words(command: &pg_sys::VariableSetStmt, words: &mut *const c_char) {
    use pg_sys::VariableSetKind::*;
    // SAFETY: a command, of which the name is a C string, or null where it has none. What is made is in the memory that the command runs in.
    unsafe {
        let name = || CStr::from_ptr(pg_sys::quote_identifier(command.name)).to_bytes();
        let said = match command.kind {
            VAR_SET_VALUE => {
                let values: Vec<_> =
                    entries(command.args).iter().map(|cell| value(cell.ptr_value.cast())).collect();
                [b"SET LOCAL ", name(), b" = ", &values.join(&b", "[..])].concat()
            }
            VAR_SET_DEFAULT => [b"SET LOCAL ", name(), b" TO DEFAULT"].concat(),
            VAR_SET_CURRENT => [b"SET LOCAL ", name(), b" FROM CURRENT"].concat(),
            VAR_RESET => [b"RESET ", name()].concat(),
            VAR_RESET_ALL => b"RESET ALL".to_vec(),
            _ => {
                let modes: Vec<_> =
                    entries(command.args).iter().map(|cell| mode(cell.ptr_value.cast())).collect();
                [b"SET TRANSACTION ", &modes.join(&b", "[..])[..]].concat()
            }
        };
        let said = CString::new(said).unwrap_or_else(|_| not_plain());
        *words = pg_sys::pstrdup(said.as_ptr());
    }
}

/// A mode of a transaction.
unsafe fn mode(option: *const pg_sys::DefElem) -> Vec<u8> {
    // SAFETY: an option has a name, and a constant.
    unsafe {
        let constant = &*(*option).arg.cast::<pg_sys::A_Const>();
        match CStr::from_ptr((*option).defname).to_bytes() {
            b"transaction_isolation" => {
                [b"ISOLATION LEVEL ", CStr::from_ptr(constant.val.sval.sval).to_bytes()].concat()
            }
            b"transaction_read_only" => match constant.val.ival.ival {
                0 => b"READ WRITE".to_vec(),
                _ => b"READ ONLY".to_vec(),
            },
            b"transaction_deferrable" => match constant.val.ival.ival {
                0 => b"NOT DEFERRABLE".to_vec(),
                _ => b"DEFERRABLE".to_vec(),
            },
            _ => not_plain(),
        }
    }
}

/// A value as it is written in SET.
unsafe fn value(node: *const pg_sys::Node) -> Vec<u8> {
    // SAFETY: a node, whose tag tells its type, as does that of a constant's value.
    unsafe {
        let constant = &*node.cast::<pg_sys::A_Const>();
        if (*node).type_ != pg_sys::NodeTag::T_A_Const || constant.isnull {
            not_plain()
        }
        match constant.val.node.type_ {
            pg_sys::NodeTag::T_String => {
                CStr::from_ptr(pg_sys::quote_literal_cstr(constant.val.sval.sval)).to_bytes().to_vec()
            }
            pg_sys::NodeTag::T_Integer => constant.val.ival.ival.to_string().into_bytes(),
            pg_sys::NodeTag::T_Float => CStr::from_ptr(constant.val.fval.fval).to_bytes().to_vec(),
            _ => not_plain(),
        }
    }
}

fn not_plain() -> ! {
    refuse(
        "command that Citus sends to its nodes must be sent by itself, without comments and backslashes",
        "Send it as a message of its own.",
    )
}

fn refuse(text: &'static str, hint: &'static str) -> ! {
    super::ErrorReport::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, text, "tenancy")
        .set_hint(hint)
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// A command that sets a parameter has ended, and Citus may have sent it.
pub unsafe fn ended(statement: *const pg_sys::PlannedStmt) {
    // SAFETY: a statement; a frame of plain data.
    unsafe {
        let command = &*(*statement).utilityStmt.cast::<pg_sys::VariableSetStmt>();
        // A node tells no other: what touches protected tables of others is refused in a session of Citus' own.
        if command.name.is_null() || !is_sent(command) || is_of_citus() {
            return;
        }
        let name = CStr::from_ptr(command.name).to_bytes();
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let is_tenant = is(b"tenancy.tenant_id");
        let is_ours = name.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"tenancy."));
        let is_user = is(b"tenancy.user_id");
        if is(b"role") || is(b"session_authorization") || is_ours && !is_tenant && !is_user {
            TOLD.is_unsure = true;
        }
        if is_tenant && command.kind == pg_sys::VariableSetKind::VAR_SET_VALUE {
            TOLD.is_any = true;
            TOLD.is_current = raw::IsTransactionBlock()
                // That of a savepoint which is released stays here, and does not stay there.
                && raw::GetCurrentTransactionNestLevel() == 1;
        }
    }
}

/// Whether the nodes were told of a tenant in this transaction.
#[inline]
pub fn has_told() -> bool {
    // SAFETY: backend-local plain data.
    unsafe { TOLD.is_any }
}

/// Whether the nodes have the tenant that is the current one here.
unsafe fn is_good() -> bool {
    // SAFETY: backend-local plain data.
    unsafe {
        TOLD.is_current
            && !TOLD.is_unsure
            && is_setting(OPENS_BLOCK, c"on")
            && !scope::is_given()
            && !token::is_given()
            && !guc::is_preset()
    }
}

/// Refuses a command that Citus may run on the nodes for another tenant than the current one. Only where they were told of any.
#[cold]
#[pg_guard]
pub unsafe extern "C-unwind" fn judge_command(command: *const pg_sys::Node) {
    use pg_sys::NodeTag::*;
    // SAFETY: a command that is about to run.
    unsafe {
        // What runs a query asks again, and the others run nothing there.
        let is_harmless = matches!(
            (*command).type_,
            T_TransactionStmt
                | T_VariableSetStmt
                | T_VariableShowStmt
                | T_PrepareStmt
                | T_ExecuteStmt
                | T_DeallocateStmt
                | T_DeclareCursorStmt
                | T_FetchStmt
                | T_ClosePortalStmt
                | T_DoStmt
                | T_CallStmt
                | T_DiscardStmt
                | T_ConstraintsSetStmt
                | T_NotifyStmt
                | T_ListenStmt
                | T_UnlistenStmt
        );
        if !is_harmless && !is_good() {
            Error::NodesNotTold.raise();
        }
    }
}

/// Whether a parameter, which may not be there, has that value.
unsafe fn is_setting(name: &CStr, wanted: &CStr) -> bool {
    // SAFETY: a look-up that raises nothing where there is none.
    unsafe {
        let value = raw::GetConfigOption(name.as_ptr(), true, false);
        !value.is_null() && CStr::from_ptr(value) == wanted
    }
}

/// Whether this is a session of Citus' own, on a node.
fn is_of_citus() -> bool {
    // SAFETY: PostgreSQL's own entry, of a string parameter. What it is reset to is what the connection was started with, which nothing in it changes.
    unsafe {
        APPLICATION_NAME.is_some_and(|entry| {
            let name = (*entry.cast::<pg_sys::config_string>()).reset_val;
            !name.is_null() && CStr::from_ptr(name).to_bytes().starts_with(b"citus_internal")
        })
    }
}

/// Whether a change of the tenant is refused because a function asks for it in a session of Citus' own: whoever told the node would not know.
pub fn is_set_by_function() -> bool {
    is_of_citus() && !portal::active().is_some_and(portal::sets_locally)
}

/// Whether a text is that of one statement, and means the same there whatever comes after it, and whatever that server takes backslashes for.
unsafe fn is_plain(statement: *const pg_sys::PlannedStmt, text: &[u8]) -> bool {
    // SAFETY: the caller passes a statement.
    let (at, length) = unsafe { ((*statement).stmt_location, (*statement).stmt_len) };
    let begin = usize::try_from(at).unwrap_or(0).min(text.len());
    let end = match usize::try_from(length) {
        Ok(length) if length > 0 => (begin + length).min(text.len()),
        _ => text.len(),
    };
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
    let is_alone = text[..begin].iter().all(is_blank) && text[end..].iter().all(is_blank);
    is_alone && !text.contains(&b'\\') && !text.windows(2).any(|two| two == b"--")
}

/// How Citus runs a part of a plan.
#[derive(Default)]
struct Found {
    sends: bool,
    does_otherwise: bool,
}

unsafe extern "C-unwind" fn look(state: *mut pg_sys::PlanState, found: *mut c_void) -> bool {
    // SAFETY: PostgreSQL passes states of a plan, or null; `found` is the caller's.
    unsafe {
        if state.is_null() {
            return false;
        }
        if (*state).type_ == pg_sys::NodeTag::T_CustomScanState {
            let scan = (*state).plan.cast::<pg_sys::CustomScan>();
            let name = CStr::from_ptr((*(*scan).methods).CustomName);
            if name.to_bytes().starts_with(CITUS) {
                let found = &mut *found.cast::<Found>();
                let is_sent = SENDS.contains(&name);
                found.sends |= is_sent;
                found.does_otherwise |= !is_sent;
            }
        }
        raw::planstate_tree_walker(state, look, found)
    }
}

/// Refuses a query that Citus runs where the nodes may not isolate it. To be called before each run: the tenant may have changed since the last.
#[inline]
pub unsafe fn runs(query: *const pg_sys::QueryDesc) {
    // SAFETY: a query that has been started. A frame of plain data, which an error may skip.
    unsafe {
        if is_loaded() && !(*query).planstate.is_null() {
            let mut found = Found::default();
            look((*query).planstate, std::ptr::from_mut(&mut found).cast());
            if found.sends || found.does_otherwise {
                judge(query, found.does_otherwise);
            }
        }
    }
}

#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn judge(query: *const pg_sys::QueryDesc, does_otherwise: bool) {
    // SAFETY: as above.
    unsafe {
        let touches = hook::touches_ours(query, pg_sys::GetUserId());
        if touches && does_otherwise {
            refuse(
                "INSERT ... SELECT and MERGE that Citus does not send to its nodes are not supported with row-level security",
                "Read the rows, and write them with INSERT ... VALUES.",
            );
        }
        if touches {
            for cell in entries((*(*query).plannedstmt).rtable) {
                let entry = cell.ptr_value.cast::<pg_sys::RangeTblEntry>();
                let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION;
                if is_table && !is_isolated((*entry).relid) && is_distributed((*entry).relid) {
                    Error::OpenOnNodes(&super::relation_name((*entry).relid)).raise();
                }
            }
        }
        // What reads none of ours by its text may do so there, in a function.
        if (touches || has_told()) && !is_good() {
            Error::NodesNotTold.raise();
        }
    }
}

/// Whether a table has none of our policies, or such that isolate where all of them are permissive: two that ask the same, of all rows and everybody.
unsafe fn is_isolated(table: pg_sys::Oid) -> bool {
    // SAFETY: a locked relation of the plan, whose cache entry stays while it is open. A policy's expressions are nodes or null.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*relation).rd_rsdesc.as_ref().is_none_or(|security| {
            let policies: Vec<_> = entries(security.policies)
                .iter()
                .map(|cell| &*cell.ptr_value.cast::<pg_sys::RowSecurityPolicy>())
                .collect();
            let named = |name| policies.iter().find(|its| CStr::from_ptr(its.policy_name) == name);
            let asks_all = |its: &pg_sys::RowSecurityPolicy| {
                its.polcmd as u8 == b'*'
                    && !its.qual.is_null()
                    && !its.with_check_qual.is_null()
                    && roles_of(its) == [pg_sys::InvalidOid]
            };
            match (named(POLICIES[0]), named(POLICIES[1])) {
                (None, _) => true,
                (Some(one), Some(other)) => {
                    policies.len() == 2
                        && asks_all(one)
                        && asks_all(other)
                        && raw::equal(one.qual.cast(), other.qual.cast())
                        && raw::equal(one.with_check_qual.cast(), other.with_check_qual.cast())
                }
                _ => false,
            }
        });
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The roles that a policy is for; the one that is no role is PUBLIC.
unsafe fn roles_of(policy: &pg_sys::RowSecurityPolicy) -> Vec<pg_sys::Oid> {
    // SAFETY: an array of oid, as PostgreSQL keeps it with the policy.
    unsafe { Vec::from_datum(policy.roles.into(), policy.roles.is_null()).unwrap_or_default() }
}
