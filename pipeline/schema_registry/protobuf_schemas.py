"""Protobuf schemas: compatible if messages that were written with the earlier one are read with the same fields."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from pipeline.core.extras import imports_of
from pipeline.schema_registry.errors import invalid_schema
from pipeline.schema_registry.schemas import ParsedSchema

with imports_of("registry", "the schema registry"):
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
    from google.protobuf.message import DecodeError
    from grpc_tools import protoc

    from pipeline.schema_registry.protobuf_rules import problems_of
    from pipeline.schema_registry.protobuf_text import text_of

_OWN = "schema.proto"


@dataclass(frozen=True)
class ProtobufSchema:
    """A file of message types."""

    file: FileDescriptorProto = field(hash=False)
    imports: Mapping[str, FileDescriptorProto] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, text: str, references: Mapping[str, str]) -> ProtobufSchema:
        """Parse a `.proto` text, or the Base64 of a serialized file descriptor; raise `RegistryError` 42201."""
        imports = {name: _described(each) for name, each in references.items()}
        file = _described(text)
        if file is None or any(each is None for each in imports.values()):
            sources = {name: text_of(known) if known else references[name] for name, known in imports.items()}
            compiled = _compiled({**sources, _OWN: text_of(file) if file else text})
            file, imports = compiled[_OWN], {name: compiled[name] for name in references}
        file.name = ""
        return cls(file, {name: known for name, known in imports.items() if known is not None})

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


def _described(text: str) -> FileDescriptorProto | None:
    """Return the file of a serialized descriptor in Base64; `None` for another text."""
    try:
        file = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (DecodeError, binascii.Error, ValueError):
        return None
    return file if file.message_type or file.enum_type else None


def _compiled(sources: Mapping[str, str]) -> dict[str, FileDescriptorProto]:
    """Compile `.proto` files, which may import each other and those of Google; return their descriptors by name."""
    with tempfile.TemporaryDirectory(prefix="headwater-protobuf-") as name:
        folder = Path(name)
        for path, text in sources.items():
            target = (folder / path).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise invalid_schema(f"the reference {path!r} is not a relative path")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        include = str(files("grpc_tools") / "_proto")
        words = [
            "protoc",
            f"-I{folder}",
            f"-I{include}",
            "--include_imports",
            f"--descriptor_set_out={folder}/out",
            *sources,
        ]
        if protoc.main(words):
            raise invalid_schema("protoc cannot compile it")
        compiled = FileDescriptorSet.FromString((folder / "out").read_bytes())
    return {file.name: file for file in compiled.file}
