-- A million rows of 200 tenants, the first of which owns a fifth of them; once for each type of the tenant column.
-- `protected_…` is ours; `policy_…` has the policy that people write, for one role as it is and for another in a SELECT.
CREATE EXTENSION tenancy;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;

CREATE TEMPORARY TABLE owner AS
    SELECT n, CASE WHEN n % 5 = 0 THEN 1 ELSE 1 + n % 199 + 1 END AS tenant FROM generate_series(0, :rows - 1) AS n;
INSERT INTO _tenancy.tenants (id)
    SELECT n::text FROM generate_series(1, 200) AS n
    UNION ALL SELECT lpad(n::text, 8, '0') || '-0000-4000-8000-000000000000' FROM generate_series(1, 200) AS n
    UNION ALL SELECT 'tenant-' || n FROM generate_series(1, 200) AS n;

CREATE TABLE protected_text (id bigint, tenant_id text, amount integer);
INSERT INTO protected_text SELECT n, 'tenant-' || tenant, n % 1000 FROM owner;
CREATE TABLE protected_uuid (id bigint, tenant_id uuid, amount integer);
INSERT INTO protected_uuid
    SELECT n, (lpad(tenant::text, 8, '0') || '-0000-4000-8000-000000000000')::uuid, n % 1000 FROM owner;
CREATE TABLE protected_bigint (id bigint, tenant_id bigint, amount integer);
INSERT INTO protected_bigint SELECT n, tenant, n % 1000 FROM owner;

SELECT format('CREATE TABLE policy_%1$s AS TABLE protected_%1$s;
               CREATE INDEX ON policy_%1$s (tenant_id);
               ALTER TABLE policy_%1$s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
               CREATE POLICY plain ON policy_%1$s TO bench_plain USING (tenant_id = current_setting(''app.tenant_id'')::%1$s);
               CREATE POLICY wrapped ON policy_%1$s TO bench_wrapped
                   USING (tenant_id = (SELECT current_setting(''app.tenant_id'')::%1$s));
               SELECT tenancy.protect(''protected_%1$s'');', type)
FROM unnest('{text,uuid,bigint}'::text[]) AS type
\gexec
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bench_app, bench_plain, bench_wrapped;
VACUUM (FREEZE, ANALYZE);
