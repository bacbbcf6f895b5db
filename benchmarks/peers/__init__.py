"""One script per engine, run by the peers' interpreter with `-m benchmarks.peers.in_NAME JOB ARGUMENTS FOLDER`."""
