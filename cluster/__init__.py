"""Where Headwater runs and how it is driven: the command, jobs, clusters."""
