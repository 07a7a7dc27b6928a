"""Write the messages of the gRPC APIs: `python scripts/make_protos.py` makes src/zuebee/protos out of proto/.

Only the messages are generated: what is called by which name is said where it is called. A test fails when they do not
agree.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PROTOS = ROOT / "proto"
PACKAGE = ROOT / "src" / "zuebee" / "protos"
SOURCES = ("auth/auth.proto", "llm/v1/llm.proto")


def generated() -> dict[str, bytes]:
    """Each file of the package by its name, as it must be. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as directory:
        includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
        outputs = [f"--python_out={directory}", f"--pyi_out={directory}"]
        if protoc.main(["protoc", *includes, *outputs, *SOURCES]):
            raise RuntimeError("protoc could not read the .proto files")
        # Each has a name of its own, so none needs the folders that are for the names inside the APIs.
        return {path.name: path.read_bytes() for path in Path(directory).rglob("*_pb2.py*")}


def main() -> None:
    """Write what differs, and take away what is no longer made."""
    wanted = generated()
    for path in PACKAGE.glob("*_pb2.py*"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (PACKAGE / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
