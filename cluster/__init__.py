"""The command line of Headwater, and running projects as jobs on a cluster."""
