"""Files of a Debian package: it is an ar archive, one member of which is a tar of what gets installed."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from memorization.errors import InputError, first_line

MAGIC = b"!<arch>\n"
HEADER = 60  # bytes of an ar member's header


class Packed(NamedTuple):
    """A file of a package: its name, and its bytes or what it is a link to."""

    name: str
    data: bytes | None
    link: str | None


def fetch_package(name: str, folder: Path) -> Path:
    """A package's .deb in a folder, fetched by apt-get where it is not there.

    Raises:
        InputError: if there is no apt-get, or it does not get it.
    """
    remedy = f"give the path of {name}_*.deb, from https://packages.debian.org/{name}"
    found = sorted(folder.glob(f"{name}_*.deb"))
    if not found:
        if shutil.which("apt-get") is None:
            raise InputError(f"{name} cannot be fetched: there is no apt-get here; {remedy}")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, text=True)
        found = sorted(folder.glob(f"{name}_*.deb"))
        if done.returncode or not found:
            why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise InputError(f"apt-get download {name} did not work ({why}); {remedy}")
    return found[-1]


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """The tar of what a package installs, to be read once from front to back.

    Raises:
        InputError: if the file is no package, or is torn.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path} is no Debian package; give a .deb file")
            while len(header := file.read(HEADER)) == HEADER:
                name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
                if name.startswith("data.tar"):
                    with tarfile.open(fileobj=file, mode=f"r|{name.removeprefix('data.tar').strip('.')}") as tar:
                        yield tar
                    return
                file.seek(size + size % 2, 1)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); fetch it again") from error
    raise InputError(f"{path} holds no data.tar; fetch it again")


def packed_files(path: Path, suffixes: tuple[str, ...]) -> Iterator[Packed]:
    """The files and links of a package whose names end so, in its order, with names below usr/share/PACKAGE."""
    with open_tar(path) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if not name.endswith(suffixes):
                continue
            if member.issym():
                yield Packed(name, None, member.linkname)
            elif member.isfile():
                stream = tar.extractfile(member)
                yield Packed(name, stream.read() if stream else b"", None)
