-- name: finished_by_hour
-- $1 tenant, $2 hours. How many tasks ended in each hour, by state and type. Ids begin with the time of creation, so the range of
-- ids bounds what is read; a task that was created before the range and ended inside it is not counted.
SELECT date_trunc('hour', finished_at, 'UTC') AS hour, state, type, count(*) AS tasks
FROM task_history
WHERE tenant_id = $1 AND id >= app.uuid7_floor(app.now() - make_interval(hours => $2)) AND finished_at >= app.now() - make_interval(hours => $2)
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
