"""What operators can do without a browser: `task`, `queue`, `executor`, `schedule` and `dead-letter`, one file for each noun."""
