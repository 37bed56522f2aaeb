"""Who is measured: how each is started, at which settings, and how the database tells that its tasks are finished.

`unfinished` takes the ids of the tasks that ran last, so that waiting for the end of a drain costs nobody a scan; `left` and `done`
count everything and are asked once afterwards: a contender that lost or doubled a task has no figure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One engine. `share` is the part of the tasks it gets: a slow one would take minutes for the same rate."""

    name: str
    kind: str  # own, python or node
    program: str  # in tests/bench/workers
    settings: str
    keeps: str  # what is left of a finished task
    unfinished: str
    left: str
    done: str = ""  # empty: it keeps nothing to count
    seed: tuple[str, ...] = ()  # $1 finished tasks, as it would have left them itself
    share: float = 1.0

    @property
    def database(self) -> str:
        """The name of its database."""
        return "bench_" + self.name.replace("-", "_")


GALLEY = Contender(
    name="galley",
    kind="own",
    program="tests.bench.workers.galley",
    settings="EXECUTOR_SLOTS=2000",
    keeps="the whole task with its result, in task_history",
    unfinished="SELECT EXISTS (SELECT FROM tasks WHERE id = ANY ($1::text[]::uuid[]))",
    left="SELECT count(*) FROM tasks",
    done="SELECT count(*) FROM task_history WHERE state = 'succeeded'",
    seed=(
        """
        INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes,
          fence, executor_id, run_at, created_at, created_by, started_at, timeout_seconds, payload, finished_at, result)
        SELECT uuidv7(-made.ago), t.id, 'default', 'noop', 1, 'succeeded', 2, 1, 5, 0, 0, 1, app.uuid7(), app.now() - made.ago,
               app.now() - made.ago, 'bench', app.now() - made.ago, 3600, '{}', app.now() - made.ago + interval '20 ms', '{"slept": 0}'
        FROM tenants t, (SELECT interval '7 days' * (1 - n::float8 / $1::int) AS ago FROM generate_series(1, $1::int) n) made
        WHERE t.name = 'bench'
        """,
        """
        INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)
        SELECT h.tenant_id, date_trunc('minute', h.finished_at), h.queue, h.type, h.state, count(*), 0, 0, 20 * count(*), 20
        FROM task_history h
        WHERE h.type = 'noop'
        GROUP BY 1, 2, 3, 4, 5
        """,
        "SELECT app.fold_statistics(30)",
    ),
)
BARE = Contender(
    name="bare",
    kind="own",
    program="tests.bench.workers.bare",
    settings="500 rows a claim, one connection",
    keeps="the row, marked done",
    unfinished="SELECT EXISTS (SELECT FROM bare WHERE id = ANY ($1::text[]::bigint[]) AND state <> 'done')",
    left="SELECT count(*) FROM bare WHERE state <> 'done'",
    done="SELECT count(*) FROM bare WHERE state = 'done'",
    seed=(
        "INSERT INTO bare (state, payload, result) SELECT 'done', '{}', '{\"slept\": 0}' FROM generate_series(1, $1::int)",
    ),
)
PGQUEUER = Contender(
    name="pgqueuer",
    kind="python",
    program="tests.bench.workers.pgqueuer",
    settings="batch_size 1000, asyncpg pool, its autovacuum settings",
    keeps="three log rows a task, without the payload",
    unfinished="SELECT EXISTS (SELECT FROM pgqueuer WHERE id = ANY ($1::text[]::bigint[]))",
    left="SELECT count(*) FROM pgqueuer",
    done="SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
    seed=(
        """
        INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint, aggregated)
        SELECT now() - interval '7 days' * (1 - n::float8 / $1::int), -n, s.status::pgqueuer_status, 0, 'measured', true
        FROM generate_series(1, $1::int) n, unnest(ARRAY['queued', 'picked', 'successful']) s (status)
        """,
    ),
)
GRAPHILE = Contender(
    name="graphile-worker",
    kind="node",
    program="graphile_worker.mjs",
    settings="concurrentJobs 24, localQueue 500, completeJobBatchDelay 0",
    keeps="nothing: the row is deleted",
    unfinished="SELECT EXISTS (SELECT FROM graphile_worker._private_jobs WHERE id = ANY ($1::text[]::bigint[]))",
    left="SELECT count(*) FROM graphile_worker._private_jobs",
)
PG_BOSS = Contender(
    name="pg-boss",
    kind="node",
    program="pg_boss.mjs",
    settings="batchSize 1000, localConcurrency 2, burstWhenBatchFull; a batch succeeds or fails as a whole",
    keeps="the job for 7 days, in the same table",
    unfinished="SELECT EXISTS (SELECT FROM pgboss.job WHERE name IN ('measured', 'measured-quick') AND id = ANY ($1::text[]::uuid[]) AND state <> 'completed')",
    left="SELECT count(*) FROM pgboss.job WHERE name LIKE 'measured%' AND state <> 'completed'",
    done="SELECT count(*) FROM pgboss.job WHERE name LIKE 'measured%' AND state = 'completed'",
    seed=(
        """
        INSERT INTO pgboss.job (name, data, state, retry_limit, expire_seconds, deletion_seconds, start_after, created_on, started_on,
          completed_on, keep_until, policy)
        SELECT 'measured', '{}', 'completed', q.retry_limit, q.expire_seconds, q.deletion_seconds, m.at, m.at, m.at,
               m.at + interval '20 ms', now() + interval '14 days', q.policy
        FROM pgboss.queue q, (SELECT now() - interval '6 days' * (1 - n::float8 / $1::int) AS at FROM generate_series(1, $1::int) n) m
        WHERE q.name = 'measured'
        """,
    ),
)
PROCRASTINATE = Contender(
    name="procrastinate",
    kind="python",
    program="tests.bench.workers.procrastinate",
    settings="concurrency 50, pool of 20",
    keeps="the job and three events, in the same table",
    unfinished="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE id = ANY ($1::text[]::bigint[]) AND status <> 'succeeded')",
    left="SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'",
    done="SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
    share=0.1,
    seed=(
        "SET session_replication_role = replica",
        """
        INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, attempts)
        SELECT 'default', 'measured', '{}', 'succeeded', 1 FROM generate_series(1, $1::int)
        """,
        """
        INSERT INTO procrastinate_events (job_id, type)
        SELECT j.id, e.type::procrastinate_job_event_type
        FROM procrastinate_jobs j, unnest(ARRAY['deferred', 'started', 'succeeded']) e (type)
        WHERE j.status = 'succeeded' AND NOT EXISTS (SELECT FROM procrastinate_events x WHERE x.job_id = j.id)
        """,
        "RESET session_replication_role",
    ),
)

CONTENDERS = (GALLEY, BARE, GRAPHILE, PG_BOSS, PGQUEUER, PROCRASTINATE)
