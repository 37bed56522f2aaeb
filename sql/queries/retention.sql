-- name: months_ahead
SELECT app.months_ahead();

-- name: old_months
-- $1 days that history is kept
SELECT parent, month FROM app.old_months($1);

-- name: retire_month
-- $1 table, $2 month, $3 days that history is kept, $4 rows to look at
SELECT app.retire_month($1, $2, $3, $4);

-- name: forget_closed
-- $1 days that history is kept, $2 how many of each kind
SELECT app.forget_closed($1, $2);
