"""Monitoring: how the rows of each window differ from a reference, and when that is an alarm."""

from ml.monitoring.alarm_rules import Alarms, alarms
from ml.monitoring.definition import Monitor, monitor
from ml.monitoring.performance_monitor import PerformanceMonitor, performance
from ml.monitoring.references import rows_of, same_weekday, trailing, training

__all__ = [
    "Alarms",
    "Monitor",
    "PerformanceMonitor",
    "alarms",
    "monitor",
    "performance",
    "rows_of",
    "same_weekday",
    "trailing",
    "training",
]
