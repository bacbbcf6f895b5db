"""A copy of the project in a temporary folder, with generated data: the same every time."""

import csv
import math
import random
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

STATIONS = {
    "Harbour": ("Old Town", 3.0), "Market": ("Old Town", 2.4), "Cathedral": ("Old Town", 2.2),
    "Central Station": ("Center", 2.0), "Opera": ("Center", 2.6), "Museum": ("Center", 2.8),
    "University": ("North", 3.6), "Stadium": ("North", 4.2), "Airport Bus": ("North", 6.0),
    "Lake": ("South", 5.0), "Zoo": ("South", 4.4), "Hospital": ("South", 3.8),
}  # fmt: skip
"""The stations: their district, and the typical length of a trip that starts there, in km."""
RIDERS = 300


def new_copy(months: int) -> Path:
    """Copy the project to a temporary folder, with data from January 2026 on for a number of months; return the folder."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-")) / "bikes"
    shutil.copytree(Path(__file__).parent, folder, ignore=shutil.ignore_patterns(".headwater", "data", "__pycache__"))
    (folder / "data").mkdir()
    with (folder / "data" / "stations.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("station", "district"), *((name, of[0]) for name, of in STATIONS.items())])
    for month in range(1, months + 1):
        add_month(folder, month)
    return folder


def add_month(folder: Path, month: int) -> Path:
    """Write the trips of a month of 2026; return the file.

    In June, half of the bikes become electric: trips are longer, and a long trip takes less time than before.
    """
    chance = random.Random(month)
    path, at, rows = folder / "data" / f"trips-2026-{month:02}.csv", datetime(2026, month, 1), []
    while at.month == month:
        hour = at.hour + at.minute / 60
        rush = math.exp(-((hour - 8) ** 2) / 3) + math.exp(-((hour - 17.5) ** 2) / 5) + 0.25 * (6 < hour < 23)
        at += timedelta(minutes=chance.expovariate(0.01 + 0.16 * rush) if rush > 0.01 else 30)
        rider = int(RIDERS * chance.random() ** 1.5)
        station = chance.choice(list(STATIONS))
        bike = "electric" if month >= 6 and chance.random() < 0.5 else "classic"
        km = STATIONS[station][1] * chance.lognormvariate(0, 0.4) * (1.7 if bike == "electric" else 1)
        speed = (24 if bike == "electric" else 14) * (0.7 + 0.6 * (rider * 7919 % 100) / 100) / 60
        minutes = km / speed * chance.lognormvariate(0, 0.25)
        if chance.random() < 0.003:
            minutes = 0  # a bike that was not unlocked
        rows.append(
            (f"{month}-{len(rows)}", rider, station, bike, f"{at:%Y-%m-%d %H:%M:%S}", round(km, 2), round(minutes, 1))
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        head = ("trip", "rider", "station", "bike", "started_at", "km", "minutes")
        csv.writer(file).writerows([head, *(row for row in rows if row[4] < f"2026-{month + 1:02}")])
    return path
