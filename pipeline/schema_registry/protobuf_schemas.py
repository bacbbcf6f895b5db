"""Protobuf schemas: compatible if messages that were written with the earlier one are read with the same fields."""

from __future__ import annotations

import base64
import binascii
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.extras import imports_of
from pipeline.schema_registry.errors import invalid_schema
from pipeline.schema_registry.schemas import ParsedSchema

with imports_of("registry", "the schema registry"):
    import grpc_tools  # noqa: F401 - its compiler runs in another process
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
    from google.protobuf.message import DecodeError

    from pipeline.schema_registry.protobuf_rules import problems_of
    from pipeline.schema_registry.protobuf_text import text_of

_OWN = "~schema.proto"
"""The file of a schema itself; no reference can have this name."""
_NAME = re.compile(r"[\w./-]+\.proto", re.ASCII)
_MOST_LETTERS = 8 << 20
_LIMIT_S = 60


@dataclass(frozen=True)
class ProtobufSchema:
    """A file of message types."""

    file: FileDescriptorProto = field(hash=False)
    imports: Mapping[str, FileDescriptorProto] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, text: str, references: Mapping[str, str]) -> ProtobufSchema:
        """Parse a `.proto` text, or the Base64 of a serialized file descriptor; raise `RegistryError` 42201."""
        sources = {name: _text_in(each) for name, each in references.items()}
        for name in sources:
            _require_name(name)
        compiled = _compiled((*sources.items(), (_OWN, _text_in(text))))
        lost = [name for name in sources if name not in compiled]
        if lost:
            raise invalid_schema(f"protoc did not compile the reference {lost[0]!r}")
        file = compiled[_OWN]
        file.name = ""
        return cls(file, {name: compiled[name] for name in sources})

    @property
    def text(self) -> str:
        """See `ParsedSchema`."""
        return text_of(self.file)

    @property
    def normalized(self) -> str:
        """See `ParsedSchema`: the order of definitions has no meaning."""
        return text_of(self.file, is_sorted=True)

    @property
    def serialized(self) -> str:
        """The Base64 of the file descriptor."""
        return base64.b64encode(self.file.SerializeToString()).decode()

    def problems(self, earlier: ParsedSchema) -> Sequence[str]:
        """See `ParsedSchema`."""
        if not isinstance(earlier, ProtobufSchema):
            return ["the type of the schema changed"]
        return problems_of(self.file, earlier.file)


def _text_in(text: str) -> str:
    """Return the `.proto` text of a schema, which may be the Base64 of a serialized descriptor."""
    try:
        file = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (DecodeError, binascii.Error, ValueError):
        return text
    return text_of(file) if file.message_type or file.enum_type else text


def _require_name(name: str) -> None:
    """Raise `RegistryError` for a reference whose name is not a path below a folder: `protoc` takes others for options."""
    parts = name.split("/")
    if not _NAME.fullmatch(name) or any(part in {"", ".", ".."} or part[0] == "-" for part in parts):
        raise invalid_schema(f"the reference {name!r} is not a relative path of a .proto file")


def _compiled(sources: tuple[tuple[str, str], ...]) -> dict[str, FileDescriptorProto]:
    """Compile `.proto` files, which may import each other and those of Google; return their descriptors by name."""
    return {file.name: file for file in FileDescriptorSet.FromString(_descriptors(sources)).file}


@functools.lru_cache(maxsize=128)
def _descriptors(sources: tuple[tuple[str, str], ...]) -> bytes:
    """Return what the compiler writes. It runs in a process of its own: a crash or a long run does not end the registry."""
    if sum(len(text) for _, text in sources) > _MOST_LETTERS:
        raise invalid_schema(f"it has, with its references, more than {_MOST_LETTERS:,} letters")
    with tempfile.TemporaryDirectory(prefix="headwater-protobuf-") as name:
        folder = Path(name) / "sources"
        for path, text in sources:
            try:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
            except (OSError, ValueError) as error:  # one name is a folder of another, or too long, or not Unicode
                raise invalid_schema(f"the file {path!r} cannot be written for protoc: {error}") from error
        out = Path(name) / "out"
        words = ["-m", "grpc_tools.protoc", f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}"]
        try:
            done = subprocess.run(  # noqa: S603 - the words are checked
                [sys.executable, "-I", *words, *(path for path, _ in sources)],
                capture_output=True,
                check=False,
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise invalid_schema(f"protoc does not compile it within {_LIMIT_S} s") from error
        if done.returncode:
            first, *_ = [*done.stderr.decode(errors="replace").splitlines(), f"status {done.returncode}"]
            raise invalid_schema(f"protoc cannot compile it: {first.removeprefix(f'{_OWN}:')}")
        return out.read_bytes()
