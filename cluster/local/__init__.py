"""A Ray cluster on this machine whose nodes are processes, which Ray's autoscaler starts and stops."""
