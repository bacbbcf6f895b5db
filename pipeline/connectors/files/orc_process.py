"""Reads ORC files in a process of its own, because the reader of Arrow crashes the process on damaged files.

The program reads requests from its input, one line of JSON each: the path of a file, and the numbers of stripes. It answers
with frames: a letter, a length of eight bytes, and content. `S` is the schema, `B` a batch, `E` an error, `D` the end.
It imports nothing but Arrow, so that it starts fast.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import pyarrow as pa
from pyarrow import orc

HEAD_BYTES = 9


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the input ends."""
    for line in requests:
        request = json.loads(line)
        try:
            file = orc.ORCFile(request["path"])
            _send(answers, b"S", _content(file.schema))
            for number in request["stripes"]:
                batch = file.read_stripe(number)
                batch.validate(full=True)  # texts of a damaged file may not be UTF-8
                _send(answers, b"B", _content(file.schema, batch))
        except Exception as error:  # noqa: BLE001 - the other process raises it
            _send(answers, b"E", str(error).encode(errors="replace"))
        else:
            _send(answers, b"D", b"")


def _content(schema: pa.Schema, batch: pa.RecordBatch | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        if batch is not None:
            writer.write_batch(batch)
    return sink.getvalue()


def _send(answers: BinaryIO, kind: bytes, content: bytes | pa.Buffer) -> None:
    answers.write(kind + len(content).to_bytes(HEAD_BYTES - 1, "big"))
    answers.write(memoryview(content))
    answers.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
