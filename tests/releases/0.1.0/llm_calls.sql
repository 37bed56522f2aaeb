-- Money: one row per request to a model. Reserved before the request, settled with its answer, unknown when it was
-- interrupted or refused. Not fenced: what was asked for is booked whatever became of the task.

-- name: reserve
-- $1 tenant, $2 task, $3 fence, $4 step, $5 prompt version, $6 model, $7 request hash.
-- No row: this run no longer owns the task, so it may not buy anything more.
INSERT INTO llm_calls (tenant_id, task_id, fence, step, prompt_version_id, model, request_hash)
SELECT t.tenant_id, t.id, t.fence, $4, $5, $6, $7
FROM tasks t
WHERE t.tenant_id = $1 AND t.id = $2 AND t.fence = $3 AND t.state = 'running'
RETURNING id;

-- name: mark_interrupted
-- $1 tenant, $2 task, $3 fence. What earlier runs of this task left open.
UPDATE llm_calls
SET state = 'unknown', finished_at = app.now(), error = 'its run ended before the answer was booked'
WHERE tenant_id = $1 AND task_id = $2 AND fence < $3 AND state = 'reserved';

-- name: find_settled
-- $1 tenant, $2 task, $3 step, $4 request hash. The answer to exactly this question, if it was bought before.
SELECT id, model, output, input_tokens, output_tokens, latency_ms, error
FROM llm_calls
WHERE tenant_id = $1 AND task_id = $2 AND step = $3 AND request_hash = $4 AND state = 'settled'
ORDER BY started_at
LIMIT 1;

-- name: list
-- $1 tenant, $2 task. Oldest first.
SELECT id, task_id, fence, step, prompt_version_id, model, state, input_tokens, output_tokens, cost_usd,
       latency_ms, first_token_ms, error, started_at, finished_at
FROM llm_calls
WHERE tenant_id = $1 AND task_id = $2
ORDER BY started_at, id;

-- name: settle
-- $1 tenant, $2 id, $3 answer, $4 model that answered, $5 input tokens, $6 output tokens, $7 cost in USD (NULL: unknown price),
-- $8 milliseconds in all, $9 milliseconds to the first piece, $10 remark.
-- An unknown row may still be settled: the rescuer wrote it off before its slow run brought the answer in.
UPDATE llm_calls
SET state = 'settled', output = $3, model = $4, input_tokens = $5, output_tokens = $6, cost_usd = $7,
    latency_ms = $8, first_token_ms = $9, error = $10, finished_at = app.now()
WHERE tenant_id = $1 AND id = $2 AND state IN ('reserved', 'unknown')
RETURNING id;

-- name: mark_unknown
-- $1 tenant, $2 id, $3 what happened, $4 milliseconds until then, $5 cost in USD (0: refused before any work, NULL: cannot be known).
UPDATE llm_calls
SET state = 'unknown', error = $3, latency_ms = $4, cost_usd = $5, finished_at = app.now()
WHERE tenant_id = $1 AND id = $2 AND state = 'reserved';
