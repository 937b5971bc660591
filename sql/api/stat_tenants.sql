-- What statements took for each tenant. Re-runnable.

COMMENT ON FUNCTION _tenancy.measured() IS 'what statements took for each tenant; for tenancy.stat_tenants';

CREATE VIEW tenancy.stat_tenants WITH (security_invoker = true) AS
    SELECT m.tenant_id, m.kind, m.statements, m.rows, m.exec_time AS total_exec_time, m.committed AS transactions_committed,
           m.rolled_back AS transactions_rolled_back, m.blocks_hit AS shared_blks_hit, m.blocks_read AS shared_blks_read, m.wal_bytes,
           m.errors, m.errors_by_class, m.quota_refusals, m.refused_contexts, m.since AS stats_since
    FROM _tenancy.measured() m;
COMMENT ON VIEW tenancy.stat_tenants IS
'What the statements of clients in this database took for each tenant, since stats_since: statements (those inside others are part of them; not what begins and
ends transactions and sets parameters), rows that they returned or changed, total_exec_time in milliseconds, transactions, shared blocks hit and read, bytes of WAL,
errors, by class of SQLSTATE, and how often a quota or a context was refused. A statement that fails is one of the errors, and not of the statements, nor is its time. Counted when a transaction has
ended. kind: tenant; none, for statements without a tenant, or for one that is not registered or that the session has not met yet, in a protected table or a function of the extension; rest, for tenants that were deleted, and that gave way to busier ones where there was no place (tenancy.stat_tenants). No row where the library
is not in shared_preload_libraries. A tenant sees its own; superusers, roles with BYPASSRLS and members of pg_monitor see all where no tenant is set. PUBLIC may read it.';
COMMENT ON FUNCTION _tenancy.stat_tenants_forget(text) IS 'adds what was counted for a tenant to that of the rest when the transaction commits';
COMMENT ON FUNCTION tenancy.stat_tenants_reset(text) IS
'Begins to count anew in stat_tenants for a tenant of this database, or (null) for all and none. Errors: TENANT_ID_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a
tenant. Volatile. Granted to nobody.';
