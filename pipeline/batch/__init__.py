"""Plans as tasks, inline or as Ray Data executions."""
