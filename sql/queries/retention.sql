-- name: months_ahead
SELECT app.months_ahead();

-- name: old_months
-- $1 days that history is kept
SELECT parent, month FROM app.old_months($1);

-- name: take_time
-- looking through a month of history may take longer than any statement of the engine
SET LOCAL statement_timeout = '10min';

-- name: drop_month
-- $1 table, $2 month, $3 days that history is kept
SELECT app.drop_month($1, $2, $3);
