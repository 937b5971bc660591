-- What applications count and measure, and all figures in the text format of Prometheus.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
DELETE FROM _tenancy.metric_series;
SELECT tenancy.stat_tenants_reset();
SELECT tenancy.record_metric('agent_executions_total');        -- SHOULD FAIL: no tenant
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.record_metric('agent_executions_total', '{"type": "chat", "status": "ok"}');
SELECT tenancy.record_metric('agent_executions_total', '{"status": "ok", "type": "chat"}', 2);
SELECT tenancy.record_metric('agent_executions_total', '{"type": "chat", "status": "failed"}', 0.5);
SELECT tenancy.record_metric('agent_executions_total', '{"type": "a \"b\" \\ c\nd", "n": 5, "is": true}');
SELECT tenancy.record_metric('queue_length', '{}', 7), tenancy.record_metric('queue_length', '{}', -3.25);
SELECT tenancy.record_metric('temperature', '{}', 'infinity'), tenancy.record_metric('nothing', '{}', 'nan');
BEGIN;
SELECT tenancy.record_metric('agent_executions_total', '{"type": "chat", "status": "ok"}', 100);
ROLLBACK;
SELECT tenancy.record_metric(NULL);                            -- SHOULD FAIL
SELECT tenancy.record_metric('x', NULL);                       -- SHOULD FAIL
SELECT tenancy.record_metric('no good');                       -- SHOULD FAIL
SELECT tenancy.record_metric('tenancy_statements_total');      -- SHOULD FAIL: ours
SELECT tenancy.record_metric('1x');                            -- SHOULD FAIL
SELECT tenancy.record_metric('x_total', '{}', -1);             -- SHOULD FAIL: a counter does not fall
SELECT tenancy.record_metric('x_total', '{}', 'nan');          -- SHOULD FAIL
SELECT tenancy.record_metric('x_total', '{}', 1e201);          -- SHOULD FAIL: two of the largest numbers have no sum
SELECT tenancy.record_metric('x', '[]');                       -- SHOULD FAIL
SELECT tenancy.record_metric('x', '{"tenant_id": "beta"}');    -- SHOULD FAIL: taken
SELECT tenancy.record_metric('x', '{"__name__": "y"}');        -- SHOULD FAIL
SELECT tenancy.record_metric('x', '{"a": {"b": 1}}');          -- SHOULD FAIL
SELECT tenancy.record_metric('x', jsonb_build_object('a', repeat('v', 129)));    -- SHOULD FAIL
SET tenancy.tenant_id = 'beta';
SELECT tenancy.record_metric('agent_executions_total', '{"type": "chat", "status": "ok"}', 40);
SELECT name, labels, value FROM tenancy.metric_values ORDER BY name, labels;
SET tenancy.tenant_id = 'acme';
SELECT name, labels, value FROM tenancy.metric_values ORDER BY name, labels::text COLLATE "C";
SELECT line FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line !~ 'tenancy_';
SELECT DISTINCT regexp_replace(line, '[0-9.e-]+$', 'N') FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ '^tenancy_(statements|transactions)';
SELECT pg_sleep(0.1);                                          -- so that it is the busier one
SELECT count(*) FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ 'beta|\(rest\)|\(none\)';
RESET tenancy.tenant_id;
SELECT tenancy.metrics();                                      -- SHOULD FAIL: no tenant
SELECT count(*) FROM tenancy.metric_values;                    -- SHOULD FAIL: likewise
SELECT * FROM _tenancy.metric_series;                          -- SHOULD FAIL
SELECT * FROM _tenancy.metric_values;                          -- SHOULD FAIL
RESET ROLE;
-- All of them, for whoever may monitor. Of as many tenants as is said, the others are added up.
SELECT line FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ '^agent.*ok';
SET tenancy.metric_tenants = 1;
SELECT line FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ '^agent';
SELECT DISTINCT (regexp_match(line, 'tenant_id="([^"]*)"'))[1] !~ '^\(' AS is_one, count(*) FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ '^tenancy_statements' GROUP BY 1;
RESET tenancy.metric_tenants;
-- A tenant, and not a series, has a place: many labels of one put out no other.
SELECT count(tenancy.record_metric('place', jsonb_build_object('n', g))) FROM (SELECT set_config('tenancy.tenant_id', 'acme', false)) AS s, generate_series(1, 5) AS g;
SELECT tenancy.record_metric('place') FROM (SELECT set_config('tenancy.tenant_id', 'beta', false)) AS s;
RESET tenancy.tenant_id;
SET tenancy.metric_tenants = 2;
SELECT line FROM regexp_split_to_table(tenancy.metrics(), E'\n') AS line WHERE line ~ '^place';
RESET tenancy.metric_tenants;
-- Series are bounded.
SET tenancy.metric_series = 13;
SET tenancy.tenant_id = 'acme';
SELECT count(tenancy.record_metric('many_total', jsonb_build_object('n', g))) FROM generate_series(1, 20) AS g;
SELECT labels, value FROM tenancy.metric_values WHERE name = 'many_total' ORDER BY 1;
-- As are names: calls with new ones are counted.
SELECT count(tenancy.record_metric('many_total', jsonb_build_object('n', 'more'))), count(tenancy.record_metric('name_' || g, '{}', 5)) FROM generate_series(1, 20) AS g;
SELECT name, labels, value FROM tenancy.metric_values WHERE labels ? 'overflow' ORDER BY 1;
SELECT count(*) <= 13 + 2 AS are_few FROM tenancy.metric_values;
RESET tenancy.metric_series;
-- Entries are added up, and the sum stays.
SELECT count(tenancy.record_metric('summed_total')) FROM generate_series(1, 200);
SELECT value FROM tenancy.metric_values WHERE name = 'summed_total';
SELECT count(*) < 100 AS are_few FROM _tenancy.metric_entries WHERE name = 'summed_total';
SET default_transaction_isolation = 'repeatable read';
SELECT count(tenancy.record_metric('summed_total')) FROM generate_series(1, 50);
RESET default_transaction_isolation;
SELECT value FROM tenancy.metric_values WHERE name = 'summed_total';
RESET tenancy.tenant_id;
DELETE FROM _tenancy.metric_series;
DELETE FROM _tenancy.metric_entries;
