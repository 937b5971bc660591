-- Run in the directory of the CSV files.
\copy airlines FROM 'airlines.csv' (FORMAT csv, HEADER, NULL 'NA')
\copy airports FROM 'airports.csv' (FORMAT csv, HEADER, NULL 'NA')
\copy planes (tailnum, year, type, manufacturer, model, engines, seats, speed, engine) FROM 'planes.csv' (FORMAT csv, HEADER, NULL 'NA')
\copy weather FROM 'weather.csv' (FORMAT csv, HEADER, NULL 'NA')
\copy flights (year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time, distance, hour, minute, time_hour) FROM 'flights.csv' (FORMAT csv, HEADER, NULL 'NA')
VACUUM ANALYZE;
