"""What operators can do without a browser: `task`, `queue`, `executor`, `schedule`, `dead-letter` and `tenant`, one file for each noun."""
