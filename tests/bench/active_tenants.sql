-- Rows of 200 tenants, of which some are suspended and own a share of the rows, in three layouts:
--   whole     one table with whole indexes
--   flagged   the same with a column that says whether the tenant is active, and the second index of active tenants only
--   parted    partitioned by such a column: rows of suspended tenants are moved to a partition with no index but its key
CREATE EXTENSION tenancy;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
INSERT INTO _tenancy.tenants (id) SELECT n::text FROM generate_series(0, 199) AS n;

CREATE SEQUENCE numbers;
SELECT setval('numbers', :rows);
GRANT USAGE ON SEQUENCE numbers TO bench_app;

CREATE TABLE whole (tenant_id text, id bigint DEFAULT nextval('numbers'), created_at timestamptz NOT NULL DEFAULT clock_timestamp(), body text, PRIMARY KEY (tenant_id, id));
CREATE TABLE flagged (tenant_id text, id bigint DEFAULT nextval('numbers'), created_at timestamptz NOT NULL DEFAULT clock_timestamp(), body text,
    active boolean NOT NULL DEFAULT true, PRIMARY KEY (tenant_id, id));
CREATE TABLE parted (tenant_id text, id bigint DEFAULT nextval('numbers'), created_at timestamptz NOT NULL DEFAULT clock_timestamp(), body text,
    active boolean NOT NULL DEFAULT true, PRIMARY KEY (tenant_id, id, active)) PARTITION BY LIST (active);
CREATE TABLE parted_active PARTITION OF parted FOR VALUES IN (true);
CREATE TABLE parted_archive PARTITION OF parted FOR VALUES IN (false);

CREATE VIEW leaves (layout, relid) AS
    VALUES ('whole', 'whole'::regclass), ('flagged', 'flagged'), ('parted', 'parted_active'), ('parted', 'parted_archive');

-- The last of the 200 are suspended, as many as own the share of the rows.
CREATE TEMPORARY TABLE given AS
    SELECT (n % 200)::text AS tenant_id, n::bigint AS id, '2026-01-01'::timestamptz + n * interval '1 second' AS created_at, 'row ' || n || repeat('.', 60) AS body,
           n % 200 < 200 - :suspended AS active
    FROM generate_series(1, :rows) AS n;
INSERT INTO whole SELECT tenant_id, id, created_at, body FROM given ORDER BY id;
INSERT INTO flagged SELECT * FROM given ORDER BY id;
INSERT INTO parted SELECT * FROM given ORDER BY id;

CREATE INDEX whole_created ON whole (tenant_id, created_at);
CREATE INDEX flagged_created ON flagged (tenant_id, created_at) WHERE active;
CREATE INDEX parted_created ON parted_active (tenant_id, created_at);
SELECT tenancy.protect('whole'), tenancy.protect('flagged'), tenancy.protect('parted');

-- Searched by a GIN index: of all tenants, of the active ones, and with the tenant in it.
CREATE EXTENSION btree_gin;
CREATE TABLE search_whole AS SELECT tenant_id, id, active, ARRAY[(id / 200 % 100)::integer] AS tags FROM given ORDER BY id;
CREATE TABLE search_flagged AS TABLE search_whole;
CREATE TABLE search_tenant AS TABLE search_whole;
SELECT tenancy.protect('search_whole'), tenancy.protect('search_flagged'), tenancy.protect('search_tenant');
CREATE INDEX ON search_whole USING gin (tags);
CREATE INDEX ON search_flagged USING gin (tags) WHERE active;
CREATE INDEX ON search_tenant USING gin (tenant_id, tags);
CREATE POLICY active_only ON search_flagged AS RESTRICTIVE FOR SELECT USING (active);

-- By these, the planner knows that a tenant finds all that it may see.
CREATE POLICY active_only ON flagged AS RESTRICTIVE FOR SELECT USING (active);
CREATE POLICY active_only ON parted AS RESTRICTIVE FOR SELECT USING (active);
GRANT SELECT, INSERT ON whole, flagged, parted, search_whole, search_flagged, search_tenant TO bench_app;
VACUUM (FREEZE, ANALYZE);
