-- Takes rules and alerts away.
DROP FUNCTION IF EXISTS app.evaluate_alerts(int);
DROP FUNCTION IF EXISTS app.alert_values();
DROP FUNCTION IF EXISTS app.ready_ages();
DROP FUNCTION IF EXISTS app.ensure_alert_rules(uuid);
DROP FUNCTION IF EXISTS app.open_alerts();
SET ROLE galley_owner;
DROP TABLE alert_rounds, alerts, alert_rules;
RESET ROLE;
