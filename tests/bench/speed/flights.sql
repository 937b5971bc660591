-- The flights of the demo (tables flights and planes), as often as :copies says, a year later each time: the airline is
-- the tenant. With what an airline would have beside them: its fleet, and its routes.
ALTER TABLE flights RENAME TO flights_2013;
CREATE TABLE flights AS
    SELECT n * 336776 + id AS id, carrier, flight, tailnum, origin, dest, year + n::integer AS year, month, day, dep_time,
           sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, air_time, distance, hour, minute,
           time_hour + n * interval '1 year' AS time_hour
    FROM generate_series(0, :copies - 1) AS n, flights_2013 ORDER BY n, id;
CREATE TABLE fleet AS
    SELECT DISTINCT f.carrier, p.tailnum, p.manufacturer, p.model, p.seats, p.year
    FROM flights_2013 f JOIN planes p ON p.tailnum = f.tailnum;
CREATE TABLE routes AS SELECT DISTINCT carrier, origin, dest, distance FROM flights_2013;
DROP TABLE flights_2013, planes, airlines, airports, weather;

-- The indexes of a database that knows of its tenants: the keys, and the tenant before what is searched or sorted by.
ALTER TABLE flights ADD PRIMARY KEY (id), ALTER carrier SET NOT NULL;
CREATE INDEX ON flights (carrier, time_hour DESC, id DESC);
CREATE INDEX ON flights (carrier, tailnum);
ALTER TABLE fleet ADD PRIMARY KEY (carrier, tailnum);
ALTER TABLE routes ADD PRIMARY KEY (carrier, origin, dest, distance);
