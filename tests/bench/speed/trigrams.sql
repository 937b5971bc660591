CREATE EXTENSION pg_trgm;
CREATE INDEX ON documents USING gin (title gin_trgm_ops);
