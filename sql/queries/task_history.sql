-- name: now
-- the clock that the events were dated by
SELECT app.now() AS now;
