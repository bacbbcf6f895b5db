"""A program that speaks Singer's protocol, or Airbyte's with the commands `discover` and `read`.

Its records are the lines of the file in the configuration; a state is the number of records so far. As many taps do, it
writes the last record of the state again. `break_at` in the configuration says where it fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": ["null", "integer"]},
        "name": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
    },
}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="?", choices=["discover", "read"])
    for option in ("config", "catalog", "state"):
        parser.add_argument(f"--{option}")
    asked = parser.parse_args()
    config = json.loads(Path(asked.config).read_text())
    state = json.loads(Path(asked.state).read_text()) if asked.state else None
    lines = Path(config["file"]).read_text().splitlines()
    if asked.command == "discover":
        say(type="LOG", log={"level": "INFO", "message": "discovering"})
        stream = {
            "name": "items",
            "json_schema": SCHEMA,
            "default_cursor_field": ["id"],
            "source_defined_primary_key": [["id"]],
        }
        say(type="CATALOG", catalog={"streams": [{**stream, "supported_sync_modes": ["full_refresh", "incremental"]}]})
    elif asked.command == "read":
        streams = json.loads(Path(asked.catalog).read_text())["streams"]
        assert [each["stream"]["name"] for each in streams] == ["items"]
        write_airbyte(lines, 0 if state is None else state[0]["stream"]["stream_state"]["read"], config)
    else:
        write_singer(lines, 0 if state is None else state["read"], config)


def write_singer(lines: list[str], begin: int, config: dict[str, Any]) -> None:
    sys.stdout.write("starting\n")
    say(type="SCHEMA", stream="items", schema=SCHEMA, key_properties=["id"])
    say(type="RECORD", stream="others", record={"id": -1})
    for number in range(max(0, begin - 1), len(lines)):
        fail(number, config)
        sys.stdout.write('{"type": "RECORD", "stream": "items", "record": ' + lines[number] + "}\n")
        if number % 2 == 1 or number == len(lines) - 1:
            say(type="STATE", value={"read": number + 1})


def write_airbyte(lines: list[str], begin: int, config: dict[str, Any]) -> None:
    for number in range(max(0, begin - 1), len(lines)):
        fail(number, config)
        data = '{"stream": "items", "emitted_at": 1, "data": ' + lines[number] + "}"
        sys.stdout.write('{"type": "RECORD", "record": ' + data + "}\n")
        if number % 2 == 1 or number == len(lines) - 1:
            stream = {"stream_descriptor": {"name": "items"}, "stream_state": {"read": number + 1}}
            say(type="STATE", state={"type": "STREAM", "stream": stream})
    if config.get("reports"):
        say(type="TRACE", trace={"type": "ERROR", "error": {"message": config["reports"]}})


def fail(number: int, config: dict[str, Any]) -> None:
    if config.get("break_at") == number:
        sys.stderr.write(f"cannot log in with {config.get('password')}\n")
        sys.exit(3)
    if config.get("garbage_at") == number:
        sys.stdout.write('{"type": "RECORD", "stream"\n')


if __name__ == "__main__":
    main()
