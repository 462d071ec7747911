"""Weights: one safetensors file that says how to rebuild its model, sealed by a hash. Never pickle.

The file's metadata hold one JSON object, the header: family, tokenizer and model configuration, the
statistics of the training data, a card. A SHA-256 seal over every byte of the file makes truncation and
tampering a sentence instead of a wrong answer. Reading a header needs no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciar.errors import InputError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from sciar.family import Model, Tokenizer

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
_NO_SEAL = "0" * 64
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class BundledModel:
    """One row of `sciar.models()`: size in bytes; sha256 of the file."""

    name: str
    task: str
    size: int
    sha256: str
    trained_on: str


def save(
    path: str | os.PathLike[str],
    model: Model,
    *,
    family: str,
    tokenizer_config: Any,
    model_config: Any,
    statistics: Any,
    card: Mapping[str, Any],
    dtype: Any = None,
) -> Path:
    """Write a model into one sealed safetensors file; an interrupted write leaves the old file as it was.

    Args:
        path: where to; conventionally ends in .safetensors.
        model: its `state_dict` is stored; tied tensors once.
        family: name that `load_family` understands.
        tokenizer_config: dataclass or plain dict.
        model_config: dataclass or plain dict.
        statistics: dataclass or plain dict; `elements`, `max_heavy_atoms`, `max_atoms`, `properties` become limits of prompts.
        card: plain facts: task (or tasks), trained_on, licence, …
        dtype: storage type of floating tensors (torch.bfloat16, torch.float16); None keeps each as it is.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        TypeError: a configuration holds what JSON cannot.
    """
    import torch
    from safetensors.torch import save as serialise

    import sciar

    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    stored: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in stored:
            tied[name] = stored[place]
            continue
        stored[place] = name
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        tensors[name] = tensor.detach().to("cpu", wanted, memory_format=torch.contiguous_format, copy=True)
    header = {
        "seal": _NO_SEAL,  # first, so that its place is the first match
        "format": FORMAT,
        "sciar": sciar.__version__,
        "family": family,
        "tokenizer_config": _plain(tokenizer_config),
        "model_config": _plain(model_config),
        "statistics": _plain(statistics),
        "card": dict(card),
        "tied": tied,
    }
    content = serialise(tensors, metadata={"sciar": json.dumps(header)})
    content = content.replace(_NO_SEAL.encode(), hashlib.sha256(content).hexdigest().encode(), 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a weights file, with `path`, `size` and `sha256` of the file added; loads no tensor, needs no torch.

    Raises:
        WeightsError: missing, unreadable, truncated, tampered with, not made by sciar, or of a newer format.
    """
    return _sealed(Path(path))[0]


def open_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a weights file; bfloat16 and float16 tensors come back as float32.

    Raises:
        WeightsError: as `read_header`.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    header, content = _sealed(Path(path))
    try:
        tensors = deserialise(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: expected a safetensors file, got one that cannot be read ({error}); get a fresh copy") from None
    half = (torch.bfloat16, torch.float16)
    tensors = {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}
    for name, source in header.get("tied", {}).items():
        tensors[name] = tensors[source]
    return header, tensors


def build(header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None, device: str = "cpu") -> tuple[Tokenizer, Model]:
    """Tokenizer and model as the header describes them, in evaluation mode, on `device`.

    Args:
        header: from `open_weights`.
        tensors: the weights; None leaves the initial ones.
        device: "cpu", "cuda", "cuda:1", …

    Raises:
        WeightsError: unknown family, a configuration of another version, or tensors that do not fit.
    """
    from sciar.config import fill
    from sciar.family import load_family

    where = header.get("path", "weights")
    try:
        family = load_family(header["family"])
    except ValueError as error:
        raise WeightsError(f"{where}: expected a known family, got {header['family']!r} ({error}); install its package") from None
    try:
        tokenizer = family.Tokenizer(fill(family.TokenizerConfig, _tuples(header["tokenizer_config"]), "tokenizer_config"))
        facts = {"statistics": header["statistics"]} if "statistics" in inspect.signature(family.Model).parameters else {}
        model = family.Model(fill(family.ModelConfig, _tuples(header["model_config"]), "model_config"), tokenizer, **facts)
        if tensors is not None:
            model.load_state_dict(dict(tensors))
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"{where}: expected weights of this version of {header['family']}, got others made by sciar {header.get('sciar')} ({reason}); "
            "use that version or retrain"
        ) from None
    return tokenizer, model.to(device).eval()


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The weights file that a bundled name, a path or a hub repository ("org/name") means.

    Raises:
        WeightsError: no such file or repository.
        InputError: no such bundled name; near misses are suggested.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if text and path.exists():
        return path
    bundled = BUNDLED / f"{text}.safetensors"
    if text and "/" not in text and bundled.exists():
        return bundled
    if path.suffix == ".safetensors" or path.is_absolute() or text.startswith("."):
        raise WeightsError(f"{text}: expected a weights file, got no such file; `sciar models` lists the bundled ones")
    if _HUB_NAME.fullmatch(text):
        return _from_hub(text)
    names = [model.stem for model in sorted(BUNDLED.glob("*.safetensors"))]
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled models: {', '.join(names) or 'none'}"
    raise InputError(f"model: expected a bundled name, a .safetensors file or a hub repository org/name, got {text!r}; {hint}")


def models() -> list[BundledModel]:
    """The models that come with the package."""
    rows = []
    for path in sorted(BUNDLED.glob("*.safetensors")):
        header = read_header(path)
        card = header["card"]
        rows.append(
            BundledModel(path.stem, ", ".join(tasks(header)), header["size"], header["sha256"], str(card.get("trained_on", "not stated")))
        )
    return rows


def default(task: str) -> str:
    """The bundled model for a task: the one whose card says `default`, else the first.

    Raises:
        InputError: none is bundled.
    """
    fitting = []
    for path in sorted(BUNDLED.glob("*.safetensors")):
        header = read_header(path)
        if task in tasks(header):
            fitting.append((not header["card"].get("default", False), path.stem))
    if not fitting:
        raise InputError(f"model: expected one, got no bundled model for task {task!r}; pass model=… or train one with `sciar train`")
    return min(fitting)[1]


def tasks(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks a model's card claims; () = not stated."""
    claimed = header["card"].get("tasks", header["card"].get("task", ()))
    return (claimed,) if isinstance(claimed, str) else tuple(claimed)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbour of `path` to write to, which takes its place when the block ends well and vanishes otherwise."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # hidden, so that nobody who lists the folder reads half a file
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sealed(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and bytes of a file whose seal is whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path}: expected a weights file, got no such file; `sciar models` lists the bundled ones") from None
    except OSError as error:
        raise WeightsError(f"{path}: expected a readable weights file, got {error.strerror or error}; check path and permissions") from None
    length = int.from_bytes(content[:8], "little")
    foreign = f"{path}: expected weights saved by sciar, got another kind of file; pass a .safetensors file that `sciar train` wrote"
    if len(content) < 10 or content[8:9] != b"{":
        short = f"{path}: expected a weights file, got {len(content)} bytes, which is truncated; get a fresh copy"
        raise WeightsError(short if len(content) < 10 else foreign)
    if 8 + length > len(content):
        raise WeightsError(
            f"{path}: expected a header of {length} bytes, got a file of {len(content)}, which is truncated; get a fresh copy"
        )
    try:
        index = json.loads(content[8 : 8 + length])
        metadata = index.get("__metadata__") or {}
        end = max((entry["data_offsets"][1] for name, entry in index.items() if name != "__metadata__"), default=0)
        if "sciar" not in metadata:
            raise WeightsError(foreign)
        header = json.loads(metadata["sciar"])
        version, seal = int(header["format"]), str(header["seal"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise WeightsError(f"{path}: expected a readable header, got a damaged one; get a fresh copy") from None
    if 8 + length + end > len(content):
        raise WeightsError(f"{path}: expected {8 + length + end} bytes, got {len(content)}: the file is truncated; get a fresh copy")
    if version > FORMAT:
        raise WeightsError(f"{path}: expected format {FORMAT} or older, got {version} (sciar {header.get('sciar')}); upgrade sciar")
    start = content.find(seal.encode(), 8, 8 + length)
    seen = hashlib.sha256(content[:start] + _NO_SEAL.encode() + content[start + len(seal) :]).hexdigest()
    if seen != seal:
        raise WeightsError(
            f"{path}: expected SHA-256 {seal[:12]}…, got {seen[:12]}…: the file was changed after it was saved; get a fresh copy"
        )
    missing = {"family", "tokenizer_config", "model_config", "statistics", "card"} - header.keys()
    if missing:
        raise WeightsError(f"{path}: expected a whole header, got one without {', '.join(sorted(missing))}; get a fresh copy")
    return {**header, "path": str(path), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}, content


def _from_hub(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download, list_repo_files
    except ImportError:
        raise WeightsError(
            f"{repository}: expected a file here or the package huggingface_hub to fetch it, got neither; pip install 'sciar[hub]'"
        ) from None
    try:
        files = [name for name in list_repo_files(repository) if name.endswith(".safetensors")]
        if len(files) == 1:
            return Path(hf_hub_download(repository, files[0]))
    except Exception as error:  # the hub client raises many unrelated types; its reason is kept
        raise WeightsError(
            f"{repository}: expected a hub repository, got {' '.join(str(error).split())[:200]}; check name and network"
        ) from None
    raise WeightsError(f"{repository}: expected one .safetensors file in the repository, got {len(files)}; download one and pass its path")


def _plain(config: Any) -> Any:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else dict(config)


def _tuples(value: Any) -> Any:
    """JSON has no tuples; frozen configurations have no lists. Keys of dicts stay."""
    if isinstance(value, Mapping):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
