"""One safetensors file, sealed: what is saved is loaded, and every kind of damage is one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake import family, weights

from sciar import checkpoint
from sciar.errors import InputError, WeightsError


def test_round_trip(tmp_path: Path) -> None:
    path = weights.save(tmp_path, broken=0.25)
    header, tensors = checkpoint.open_weights(path)
    tokenizer, model = checkpoint.build(header, tensors)
    assert isinstance(tokenizer, family.Tokenizer) and isinstance(model, family.Model)
    assert model.config == family.ModelConfig(broken=0.25) and tokenizer.config == family.TokenizerConfig()
    assert not model.training
    assert torch.equal(model.noise, torch.tensor(0.01))
    assert header["statistics"] == weights.STATISTICS and checkpoint.tasks(header) == ("conformer", "molecule")
    assert header["sha256"] == subprocess.check_output(["sha256sum", path], text=True).split()[0]


def test_same_model_same_bytes(tmp_path: Path) -> None:
    assert weights.save(tmp_path, "a").read_bytes() == weights.save(tmp_path, "b").read_bytes()


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    content = weights.save(tmp_path).read_bytes()
    index = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert len(index) == 2  # the tensor and the metadata
    assert set(checkpoint.open_weights(tmp_path / "fake.safetensors")[1]) == {"noise", "tied"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_storage_loads_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = torch.nn.Linear(64, 64)
    model.register_buffer("count", torch.arange(3))
    sizes = []
    for kind in (None, dtype):
        path = checkpoint.save(
            tmp_path / "w.safetensors", model, family="x", tokenizer_config={}, model_config={}, statistics={}, card={}, dtype=kind
        )
        sizes.append(path.stat().st_size)
    _, tensors = checkpoint.open_weights(path)
    assert sizes[1] < 0.6 * sizes[0]
    assert tensors["weight"].dtype == torch.float32 and tensors["count"].dtype == torch.int64
    torch.testing.assert_close(tensors["weight"], model.weight.to(dtype).float())


def test_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), checkpoint.replacing(path) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        checkpoint.find(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        checkpoint.open_weights(tmp_path / "none.safetensors")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a readable weights file"):
        checkpoint.open_weights(tmp_path)


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    path = weights.save(tmp_path)
    content = path.read_bytes()
    for length in {0, 5, 9, 50, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="truncated"):
            checkpoint.read_header(path)


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    path = weights.save(tmp_path)
    content = path.read_bytes()
    for position in [*range(8), *range(8, len(content), 37), len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(WeightsError):
            checkpoint.open_weights(path)
    path.write_bytes(content + b"x")
    with pytest.raises(WeightsError, match="was changed after it was saved"):
        checkpoint.open_weights(path)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    with pytest.raises(WeightsError, match="expected weights saved by sciar"):
        checkpoint.read_header(foreign)
    torch.save({"x": torch.zeros(3)}, foreign)
    with pytest.raises(WeightsError, match="expected weights saved by sciar"):
        checkpoint.read_header(foreign)
    foreign.write_text("hello, this is a text\n")
    with pytest.raises(WeightsError, match="expected weights saved by sciar"):
        checkpoint.read_header(foreign)


def test_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = weights.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"expected format 1 or older, got 2 .*upgrade sciar"):
        checkpoint.read_header(path)


def test_unknown_family_and_unknown_configuration(tmp_path: Path) -> None:
    header, tensors = checkpoint.open_weights(weights.save(tmp_path))
    with pytest.raises(WeightsError, match="expected a known family, got 'no.such'"):
        checkpoint.build({**header, "family": "no.such"}, tensors)
    with pytest.raises(WeightsError, match="use that version or retrain"):
        checkpoint.build({**header, "model_config": {"brokn": 1.0}}, tensors)
    with pytest.raises(WeightsError, match="use that version or retrain"):
        checkpoint.build(header, {"noise": torch.zeros(3), "tied": torch.zeros(3)})


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    with pytest.raises(InputError, match=re.escape("no bundled model for task 'crystal'")):
        checkpoint.default("crystal")
    weights.save(tmp_path, "qm9-fake", task="molecule")
    weights.save(tmp_path, "drugs-fake")
    assert checkpoint.find("qm9-fake") == tmp_path / "qm9-fake.safetensors"
    assert checkpoint.default("molecule") == "drugs-fake"
    rows = checkpoint.models()
    assert [(m.name, m.task, m.trained_on) for m in rows] == [
        ("drugs-fake", "conformer, molecule", "nothing"),
        ("qm9-fake", "molecule", "nothing"),
    ]
    assert all(m.size and len(m.sha256) == 64 for m in rows)
    with pytest.raises(InputError, match=r"did you mean 'qm9-fake'\?"):
        checkpoint.find("qm9-fak")
    with pytest.raises(InputError, match="expected a bundled name"):
        checkpoint.find("")


@pytest.mark.parametrize("path", sorted(checkpoint.BUNDLED.glob("*.safetensors")), ids=lambda p: p.stem)
def test_bundled_weights_draw(path: Path) -> None:
    import sciar

    for task in checkpoint.tasks(checkpoint.read_header(path)):
        if task != "predict":
            asked = {"smiles": "CCO"} if task == "conformer" else {"n_atoms": (44, 60)} if path.stem == "sbm-blocks" else {}  # of up to 187
            samples = sciar.generate(task, n=2, seed=0, model=path.stem, **asked)
            assert len(samples) == 2 and any(verdict.valid for verdict in samples)


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'sciar\[hub\]'"):
        checkpoint.find("someone/some-model")


def test_header_needs_no_torch(tmp_path: Path) -> None:
    path = str(weights.save(tmp_path))
    code = f"import sys; from sciar import checkpoint; checkpoint.read_header({path!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
