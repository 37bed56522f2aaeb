-- Takes the schedules and the record of their ticks away. The tasks that they made stay.
DROP FUNCTION IF EXISTS app.due_schedules(int);
DROP FUNCTION IF EXISTS app.sweep_schedule_ticks(int, int);
SET ROLE galley_owner;
DROP TABLE schedule_ticks, schedules;
RESET ROLE;
