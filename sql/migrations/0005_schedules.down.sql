SET ROLE galley_owner;
RESET ROLE;
