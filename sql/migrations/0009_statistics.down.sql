-- Takes percentiles and the numbers per hour away; those per minute stay.
DROP AGGREGATE IF EXISTS app.sum_spreads(bigint[]);
DROP FUNCTION IF EXISTS app.tidy_spread(bigint[]);
DROP FUNCTION IF EXISTS app.spread_entry(int, bigint);
DROP FUNCTION IF EXISTS app.length_range(double precision);
SET ROLE galley_owner;
DROP INDEX task_history_key;
DROP INDEX task_history_kind;
DROP INDEX task_statistics_own_loose;
DROP TABLE task_statistics_hours;
ALTER TABLE task_statistics DROP COLUMN waited_spread, DROP COLUMN ran_spread;
RESET ROLE;
