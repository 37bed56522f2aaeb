-- name: list
-- $1 name (NULL: all). A pause whose date has passed is over, whether it has been cleared away or not.
SELECT name, created_at, max_running, max_running_per_tenant, rate_per_second, burst, fair, updated_at, updated_by,
       CASE WHEN paused THEN paused_at END AS paused_at, CASE WHEN paused THEN paused_by END AS paused_by,
       CASE WHEN paused THEN pause_reason END AS pause_reason, CASE WHEN paused THEN resume_at END AS resume_at
FROM (SELECT q.*, q.paused_at IS NOT NULL AND coalesce(q.resume_at > app.now(), true) AS paused FROM queues q) AS seen
WHERE $1::text IS NULL OR name = $1
ORDER BY name;

-- name: count_live
-- $1 whether all tenants' tasks, $2 the largest exact count
SELECT queue, state, tasks, more FROM app.count_live($1, $2);

-- name: oldest_ready
-- $1 whether all tenants' tasks
SELECT queue, run_at FROM app.oldest_ready($1);

-- name: recent_runs
-- $1 whether all tenants' tasks, $2 minutes
SELECT queue, minute, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms FROM app.recent_runs($1, $2);

-- name: minute
-- the minute that runs now
SELECT date_trunc('minute', app.now()) AS minute;

-- name: list_tenant_limits
SELECT queue, tenant, max_running, updated_at, updated_by FROM app.list_tenant_limits();

-- name: find_own_limits
-- $1 tenant
SELECT queue, max_running FROM queue_tenant_limits WHERE tenant_id = $1;

-- name: create
-- $1 name, $2 actor
SELECT app.create_queue($1, $2);

-- name: change
-- $1 name, $2 changes, $3 actor
SELECT app.change_queue($1, $2, $3);

-- name: pause
-- $1 name, $2 until (NULL: until it is resumed), $3 reason, $4 actor
SELECT app.pause_queue($1, $2, $3, $4);

-- name: lies_ahead
-- $1 moment
SELECT $1::timestamptz > app.now();

-- name: resume
-- $1 name
SELECT app.resume_queue($1);

-- name: limit_tenant
-- $1 queue, $2 name of the tenant, $3 how many running at most (NULL: as the queue says), $4 actor
SELECT app.limit_tenant($1, $2, $3, $4);

-- name: delete
-- $1 name
SELECT app.delete_queue($1);
