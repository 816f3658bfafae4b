"""Put byte code beside the sources in a zipapp, with the Python that will run it: ``compile.py ARCHIVE``.

Byte code is marked unchecked, so that it is used whatever the archive's times are.
"""

import marshal
import sys
import zipfile
from importlib.util import MAGIC_NUMBER
from pathlib import Path

UNCHECKED = (1).to_bytes(4, "little") + bytes(8)


def main(archive: Path) -> None:
    with zipfile.ZipFile(archive) as stored:
        sources = {entry: stored.read(entry) for entry in stored.infolist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stored:
        for entry, source in sources.items():
            stored.writestr(entry, source)
            if entry.filename.endswith(".py"):
                code = compile(source, f"{archive}/{entry.filename}", "exec", dont_inherit=True)
                compiled = zipfile.ZipInfo(entry.filename + "c", entry.date_time)
                compiled.external_attr = entry.external_attr
                stored.writestr(compiled, MAGIC_NUMBER + UNCHECKED + marshal.dumps(code))


main(Path(sys.argv[1]))
