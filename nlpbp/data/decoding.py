"""Strict decoding of files: every failure names the line and the byte, and nothing is replaced or dropped.

Lines are counted as text editors count them: they end with LF, CR LF or a lone CR, and with nothing else
(U+2028 and the like are ordinary characters inside a text).
"""

from __future__ import annotations

import codecs
import difflib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from nlpbp.core.errors import DataError

# UTF-32 first: its little-endian byte order mark begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
EAST_ASIAN_AND_CYRILLIC = ("shift_jis", "euc_kr", "gb18030", "big5", "cp1251", "koi8_r")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises `DataError` with the line for bytes that are not UTF-8 and for NUL bytes, and with the path for a file
    that cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "menu.txt"
    >>> _ = path.write_bytes("café".encode("utf-8-sig"))
    >>> read_text(path)
    'café'
    """
    text = decode(read_bytes(path), file=str(path))
    refuse_nul(text, file=str(path))
    return text


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file; a pipe or a device raises `DataError`, because reading it may never end.

    >>> len(read_bytes(Path(__file__))) > 0
    True
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("not a regular file", file=str(path), hint="give a file or a folder, not a pipe or device")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return an error that says why `path` cannot be opened; if it does not exist, name the most similar file beside it.

    >>> unreadable(Path("a.csv"), PermissionError(13, "Permission denied")).message
    'cannot be read: Permission denied'
    """
    if not isinstance(error, FileNotFoundError):
        return DataError(f"cannot be read: {error.strerror or error}", file=str(path), hint="check the path and its permissions")
    folder = path.parent
    if not folder.is_dir():
        return DataError("neither the file nor its folder exists", file=str(path), hint="check the path")
    return DataError("there is no such file", file=str(path), hint=nearest(path.name, os.listdir(folder), kind="file"))


def nearest(name: str, known: Iterable[str], *, kind: str) -> str:
    """Return a hint that lists the existing names and the one most similar to `name`.

    >>> nearest("lable", ["text", "label"], kind="column")
    "did you mean 'label'? Every column here: 'label', 'text'"
    """
    names = sorted(known)
    if not names:
        return f"there is no {kind} here at all"
    folded = {other.casefold(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    start = f"did you mean '{folded[close[0]]}'? " if close else ""
    shown = ", ".join(f"'{other}'" for other in names[:20])
    return f"{start}Every {kind} here: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def decode(raw: bytes, *, file: str) -> str:
    r"""Decode `raw`; the encoding is UTF-8 unless a byte order mark says otherwise.

    Raises `DataError` with the line, the offset of the byte and two likely encodings.

    >>> decode("\ufeffcafé".encode("utf-16-le"), file="menu.txt")
    'café'
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        start = error.start + (len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        before = raw[:start].decode(encoding, errors="replace")
        raise DataError(
            f"byte {start} is not {encoding.removesuffix('-sig').upper()} ({error.reason})",
            file=file,
            row=count_line_ends(before) + 1,
            excerpt=raw[max(0, start - 20) : start + 20],
            hint=encoding_hint(raw),
        ) from error


def encoding_hint(raw: bytes) -> str:
    """Name the two most likely encodings of bytes that are not UTF-8.

    >>> encoding_hint("un café noir".encode("cp1252"))
    'save it as UTF-8; its encoding is probably cp1252 or mac_roman (iconv -f ENCODING -t UTF-8)'
    """
    # Western texts have few bytes beyond ASCII; in other scripts most letters are such bytes.
    letters = sum(byte > 64 for byte in raw)
    foreign = sum(byte > 127 for byte in raw)
    candidates = ("cp1252", "mac_roman") if foreign < 0.3 * letters else EAST_ASIAN_AND_CYRILLIC
    first, second = ([name for name in candidates if _decodes(raw, name)] + ["latin_1", "cp437"])[:2]
    return f"save it as UTF-8; its encoding is probably {first} or {second} (iconv -f ENCODING -t UTF-8)"


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def refuse_nul(text: str, *, file: str) -> None:
    r"""Raise `DataError` with the line of the first NUL character.

    >>> refuse_nul("fine", file="a.txt")
    """
    where = text.find("\x00")
    if where < 0:
        return
    is_utf16 = text.count("\x00") > len(text) / 4
    raise DataError(
        f"NUL byte at character {where}",
        file=file,
        row=count_line_ends(text[:where]) + 1,
        excerpt=text[max(0, where - 20) : where + 20],
        hint="this looks like UTF-16 without a byte order mark; save it as UTF-8" if is_utf16 else "remove the byte",
    )


def count_line_ends(text: str) -> int:
    r"""Return the number of line ends in `text`.

    >>> count_line_ends("one\r\ntwo\rthree\nfour\u2028still four")
    3
    """
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def split_lines(text: str) -> Iterator[str]:
    r"""Yield the lines of `text` without line ends.

    >>> list(split_lines("one\r\ntwo\rthree\n"))
    ['one', 'two', 'three']
    """
    for line in io.StringIO(text, newline=None):
        yield line.removesuffix("\n")
