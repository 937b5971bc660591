//! What is on record of a scope: that it was begun, in the audit trail of each of its tenants; and its statements, in that of no tenant,
//! because a statement may name others. All of it stays when the transaction is rolled back.

use serde_json::{Value, json};

use super::{BEGUN, Begun, TOLD};
use crate::audit::{Record, record_to_stay};
use crate::error::Error;
use crate::pg::{
    self,
    scope::Listener,
    text::{Text, reportable},
    xact,
};
use crate::scope::Scope;
use crate::tenant::TenantId;

/// The most bytes of JSON that a piece of a statement takes: an entry that stays must be short.
const PIECE: usize = 600;
/// The most bytes of a statement: what is longer is not run, because the end of it would be on no record.
const LONGEST: usize = 1 << 20;
/// The same of a reason.
const REASON: usize = 400;

pub fn init() {
    pg::scope::listen(Listener { began, ended });
}

fn write(tenant: Option<TenantId>, operation: &str, detail: &Value) {
    let detail = reportable(detail.to_string());
    record_to_stay(&Record { tenant, operation, detail: Some(detail.as_bytes()), ..Record::default() });
}

/// The first characters of a text, up to so many bytes of JSON, and the rest.
fn split(text: &str, most: usize) -> (&str, &str) {
    let mut size = 0;
    let end = text.char_indices().find(|(_, character)| {
        size += match character {
            '"' | '\\' => 2,
            ' '..='~' => 1,
            // As it is written where the server's encoding is not UTF-8.
            _ => 6 * character.len_utf16(),
        };
        size > most
    });
    text.split_at(end.map_or(text.len(), |(place, _)| place))
}

/// A scope is begun.
pub fn begin(scope: &Scope, begun: &Begun) {
    let until = xact::to_text(scope.until);
    let mut detail = json!({
        "scope": scope.number,
        "reason": split(&begun.reason, REASON).0,
        "until": until,
        "read_only": scope.is_read_only,
        "transaction": begun.is_local,
    });
    for tenant in &scope.tenants {
        write(Some(*tenant), "BEGIN_CROSS_TENANT", &detail);
    }
    detail["tenants"] = json!(scope.tenants.len());
    write(None, "BEGIN_CROSS_TENANT", &detail);
    // Before anything is read: a crash would lose it.
    pg::insert::flush();
}

/// It is ended.
pub fn end(begun: &Begun) {
    write(None, "END_CROSS_TENANT", &json!({"scope": begun.number}));
}

/// Tells of a statement, in as many pieces as it takes; `head` is what the first says besides.
pub fn statement(operation: &str, head: Value, text: &str) {
    let number = head.get("statement_number").cloned();
    let (first, mut rest) = split(text.trim(), PIECE);
    let mut detail = head.clone();
    detail["statement"] = json!(first);
    if text.len() > LONGEST {
        Error::Argument("statement", "must have up to 1 MB where it is put on record").raise()
    }
    for part in 2.. {
        write(None, operation, &detail);
        if rest.is_empty() {
            break;
        }
        let piece;
        (piece, rest) = split(rest, PIECE);
        detail = json!({"part": part, "statement": piece});
        for (name, value) in [("scope", head.get("scope")), ("statement_number", number.as_ref())] {
            if let Some(value) = value {
                detail[name] = value.clone();
            }
        }
    }
}

/// A statement of the client's is about to run in the session's scope.
fn began(text: &[u8]) {
    let Some(number) = pg::scope::given().map(|given| given.number) else { return };
    let counted = BEGUN.with_borrow_mut(|all| {
        let begun = all.iter_mut().find(|one| one.number == number)?;
        begun.statements += 1;
        Some(begun.clone())
    });
    // What cannot be told of must not be done.
    let Some(begun) = counted else { Error::ScopeOver("ended").raise() };
    let head = json!({
        "scope": number,
        "reason": split(&begun.reason, REASON).0,
        "statement_number": begun.statements,
    });
    statement("CROSS_TENANT", head, &Text::of(text).to_utf8());
    TOLD.set(Some((number, begun.statements)));
    // As with what is begun: the client has the rows before a crash.
    pg::insert::flush();
}

/// It has returned or written so many rows.
fn ended(rows: u64) {
    if let Some((number, statement)) = TOLD.get() {
        let detail = json!({"scope": number, "statement_number": statement, "rows": rows});
        write(None, "CROSS_TENANT", &detail);
    }
}
