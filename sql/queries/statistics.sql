-- name: points
-- $1 whether all tenants' runs, $2 since, $3 whether the hours are asked, $4 step, $5 queue, $6 type (each NULL: any)
SELECT date_bin($4, at, '2000-01-01Z') AS at, queue, type, outcome, sum(tasks)::bigint AS tasks, sum(waited_ms)::bigint AS waited_ms,
       max(waited_max_ms) AS waited_max_ms, sum(ran_ms)::bigint AS ran_ms, max(ran_max_ms) AS ran_max_ms
FROM app.runs_since($1, $2, $3)
WHERE ($5::text IS NULL OR queue = $5) AND ($6::text IS NULL OR type = $6)
GROUP BY 1, 2, 3, 4;

-- name: spreads
-- $1 whether all tenants' runs, $2 since, $3 whether the hours are asked, $4 queue, $5 type (each NULL: any): how many lie in which range of lengths
SELECT s.queue, s.type, x.waited, (x.entry >> 40)::int AS range, sum(x.entry & 1099511627775)::bigint AS runs
FROM app.runs_since($1, $2, $3) AS s
CROSS JOIN LATERAL (SELECT true AS waited, unnest(s.waited_spread) AS entry UNION ALL SELECT false, unnest(s.ran_spread)) AS x
WHERE ($4::text IS NULL OR s.queue = $4) AND ($5::text IS NULL OR s.type = $5)
GROUP BY 1, 2, 3, 4;

-- name: step_under_way
-- $1 step: when the one that runs now began
SELECT date_bin($1, app.now(), '2000-01-01Z') AS began;
