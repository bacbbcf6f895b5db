"""Changes of MySQL and MariaDB tables from the binary log."""

from pipeline.connectors.databases.mysql_changes.source import MysqlChanges, mysql_changes

__all__ = ["MysqlChanges", "mysql_changes"]
