//! The catalogue of errors, which `tenancy.error_codes()` and the README show.

use pgrx::PgSqlErrorCode as S;

/// An entry of the catalogue: code, SQLSTATE, HTTP status for a layer above, when it is raised.
pub type Code = (&'static str, S, i32, &'static str);

pub const CATALOGUE: &[Code] = &[
    (
        "TENANT_CONTEXT_MISSING",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        400,
        "no tenant is set, one from an earlier transaction was refused, or there are several",
    ),
    (
        "TENANT_ACCESS_DENIED",
        S::ERRCODE_INSUFFICIENT_PRIVILEGE,
        403,
        "not allowed to be in, to change to, or to cross to that tenant; a write across tenants",
    ),
    ("TENANT_NOT_FOUND", S::ERRCODE_UNDEFINED_OBJECT, 404, "no such tenant"),
    (
        "TENANT_SUSPENDED",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        403,
        "the tenant is suspended or archived",
    ),
    (
        "TENANT_ID_INVALID",
        S::ERRCODE_INVALID_PARAMETER_VALUE,
        400,
        "the tenant id is malformed, or has no form of the type asked for",
    ),
    (
        "TOKEN_INVALID",
        S::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        401,
        "the token is malformed, not signed by a trusted key, not good yet, or used before",
    ),
    ("TOKEN_EXPIRED", S::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, 401, "the token has expired"),
    (
        "CREDENTIALS_INVALID",
        S::ERRCODE_INVALID_PASSWORD,
        401,
        "tenant, user or password is wrong, or passwords are not taken",
    ),
    (
        "TOO_MANY_FAILURES",
        S::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        429,
        "too many failed attempts to sign in",
    ),
    ("KEY_INVALID", S::ERRCODE_INVALID_PARAMETER_VALUE, 400, "a key or a set of keys is not good for tokens"),
    ("USER_NOT_FOUND", S::ERRCODE_UNDEFINED_OBJECT, 404, "no such user"),
    ("USER_ALREADY_EXISTS", S::ERRCODE_DUPLICATE_OBJECT, 409, "a user of that id or email exists"),
    ("MEMBER_NOT_FOUND", S::ERRCODE_UNDEFINED_OBJECT, 404, "the user is not a member of the tenant"),
    ("MEMBER_ALREADY_EXISTS", S::ERRCODE_DUPLICATE_OBJECT, 409, "the user is a member of the tenant already"),
    (
        "INVITATION_INVALID",
        S::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        403,
        "the invitation was accepted or withdrawn, has expired, or is for another user",
    ),
    ("TENANT_ALREADY_EXISTS", S::ERRCODE_DUPLICATE_OBJECT, 409, "a tenant of that id exists"),
    (
        "SUBDOMAIN_UNAVAILABLE",
        S::ERRCODE_DUPLICATE_OBJECT,
        409,
        "the subdomain belongs to another tenant, or is a reserved name",
    ),
    (
        "PARAMETER_INVALID",
        S::ERRCODE_INVALID_PARAMETER_VALUE,
        400,
        "an argument has a value that is not allowed",
    ),
    (
        "RELATION_NOT_SUPPORTED",
        S::ERRCODE_WRONG_OBJECT_TYPE,
        400,
        "the relation cannot be protected: a view, a foreign table, a partition on its own; or an index cannot be on the ledger",
    ),
    ("RELATION_NOT_OWNED", S::ERRCODE_INSUFFICIENT_PRIVILEGE, 403, "the caller does not own the table"),
    (
        "PROTECTION_WEAKENED",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        409,
        "a command would take isolation from a protected table",
    ),
    (
        "PROTECTION_CHANGED",
        S::ERRCODE_T_R_SERIALIZATION_FAILURE,
        409,
        "a transaction whose snapshot is older than a change of what is protected changes tables, or reads rows that were moved",
    ),
    (
        "RELATION_NOT_PROTECTED",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        400,
        "the table is not protected",
    ),
    ("TENANT_COLUMN_NOT_FOUND", S::ERRCODE_UNDEFINED_COLUMN, 400, "the tenant column does not exist"),
    (
        "TENANT_COLUMN_NOT_SUPPORTED",
        S::ERRCODE_FEATURE_NOT_SUPPORTED,
        400,
        "the tenant column is generated, or of a type that cannot hold a tenant id",
    ),
    ("ROWS_WITHOUT_TENANT", S::ERRCODE_CHECK_VIOLATION, 409, "existing rows belong to no registered tenant"),
    (
        "ROWS_REMAIN",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        409,
        "rows of a tenant that is to be deleted are kept by a trigger",
    ),
    (
        "IMPORT_INVALID",
        S::ERRCODE_INVALID_PARAMETER_VALUE,
        400,
        "what is to be imported is no whole export of a tenant, or does not fit this database",
    ),
    (
        "QUOTA_EXCEEDED",
        S::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        429,
        "a quota has no room for what was asked for",
    ),
    (
        "RELATION_NOT_METERED",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        400,
        "the table is not metered for that resource",
    ),
    (
        "RELATION_METERED",
        S::ERRCODE_OBJECT_IN_USE,
        409,
        "the table is metered, which asks for its protection",
    ),
    ("RELATION_NOT_AUDITED", S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, 400, "the table is not audited"),
    (
        "TOO_MANY_PREPARED",
        S::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        429,
        "too many prepared transactions of a tenant wait for their end",
    ),
    (
        "LEDGER_BUSY",
        S::ERRCODE_LOCK_NOT_AVAILABLE,
        503,
        "the ledger of usage could not be locked in time, to count over a new interval",
    ),
    (
        "NODE_NOT_READY",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        503,
        "Citus is not installed or set up for isolation, or a node of it is not as the coordinator is",
    ),
    (
        "EXTENSION_NOT_INSTALLED",
        S::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        500,
        "the extension is not installed in this database",
    ),
    (
        "EXTENSION_IN_USE",
        S::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        409,
        "the extension is to be dropped while tables need it",
    ),
    ("INTERNAL_ERROR", S::ERRCODE_INTERNAL_ERROR, 500, "a defect of the extension"),
];
