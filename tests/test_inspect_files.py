"""`python -m sigreg inspect` reads any format, in pieces, and refuses a bad file in one line."""

import json
import pickle
import re
import sys

import numpy as np
import pytest
import torch

from sigreg.__main__ import main
from sigreg.diagnostics import diagnose
from sigreg.inspect import files
from sigreg.inspect.formats import Unusable
from tests.inspected import refused, write
from tests.samples import normal

NAMES = ["a.npy", "a.npz", "compressed.npz", "fortran.npz", "a.pt", "dict.pt", "a.pth", "a.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_numbers(name, tmp_path, capsys):
    z = 0.5 * normal(200, 16)
    write(tmp_path / name, z)
    assert main(["inspect", str(tmp_path / name), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in found["findings"]] == ["off scale"]
    assert (found["rows"], found["columns"], found["dtype"]) == (200, 16, "float32")
    assert found["measured"]["value"] == diagnose(z).measured.value


BAD = {
    "empty.npy": (lambda p: p.touch(), "the file is empty"),
    "a.txt": (lambda p: p.touch(), "expected a file that ends in .npy, .npz"),
    "rows.npy": (lambda p: np.save(p, np.zeros((0, 4))), r"the array is empty, shape \(0, 4\)"),
    "one.npy": (lambda p: np.save(p, np.zeros((1, 4))), "one row tells nothing"),
    "int.npy": (lambda p: np.save(p, np.zeros((9, 4), int)), "floating-point numbers, got int64"),
    "views.npy": (lambda p: np.save(p, np.zeros((2, 9, 4))), r"expected embeddings \(N, D\).*\(2, 9, 4\)"),
    "vector.npy": (lambda p: np.save(p, np.zeros(9)), r"expected embeddings \(N, D\).*\(9,\)"),
    "ragged.pt": (lambda p: torch.save([torch.ones(2, 3), torch.ones(2, 4)], p), "differ in length"),
    "scalar.pt": (lambda p: torch.save(3, p), "expected a tensor or a dict of tensors, got int"),
    "no tensor.pt": (lambda p: torch.save({"step": 3}, p), "it has none"),
    "two.npz": (lambda p: np.savez(p, a=np.ones((3, 2)), b=np.ones((3, 2))), r"--key; it has a \(3, 2\), b"),
    "objects.npy": (lambda p: np.save(p, np.array([[1.0], [2.0, 3.0]], object)), "--allow-pickle"),
    "objects.npz": (lambda p: np.savez(p, z=np.array([[1.0], [2.0, 3.0]], object)), "--allow-pickle"),
    "junk.npz": (lambda p: p.write_bytes(b"junk"), "damaged"),
    "junk.pt": (lambda p: p.write_bytes(b"junk"), "damaged"),
    "junk.npy": (lambda p: p.write_bytes(b"junk"), "damaged|--allow-pickle"),
    "junk.safetensors": (lambda p: p.write_bytes(b"junk"), "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(name, tmp_path, capsys):
    make, message = BAD[name]
    make(tmp_path / name)
    said = refused(capsys, tmp_path / name)
    assert name in said
    assert re.search(message, said), said


def test_a_file_cut_short_is_one_line(tmp_path, capsys):
    for name in ("a.npy", "a.npz", "a.pt", "a.safetensors"):
        write(tmp_path / name, normal(200, 16))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert "damaged" in refused(capsys, tmp_path / name)


def test_rows_that_are_not_finite_are_counted(tmp_path, capsys, monkeypatch):
    z = normal(200, 16)
    z[17, 3], z[150, 0] = float("nan"), float("inf")
    write(tmp_path / "a.npy", z)
    assert "2 of 200 rows hold inf or nan, the first is row 17" in refused(capsys, tmp_path / "a.npy")
    monkeypatch.setattr("sigreg.inspect.cli.MOST", 20 * 16)  # few rows are kept, all are looked at
    assert "2 of 200 rows hold inf or nan, the first is row 17" in refused(capsys, tmp_path / "a.npy")


class Trap:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.trapped = True",))


@pytest.mark.parametrize("name", ["trap.pt", "legacy.pt", "trap.npy"])
def test_a_pickle_is_refused_before_it_runs(name, tmp_path, capsys):
    import builtins

    path = tmp_path / name
    if path.suffix == ".pt":
        zipped = name != "legacy.pt"  # the format before torch 1.6 cannot be mapped into memory
        torch.save({"z": torch.ones(3, 2), "trap": Trap()}, path, _use_new_zipfile_serialization=zipped)
    else:
        np.save(path, np.array([Trap()], object), allow_pickle=True)
    assert "can run any code" in refused(capsys, path)
    assert not hasattr(builtins, "trapped")


def test_a_pickle_is_read_when_asked_for(tmp_path, capsys):
    z = normal(64, 4)
    torch.save({"z": z, "args": pickle.loads(pickle.dumps(Trap))}, tmp_path / "a.pt")
    assert main(["inspect", str(tmp_path / "a.pt"), "--allow-pickle"]) == 0
    np.save(tmp_path / "b.npy", z.numpy().astype(object))
    assert main(["inspect", str(tmp_path / "b.npy"), "--allow-pickle"]) == 0
    ragged = np.array([[1.0], [2.0, 3.0]], object)
    np.save(tmp_path / "c.npy", ragged)
    capsys.readouterr()
    assert "differ in length" in refused(capsys, tmp_path / "c.npy", "--allow-pickle")


@pytest.mark.parametrize("name", NAMES)
def test_a_large_file_is_read_in_pieces(name, tmp_path, monkeypatch):
    z = normal(1000, 16)
    write(tmp_path / name, z)
    monkeypatch.setattr(files, "PIECE", 70 * 16)
    array = files.opened(tmp_path / name)
    assert [len(piece) for piece in array.pieces(300)] == [300, 300, 300, 100]
    kept, index = files.sample(array, 1 << 20)
    assert torch.equal(kept, z)
    kept, index = files.sample(array, 100 * 16)
    assert torch.equal(kept, z[index])
    assert torch.equal(index // 10, torch.arange(100)), "one of each stretch of ten"


def test_pieces_show_a_progress_bar_and_the_report_says_how_many_rows(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    write(tmp_path / "a.npy", normal(1000, 16))
    monkeypatch.setattr(files, "PIECE", 70 * 16)
    monkeypatch.setattr("sigreg.inspect.cli.MOST", 500 * 16)
    assert main(["inspect", str(tmp_path / "a.npy")]) == 0
    printed = capsys.readouterr()
    assert "1,000 rows, 16 columns, float32; the numbers are of 500 rows drawn at random" in printed.out
    assert "15/15" in printed.err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["inspect", str(tmp_path / "a.npy")]) == 0
    assert "in 15 pieces (a bar needs tqdm: pip install tqdm)" in capsys.readouterr().err


def test_mapped_files_are_not_held_in_memory(tmp_path, monkeypatch):
    """The reader of .npy and .pt touches the pieces only: nothing of the array's size is allocated."""
    write(tmp_path / "a.npy", normal(100, 16))
    write(tmp_path / "a.pt", normal(100, 16))
    asked = []
    load, torch_load = np.load, torch.load
    monkeypatch.setattr(np, "load", lambda *a, **k: asked.append(k.get("mmap_mode")) or load(*a, **k))
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k.get("mmap")) or torch_load(*a, **k))
    for name in ("a.npy", "a.pt"):
        files.sample(files.opened(tmp_path / name), 1 << 20)
    assert asked == ["r", True]


def test_an_unknown_key_names_those_there_are(tmp_path, capsys):
    write(tmp_path / "a.npz", normal(20, 4))
    said = refused(capsys, tmp_path / "a.npz", "--key", "x")
    assert "there is no array 'x'; it has labels (20,), z (20, 4)" in said
    assert main(["inspect", str(tmp_path / "a.npz"), "--key", "z"]) == 0
    with pytest.raises(Unusable, match="got int64"):
        files.opened(tmp_path / "a.npz", key="labels")


def test_no_row_of_a_large_file_is_drawn_twice(tmp_path):
    np.save(tmp_path / "z.npy", normal(1000, 4).numpy())
    for kept in (999, 800, 510, 300):
        _, index = files.sample(files.opened(tmp_path / "z.npy"), kept * 4)
        assert len(index) == kept
        assert (index.diff() > 0).all()


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
@pytest.mark.parametrize("save", [np.save, lambda path, z: np.savez(path, z=z, step=np.arange(3))])
def test_either_byte_order_is_read(dtype, save, tmp_path):
    """As of FITS images."""
    z = normal(50, 4).numpy().astype(dtype)
    path = tmp_path / ("z.npy" if save is np.save else "z.npz")
    save(path, z)
    array = files.opened(path)
    assert array.dtype == f"float{8 * z.itemsize}"
    assert torch.equal(files.sample(array, 1 << 20)[0].double(), torch.tensor(z.astype("float64")))


def test_floats_of_eight_bits_are_read(tmp_path):
    z = normal(50, 4).to(torch.float8_e4m3fn)
    torch.save(z, tmp_path / "z.pt")
    assert torch.equal(files.sample(files.opened(tmp_path / "z.pt"), 1 << 20)[0], z.float())


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (1e200 * normal(50, 4).double(), "fourth powers leave float64; scale it"),
        (normal(50, 4).to_sparse(), "expected a dense tensor, got torch.sparse_coo; save z.to_dense()"),
    ],
)
def test_embeddings_that_cannot_be_measured_are_one_line(z, says, tmp_path, capsys):
    torch.save(z, tmp_path / "z.pt")
    assert re.search(rf"z\.pt: .*{re.escape(says)}", refused(capsys, tmp_path / "z.pt"))
