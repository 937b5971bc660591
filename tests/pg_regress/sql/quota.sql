-- Quotas: a tenant's own before its plan's before the default, for good and per period, soft and hard.
\set VERBOSITY default
CREATE TABLE agent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, size integer DEFAULT 1);
SET client_min_messages = warning;
SELECT tenancy.protect('agent'), tenancy.meter('agent', 'agents');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON agent TO regress_app;
CREATE VIEW status AS
    SELECT tenant_id, resource, period, scope, used, reserved, "limit", soft_limit, remaining, percentage FROM tenancy.quota_status
    WHERE tenant_id IN ('acme', 'beta') ORDER BY tenant_id, resource, period;
GRANT SELECT ON status TO regress_app;

-- What cannot be set.
SELECT tenancy.set_quota('nobody', 'agents', 1);               -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'agents', -1);                -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'agents', 1, 'week');         -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'agents', 1, NULL, 2);        -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'no such name', 1);           -- SHOULD FAIL
SELECT tenancy.set_plan_quota('', 'agents', 1);                -- SHOULD FAIL
SET ROLE regress_app;
SELECT tenancy.set_quota('acme', 'agents', 100);               -- SHOULD FAIL
RESET ROLE;

-- Precedence. acme is on the plan gold, beta on none.
SELECT tenancy.set_default_quota('agents', 1);
SELECT tenancy.set_plan_quota('gold', 'agents', 3);
TABLE status;
SELECT tenancy.set_quota('acme', 'agents', 4, soft_limit => 2);
TABLE status;
SELECT * FROM tenancy.quotas ORDER BY scope;

SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.check_quota('agents'), tenancy.check_quota('agents', 4), tenancy.check_quota('agents', 5);
INSERT INTO agent DEFAULT VALUES;
INSERT INTO agent (size) VALUES (1), (1);                      -- passes the soft limit
SELECT tenancy.check_quota('agents'), tenancy.check_quota('agents', 2);
INSERT INTO agent (size) VALUES (1), (1);                      -- SHOULD FAIL: all or nothing
INSERT INTO agent DEFAULT VALUES;
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL
TABLE status;
-- A tenant sees nothing of another's.
SELECT * FROM tenancy.quota_status WHERE tenant_id = 'beta';
SELECT * FROM _tenancy.usage_of('beta', 'agents');             -- SHOULD FAIL
SELECT * FROM tenancy.quotas;                                  -- SHOULD FAIL
-- Within a transaction, what is given back can be taken again.
BEGIN;
DELETE FROM agent WHERE id = 1;
INSERT INTO agent DEFAULT VALUES;
SAVEPOINT s;
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL
ROLLBACK TO s;
SELECT used, reserved FROM status;
COMMIT;
-- What a savepoint has taken is given back with it.
BEGIN;
SAVEPOINT s;
DELETE FROM agent;
INSERT INTO agent (size) VALUES (1), (1), (1), (1);
ROLLBACK TO s;
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL
ROLLBACK;
SET tenancy.tenant_id = 'beta';
INSERT INTO agent DEFAULT VALUES;
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL: the default
RESET tenancy.tenant_id;
TABLE status;                                                  -- SHOULD FAIL: whose?
RESET ROLE;

-- A change is in force at the next statement, up and down; above a limit nothing more is taken, and giving back is allowed.
SELECT tenancy.set_quota('beta', 'agents', 0);
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL
TABLE status;
DELETE FROM agent;
INSERT INTO agent DEFAULT VALUES;                              -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
SELECT tenancy.set_quota('beta', 'agents', NULL);              -- not limited
INSERT INTO agent (tenant_id) SELECT 'beta' FROM generate_series(1, 50);
SELECT tenancy.remove_quota('tenant', 'beta', 'agents'), tenancy.remove_quota('tenant', 'beta', 'agents');
INSERT INTO agent (tenant_id) VALUES ('beta');                 -- SHOULD FAIL: superusers as well
TABLE status;
DELETE FROM agent WHERE tenant_id = 'beta';

-- The plan changes with the tenant.
SELECT tenancy.remove_quota('tenant', 'acme', 'agents');
TABLE status;
UPDATE _tenancy.tenants SET plan = 'silver' WHERE id = 'acme';
TABLE status;
UPDATE _tenancy.tenants SET plan = 'gold' WHERE id = 'acme';

-- What is not a row: tracked, per period and for good, once per key.
SELECT tenancy.set_default_quota('tokens', 100, 'day', 80), tenancy.set_default_quota('tokens', 1000),
       tenancy.set_default_quota('tokens', NULL, 'month');
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.track_usage('tokens', 60, '{"model": "small"}');
SELECT tenancy.track_usage('tokens', 30);                      -- passes the soft limit
SELECT tenancy.track_usage('tokens', 11);                      -- SHOULD FAIL
SELECT tenancy.track_usage('tokens', 5, key => 'request-1'), tenancy.track_usage('tokens', 5, key => 'request-1');
SELECT tenancy.track_usage('tokens', 6, key => 'request-1');   -- SHOULD FAIL: another amount
BEGIN;
SELECT tenancy.track_usage('tokens', 5, key => 'request-2');
ROLLBACK;
SELECT tenancy.track_usage('tokens', 5, key => 'request-2');
TABLE status;
SELECT tenancy.track_usage('tokens', -1);                      -- SHOULD FAIL
SELECT tenancy.track_usage('tokens', NULL);                    -- SHOULD FAIL
SELECT tenancy.track_usage('tokens', 1, '[]');                 -- SHOULD FAIL
SELECT tenancy.track_usage('agents', 1);                       -- SHOULD FAIL: metered
SELECT tenancy.check_quota('tokens', -1);                      -- SHOULD FAIL
SELECT tenancy.check_quota('two words');                       -- SHOULD FAIL
SELECT resource, amount, metadata, is_correction FROM tenancy.usage_records WHERE resource = 'tokens' ORDER BY recorded_at, amount;
-- Room is kept for the transaction.
SET tenancy.tenant_id = 'beta';
BEGIN;
SELECT tenancy.enforce_quota('tokens', 70);
SELECT tenancy.track_usage('tokens', 30);
SELECT tenancy.track_usage('tokens', 40);
SELECT tenancy.track_usage('tokens', 31);                      -- SHOULD FAIL
ROLLBACK;
SELECT tenancy.enforce_quota('tokens', 101);                   -- SHOULD FAIL
BEGIN READ ONLY;
SELECT tenancy.check_quota('tokens', 100);
SELECT tenancy.track_usage('tokens', 1);                       -- SHOULD FAIL
ROLLBACK;
SELECT tenancy.track_usage('free', 5), tenancy.check_quota('free', 1000000);
SELECT resource, added, removed, corrected, amount FROM tenancy.usage_daily
    WHERE resource IN ('agents', 'tokens', 'free') ORDER BY resource;
RESET tenancy.tenant_id;
SELECT tenancy.track_usage('tokens', 1);                       -- SHOULD FAIL: whose?
SELECT * FROM tenancy.usage_records;                           -- SHOULD FAIL: whose?
DELETE FROM _tenancy.usage;                                    -- SHOULD FAIL
RESET ROLE;
DELETE FROM _tenancy.usage;                                    -- SHOULD FAIL: superusers as well

-- Periods of other lengths: one spelling each, at most four of a resource, counted for all tenants.
SELECT p AS period, q.name, q.span FROM unnest('{15 minutes,60 minutes,90 seconds,1 week,24 hours,36 hours,1 mon,3 mons,1 year}'::text[]) AS p, _tenancy.quota_period(p) q;
SELECT tenancy.set_quota('acme', 'minutes', 10, 'fortnight');  -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'minutes', 10, '1 month 1 day');  -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'minutes', 10, '0.5 seconds'); -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'minutes', 10, '-1 days');    -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'minutes', 10, '178000000 years'); -- SHOULD FAIL
SELECT tenancy.set_quota('acme', 'minutes', 10, 'infinity');   -- SHOULD FAIL
SELECT tenancy.set_default_quota('minutes', 10, '1 week', 8);
SELECT tenancy.set_quota('acme', 'minutes', 12, '7 days');     -- the same period
SELECT * FROM tenancy.quotas WHERE resource = 'minutes';
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
SELECT tenancy.track_usage('minutes', 9);                      -- passes the soft limit
SELECT tenancy.track_usage('minutes', 2);                      -- SHOULD FAIL
SET tenancy.tenant_id = 'acme';
SELECT tenancy.track_usage('minutes', 12);
RESET ROLE;
RESET tenancy.tenant_id;
SELECT tenant_id, period, scope, used, "limit", remaining FROM tenancy.quota_status WHERE resource = 'minutes' AND used > 0 ORDER BY tenant_id;
SELECT tenancy.set_default_quota('minutes', NULL, p) FROM unnest('{2 days,3 days,4 days}'::text[]) AS p;
SELECT tenancy.set_default_quota('minutes', NULL, '5 days');   -- SHOULD FAIL: a fifth
SELECT tenancy.remove_quota('default', NULL, 'minutes', '4 days'), tenancy.remove_quota('default', NULL, 'minutes', '7 days');
SELECT resource, period FROM _tenancy.quota_periods ORDER BY span; -- acme still has one over seven days

-- Indexes that a superuser adds to the ledger know its entries as well; one that is not plain is refused at the next charge.
CREATE INDEX by_amount ON _tenancy.usage_open (amount, tenant_id);
SET tenancy.tenant_id = 'acme';
SELECT tenancy.track_usage('indexed', 101);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS off) SELECT resource FROM _tenancy.usage_open WHERE amount = 101;
SELECT resource FROM _tenancy.usage_open WHERE amount = 101;
RESET enable_seqscan;
RESET enable_bitmapscan;
CREATE INDEX by_name ON _tenancy.usage_open (upper(resource));
SELECT tenancy.track_usage('indexed', 102);                    -- SHOULD FAIL
DROP INDEX _tenancy.by_amount, _tenancy.by_name;
SELECT tenancy.track_usage('indexed', 103);
RESET tenancy.tenant_id;

-- Settling changes where entries are, and no figure.
CREATE TEMP TABLE before AS SELECT tenant_id, resource, period, used FROM tenancy.quota_status;
SELECT count(*) > 0 AS open FROM _tenancy.usage_open;
SELECT tenancy.settle_usage(3);
SELECT tenancy.create_usage_partitions(1) AS partitions;
-- Also where all tables are published.
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
RESET client_min_messages;
SELECT tenancy.settle_usage() > 0 AS settled, tenancy.settle_usage() AS again;
DROP PUBLICATION everything;
SELECT count(*) AS open FROM _tenancy.usage_open;
SELECT count(*) AS changed FROM (TABLE before EXCEPT SELECT tenant_id, resource, period, used FROM tenancy.quota_status) AS c;
SELECT count(*) AS misplaced FROM _tenancy.usage_settled_default;
SELECT t.tenant_id, t.resource, t.amount FROM _tenancy.usage_totals t
    EXCEPT SELECT r.tenant_id, r.resource, sum(r.amount) FROM tenancy.usage_records r GROUP BY 1, 2;
SELECT tenancy.create_usage_partitions(1) AS partitions;
SELECT tenancy.drop_usage(now() + '2 months');                 -- SHOULD FAIL
SELECT tenancy.drop_usage(date_trunc('month', now()) - interval '1 month');   -- a quota may count since the month before this one
SELECT count(*) AS changed FROM (TABLE before EXCEPT SELECT tenant_id, resource, period, used FROM tenancy.quota_status) AS c;

DROP VIEW status;
DROP TABLE agent;
SELECT tenancy.remove_quota(scope, name, resource, period) FROM tenancy.quotas;
