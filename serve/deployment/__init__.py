"""A served project as processes: replicas on Ray Serve, the ports on which they answer, and how that is checked."""
