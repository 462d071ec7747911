"""Raw files: looked for, downloaded with resume, checked; the sentences say what to do."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sciar import datasets
from sciar.datasets import File, Info, download
from sciar.errors import DataError

CONTENT = bytes(range(256)) * 9000


class Ranged(http.server.BaseHTTPRequestHandler):
    asked: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Ranged.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranged) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
        server.shutdown()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_download_resumes(tmp_path: Path, address: str) -> None:
    file = File("file.bin", sha256(CONTENT), url=address)
    told: list[tuple[str, int, int | None]] = []
    for already in (0, 1000, len(CONTENT)):
        (tmp_path / "file.bin").unlink(missing_ok=True)
        (tmp_path / "file.bin.part").write_bytes(CONTENT[:already])
        told.clear()
        download.get(file, tmp_path, lambda *args: told.append(args))
        assert (tmp_path / "file.bin").read_bytes() == CONTENT
        assert already == len(CONTENT) or told[-1] == ("downloading file.bin", len(CONTENT), len(CONTENT))
    assert Ranged.asked == [None, "bytes=1000-", f"bytes={len(CONTENT)}-"]
    download.get(file, tmp_path)
    assert len(Ranged.asked) == 3, "a file that is there is not downloaded again"


def test_wrong_download_is_removed(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="file.bin.part: expected md5 0000, got"):
        download.get(File("file.bin", "md5:0000", url=address), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_to_download_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no address"):
        download.get(File("file.bin", "md5:0"), tmp_path)
    with pytest.raises(DataError, match="cannot download .* try again"):
        download.get(File("file.bin", "md5:0", url="http://127.0.0.1:9/nobody"), tmp_path)


def test_broken_raw_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIAR_DATA", str(tmp_path))
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "qm9_3d.npz").write_bytes(b"not it")
    with pytest.raises(DataError, match=r"qm9_3d.npz: expected sha256 1f9a.*, got .*delete"):
        datasets.load("qm9")


def test_missing_raw_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCIAR_DATA", raising=False)
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="put geom_drugs_smiles.npz into a folder and set SCIAR_DATA"):
        datasets.fetch("geom_drugs")


def test_names_and_near_misses() -> None:
    assert {"qm9", "moses", "geom_drugs", "molecules3d"} <= set(datasets.names())
    for name in datasets.names():
        facts = datasets.info(name)
        assert isinstance(facts, Info) and facts.name == name and facts.licence and facts.citation and facts.sources
        assert all(file.checksum.startswith(("sha256:", "md5:", "git:")) for files in facts.files for file in files)
    with pytest.raises(DataError, match="did you mean 'qm9'"):
        datasets.load("qm")
    with pytest.raises(DataError, match="does not exist"):
        datasets.prepare("no/such/file.sdf")
    with pytest.raises(DataError, match="expected one of molecules3d, mp20, qm9"):
        datasets.samples("mp")
