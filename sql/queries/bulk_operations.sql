-- name: moment
-- no parameters; what is made or ends from now on is no part of what is previewed
SELECT app.uuid7() AS newest_id, app.now() AS seen_at;

-- name: count_matches
-- $1 tenant, $2 action, $3 target, $4 filter, $5 newest id, $6 seen at, $7 how many are counted at most
SELECT m.state, m.type, count(*)::int AS matches
FROM app.bulk_matches($1, $2, $3, $4, $5, $6, NULL, $7) AS m
GROUP BY m.state, m.type
ORDER BY matches DESC, m.state, m.type;

-- name: list_matches
-- $1 tenant, $2 action, $3 target, $4 filter, $5 newest id, $6 seen at, $7 after id (NULL: from the first on), $8 at most
SELECT m.id FROM app.bulk_matches($1, $2, $3, $4, $5, $6, $7, $8) AS m ORDER BY m.id;

-- name: start
-- $1 tenant, $2 confirmation id, $3 action, $4 target, $5 filter, $6 changes, $7 reason, $8 newest id, $9 seen at, $10 total, $11 whether that is exact,
-- $12 actor, $13 request id, $14 seconds that a confirmation is good for; nothing when it is too old or has begun one before
INSERT INTO bulk_operations (tenant_id, confirmation_id, action, target, filter, changes, reason, newest_id, seen_at, total, total_is_exact,
  created_by, request_id)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::timestamptz, $10, $11, $12, $13
WHERE app.now() < $9 + make_interval(secs => $14)
ON CONFLICT (tenant_id, confirmation_id) DO NOTHING
RETURNING *;

-- name: find_confirmed
-- $1 tenant, $2 confirmation id
SELECT * FROM bulk_operations WHERE tenant_id = $1 AND confirmation_id = $2;

-- name: get
-- $1 tenant, $2 id
SELECT * FROM bulk_operations WHERE tenant_id = $1 AND id = $2;

-- name: list
-- $1 tenant, $2 before id (NULL: newest), $3 limit, $4 state (NULL: any)
SELECT * FROM bulk_operations
WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($4::text IS NULL OR state = $4)
ORDER BY id DESC
LIMIT $3;

-- name: list_waiting
-- no parameters; of all tenants
SELECT id, tenant_id, created_by FROM app.find_bulk_operations();

-- name: lock
-- $1 tenant, $2 id: for one batch; nothing when it has ended or another process is at it
SELECT * FROM bulk_operations
WHERE tenant_id = $1 AND id = $2 AND state = 'running' AND resume_at <= app.now()
FOR NO KEY UPDATE SKIP LOCKED;

-- name: lock_tasks
-- $1 tenant, $2 ids, $3 state (NULL: any live one): those of them that nobody is writing to, and that are still in that state
SELECT id FROM tasks
WHERE tenant_id = $1 AND id = ANY ($2) AND ($3::text IS NULL OR state = $3)
ORDER BY id
FOR NO KEY UPDATE SKIP LOCKED;

-- name: lock_reviewed
-- $1 tasks, locked: those of them that cannot be ended now, because somebody is writing to an item that they wait for a decision about
SELECT app.lock_reviewed($1);

-- name: lock_requeues
-- $1 tasks: those of them that nobody else is requeueing right now
SELECT u.id FROM unnest($1::uuid[]) AS u (id) WHERE pg_try_advisory_xact_lock(app.requeue_lock(u.id));

-- name: list_unrepeated
-- $1 tenant, $2 tasks: those of them that have not been requeued
SELECT u.id FROM unnest($2::uuid[]) AS u (id)
WHERE NOT EXISTS (SELECT FROM tasks r WHERE r.tenant_id = $1 AND r.retry_of = u.id)
  AND NOT EXISTS (SELECT FROM task_history r WHERE r.tenant_id = $1 AND r.retry_of = u.id);

-- name: advance
-- $1 tenant, $2 id, $3 done, $4 skipped and $5 failed in this batch, $6 failures to remember, $7 cursor, $8 busy, $9 passes, $10 seconds to pause,
-- $11 whether it is over
UPDATE bulk_operations
SET done = done + $3, skipped = skipped + $4, failed = failed + $5, failures = failures || $6::jsonb, cursor = $7, busy = $8, passes = $9,
    resume_at = app.now() + make_interval(secs => $10),
    state = CASE WHEN $11 THEN 'done' ELSE state END,
    finished_at = CASE WHEN $11 THEN app.now() END
WHERE tenant_id = $1 AND id = $2;

-- name: stop
-- $1 tenant, $2 id, $3 actor
UPDATE bulk_operations SET state = 'stopped', finished_at = app.now(), stopped_by = $3
WHERE tenant_id = $1 AND id = $2 AND state = 'running'
RETURNING *;

-- name: give_up
-- $1 tenant, $2 id, $3 error
UPDATE bulk_operations SET state = 'failed', finished_at = app.now(), error = $3
WHERE tenant_id = $1 AND id = $2 AND state = 'running';
