"""What is measured of a host or a guest: sources by name, each with its value now. Nobody keeps a history here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .call import refuse


class DataSources:
    """The data sources of one object, in order. `switched` says which were switched on or off, by name; of the others the
    standard ones are on."""

    def __init__(self, switched: Mapping[str, bool]) -> None:
        self._switched = switched
        self._sources: dict[str, dict[str, Any]] = {}

    def add(self, name: str, text: str, units: str, value: float, most: float, *, standard: bool = True) -> None:
        """A source that is measured in `units`, and is never above `most`."""
        self._sources[name] = {
            "name_label": name,
            "name_description": text,
            "enabled": self._switched.get(name, standard),
            "standard": standard,
            "units": units,
            "min": 0.0,
            "max": most,
            "value": value,
        }

    def records(self) -> list[dict[str, Any]]:
        """All of them, as records of class `data_source`."""
        return list(self._sources.values())

    def named(self, name: str) -> dict[str, Any]:
        """The source called `name`. Raises xapi's error where there is none."""
        if name not in self._sources:
            raise unknown(name)
        return self._sources[name]

    def query(self, name: str) -> float:
        """The value of a source that is recorded. Raises xapi's error for any other."""
        source = self.named(name)
        if not source["enabled"]:
            raise unknown(name)
        return float(source["value"])


def unknown(name: str) -> Exception:
    """The error for a source that is not there, or not recorded."""
    return refuse("INTERNAL_ERROR", f'Rrd.Invalid_data_source("{name}")')
