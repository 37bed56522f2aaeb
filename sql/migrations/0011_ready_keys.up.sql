-- works-with: 3
-- Why: whether a task of a key is ready must be known at once, however many others are: while one is, the sweep wakes no more of that key.
-- Holds back whoever writes to live tasks while the index is built.

SET ROLE galley_owner;
CREATE INDEX tasks_ready_keys ON tasks (tenant_id, queue, concurrency_key) WHERE state = 'queued' AND concurrency_key IS NOT NULL;   -- app.wake_keys
RESET ROLE;
