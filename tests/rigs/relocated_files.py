"""Files of Iceberg tables that were recorded at another location; pyiceberg creates it from the catalog's properties."""

from __future__ import annotations

from typing import Any

from pyiceberg.io.pyarrow import PyArrowFileIO

from tests.rigs.record_iceberg_tables import LOCATION


class RelocatedFiles(PyArrowFileIO):
    """Reads a location below `LOCATION` from the folder of the property `relocated-to`."""

    def new_input(self, location: str) -> Any:
        return super().new_input(location.replace(LOCATION, self.properties["relocated-to"], 1))
