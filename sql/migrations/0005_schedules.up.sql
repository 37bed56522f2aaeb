-- works-with: 3
-- Why: being written.
SET ROLE galley_owner;
RESET ROLE;
