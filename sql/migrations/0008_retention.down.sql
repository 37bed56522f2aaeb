-- Months stay as they are.
SET ROLE galley_owner;
DROP POLICY owner ON task_history_default;
DROP POLICY owner ON task_steps_default;
DROP POLICY owner ON task_events_default;
RESET ROLE;
