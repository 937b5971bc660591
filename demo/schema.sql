-- An ordinary schema, as the application had it before it had tenants.

CREATE TABLE airlines (carrier text PRIMARY KEY, name text NOT NULL);

CREATE TABLE airports (
    faa text PRIMARY KEY, name text NOT NULL, lat float8, lon float8,
    alt integer, tz integer, dst text, tzone text
);

CREATE TABLE planes (
    tailnum text NOT NULL, year integer, type text, manufacturer text, model text,
    engines integer, seats integer, speed integer, engine text,
    carrier text -- NULL: for every airline
);
CREATE UNIQUE INDEX ON planes (tailnum, carrier) NULLS NOT DISTINCT;

CREATE TABLE weather (
    origin text, year integer, month integer, day integer, hour integer, temp float8, dewp float8,
    humid float8, wind_dir integer, wind_speed float8, wind_gust float8, precip float8,
    pressure float8, visib float8, time_hour timestamptz
);

CREATE TABLE flights (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    year integer, month integer, day integer, dep_time integer, sched_dep_time integer,
    dep_delay integer, arr_time integer, sched_arr_time integer, arr_delay integer,
    carrier text, flight integer, tailnum text, origin text, dest text, air_time integer,
    distance integer, hour integer, minute integer, time_hour timestamptz
);
