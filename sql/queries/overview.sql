-- name: ended_by_hour
-- $1 tenant, $2 hours. How runs ended in each hour, by outcome and type: the hours that have been folded, and what is not in them yet. History is never counted.
SELECT hour, outcome, type, sum(tasks)::bigint AS tasks, sum(waited_ms)::bigint AS waited_ms, max(waited_max_ms) AS waited_max_ms,
       sum(ran_ms)::bigint AS ran_ms, max(ran_max_ms) AS ran_max_ms
FROM (
  SELECT hour, outcome, type, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms
  FROM task_statistics_hours
  WHERE tenant_id = $1 AND hour >= date_trunc('hour', app.now(), 'UTC') - make_interval(hours => $2)
  UNION ALL
  SELECT date_bin('1 hour', minute, '2000-01-01Z'), outcome, type, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms
  FROM task_statistics
  WHERE tenant_id = $1 AND minute >= date_trunc('hour', app.now(), 'UTC') - make_interval(hours => $2) AND NOT folded
) AS counted
GROUP BY 1, 2, 3;

-- name: spending
-- $1 tenant, $2 hours. What was asked of models; calls without a known price count in `unpriced`.
SELECT count(*) AS calls, coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0) AS tokens, sum(cost_usd) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM llm_calls
WHERE tenant_id = $1 AND id >= app.uuid7_floor(app.now() - make_interval(hours => $2));

-- name: now
-- the clock the hours are counted by
SELECT app.now() AS now;
