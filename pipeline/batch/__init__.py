"""Computation of one table: tasks on local threads or as Ray Data executions."""
