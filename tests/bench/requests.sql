-- A database with :tenants tenants and :rows rows, whose tenants are spread over them evenly; three tables that differ
-- in protection only. Tenant ids are numbers, because pgbench makes numbers; the column is text.
CREATE EXTENSION tenancy;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
-- Not one call of create_tenant each: a million of them would take a minute.
INSERT INTO _tenancy.tenants (id) SELECT n::text FROM generate_series(0, :tenants - 1) AS n;
ANALYZE _tenancy.tenants;

CREATE TABLE handwritten (id bigint PRIMARY KEY, tenant_id text NOT NULL, body text NOT NULL);
INSERT INTO handwritten SELECT n, (n % :tenants)::text, 'body of row ' || n FROM generate_series(0, :rows - 1) AS n;
CREATE INDEX ON handwritten (tenant_id);

CREATE TABLE protected (LIKE handwritten INCLUDING ALL);
INSERT INTO protected SELECT * FROM handwritten;

CREATE TABLE policy (LIKE handwritten INCLUDING ALL);
INSERT INTO policy SELECT * FROM handwritten;
ALTER TABLE policy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON policy USING (tenant_id = current_setting('app.tenant_id'));

-- For insertions: nothing but a key, so that the check is as large a part as it can be.
CREATE TABLE handwritten_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, body text);
CREATE INDEX ON handwritten_log (tenant_id);
CREATE TABLE protected_log (LIKE handwritten_log INCLUDING ALL);
CREATE TABLE policy_log (LIKE handwritten_log INCLUDING ALL);
ALTER TABLE policy_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON policy_log USING (tenant_id = current_setting('app.tenant_id'));

SELECT tenancy.protect('protected'), tenancy.protect('protected_log');
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO bench_app;
VACUUM (FREEZE, ANALYZE);
