"""Downloads the jars that peers need in addition to Python packages: `python -m benchmarks.peers.jars`."""

from __future__ import annotations

import shutil
import subprocess

from benchmarks.peer import interpreter

KAFKA_FOR_SPARK = (
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.2.0",
    "org.apache.kafka:kafka-clients:3.9.2",
    "org.apache.commons:commons-pool2:2.13.1",
)
KAFKA_FOR_FLINK = ("org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",)
DELTA_FOR_SPARK = ("io.delta:delta-spark_4.2_2.13:4.4.0", "io.delta:delta-storage:4.4.0")
"""For the test of readers; the version is for the Spark of `.peers-streams`."""
POSTGRES_FOR_SPARK = ("org.postgresql:postgresql:42.7.8",)
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def fetch(home: str, jars: tuple[str, ...]) -> str | None:
    """Download jars into the `jars` folder of an environment; return the reason if this fails."""
    folder = interpreter(home).parents[1] / "jars"
    for jar in jars:
        _, name, version = jar.split(":")
        if not (folder / f"{name}-{version}.jar").exists():
            if shutil.which("mvn") is None:
                return "`mvn` was not found"
            words = ["mvn", "-B", "-q", COPY, f"-Dartifact={jar}", f"-DoutputDirectory={folder}"]
            process = subprocess.run(words, capture_output=True, text=True, check=False)
            if process.returncode:
                return next((line for line in process.stdout.splitlines() if "ERROR" in line), "Maven failed")
    return None


def main() -> None:
    """Download the jars of each peer, and print which peers will be skipped."""
    for name, home, jars in (("Spark", "-streams", KAFKA_FOR_SPARK), ("Flink", "-flink", KAFKA_FOR_FLINK)):
        if reason := fetch(home, jars):
            print(f"{name} has no Kafka connector and will be skipped in stream benchmarks: {reason}")
    if reason := fetch("", POSTGRES_FOR_SPARK):
        print(f"Spark has no driver of PostgreSQL and will be skipped in the benchmark of sources: {reason}")
    if reason := fetch("-streams", DELTA_FOR_SPARK):
        print(f"Spark has no Delta and will be skipped in the test of readers: {reason}")


if __name__ == "__main__":
    main()
