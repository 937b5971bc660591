-- Runs once, first. `tenancy` is the API; `_tenancy` is private: its tables are granted to nobody, and USAGE
-- lets the API's functions, which run with the rights of their callers, reach the functions that check rights.
-- CREATE EXTENSION puts a schema of the installer's in front, where others may have operators that match better than ours.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE SCHEMA tenancy;
COMMENT ON SCHEMA tenancy IS 'multi-tenancy: the functions and views that users call';
GRANT USAGE ON SCHEMA tenancy TO PUBLIC;

CREATE SCHEMA _tenancy;
COMMENT ON SCHEMA _tenancy IS 'multi-tenancy: private tables and functions of extension tenancy';
GRANT USAGE ON SCHEMA _tenancy TO PUBLIC;
