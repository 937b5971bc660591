//! What is easier to drive from inside a backend: the accessors and their cache. Claims about isolation are in
//! `tests/`, where a client connects as an ordinary role.

// A panic is how a test fails; with the feature pg_test, the compiler takes this for production code.
#![allow(clippy::panic)]

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    fn text(query: &str) -> Option<String> {
        Spi::get_one::<String>(query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    fn number(query: &str) -> i64 {
        Spi::get_one::<i64>(query).unwrap_or_else(|error| panic!("{query}: {error}")).unwrap_or(-1)
    }

    fn run(command: &str) {
        Spi::run(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// Past the size of the cache, a result is a copy: it must be as right and as lasting as a pointer.
    #[pg_test]
    fn more_tenants_than_the_cache_holds() {
        run("INSERT INTO _tenancy.tenants (id) SELECT i::text FROM generate_series(1, 20000) i");
        run("CREATE TEMP TABLE seen AS
             SELECT i, set_config('tenancy.tenant_id', i::text, true) AS set, tenancy.current_tenant() AS text,
                    tenancy.current_tenant_bigint() AS bigint
             FROM generate_series(1, 20000) i");
        assert_eq!(number("SELECT count(*) FROM seen WHERE set = text AND bigint = i"), 20_000);
        // Both kinds of result in one row, kept until the query ends.
        let array = text(
            "SELECT string_agg(t, ',' ORDER BY i) FROM (
                 SELECT i, (SELECT tenancy.current_tenant() FROM set_config('tenancy.tenant_id', i::text, true)) AS t
                 FROM unnest(ARRAY[1, 19999, 2, 20000]) i) s",
        );
        assert_eq!(array.as_deref(), Some("1,2,19999,20000"));
    }

    /// A change of the registry is in force at the next call, in the transaction that makes it as well.
    #[pg_test]
    fn a_changed_registry_is_asked_again() {
        run("SELECT tenancy.create_tenant('acme')");
        run("SET LOCAL tenancy.tenant_id = 'acme'");
        assert_eq!(text("SELECT tenancy.current_tenant()").as_deref(), Some("acme"));
        run("UPDATE _tenancy.tenants SET status = 'suspended'");
        let status = text("SELECT tenancy.context() ->> 'error'");
        assert_eq!(status.as_deref(), Some("TENANT_SUSPENDED"));
        run("DELETE FROM _tenancy.tenants");
        assert_eq!(text("SELECT tenancy.context() ->> 'error'").as_deref(), Some("TENANT_NOT_FOUND"));
    }

    #[pg_test(error = "tenant \"acme\" is suspended")]
    fn a_suspended_tenant_is_an_error() {
        run("SELECT tenancy.create_tenant('acme'), tenancy.suspend_tenant('acme')");
        run("SET LOCAL tenancy.tenant_id = 'acme'");
        run("SELECT tenancy.current_tenant()");
    }

    /// Reading under a policy writes nothing, and an ordinary role reads its own.
    #[pg_test]
    fn a_read_only_transaction_reads() {
        run("CREATE ROLE pgrx_app; GRANT SET ON PARAMETER tenancy.tenant_id TO pgrx_app");
        run("SELECT tenancy.create_tenant('acme'), tenancy.create_tenant('beta')");
        run("CREATE TABLE read_only (tenant_id text); INSERT INTO read_only VALUES ('acme'), ('beta')");
        run("SELECT tenancy.protect('read_only')");
        run("GRANT SELECT ON read_only TO pgrx_app");
        run("SET LOCAL transaction_read_only = on");
        run("SET LOCAL ROLE pgrx_app");
        run("SET LOCAL tenancy.tenant_id = 'acme'");
        assert_eq!(text("SELECT string_agg(tenant_id, ',') FROM read_only").as_deref(), Some("acme"));
    }
}
