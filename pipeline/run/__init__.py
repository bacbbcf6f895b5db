"""Where the stages meet: projects, plans, runs."""
