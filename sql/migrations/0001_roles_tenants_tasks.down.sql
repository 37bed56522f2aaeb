-- Takes everything of 0001 away. Roles stay: they belong to the cluster and other databases may use them.
DROP VIEW all_tasks;
DROP TABLE llm_calls, task_output, task_signals, task_steps, task_events, task_history, tasks, executors, queues,
  idempotency, sessions, api_keys, users, tenants CASCADE;
DROP SEQUENCE task_events_seq;
DROP SCHEMA app CASCADE;
REVOKE ALL ON SCHEMA public FROM galley_owner, galley_web, galley_engine;
