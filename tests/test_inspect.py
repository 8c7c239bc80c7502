"""`python -m sigreg inspect`: formats, exit statuses, one-line errors, pieces, labels, pictures."""

import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import engine
from benchmarks.rows import Table
from sigreg.__main__ import main
from sigreg.diagnostics import FINDINGS, diagnose
from sigreg.inspect import files
from sigreg.inspect.formats import Unusable
from sigreg.inspect.plot import null_spectrum
from tests.samples import normal


def write(path, z: Tensor) -> None:
    if path.suffix == ".npy":
        np.save(path, z.numpy())
    elif path.name == "compressed.npz":
        np.savez_compressed(path, z=z.numpy())
    elif path.name == "fortran.npz":
        np.savez(path, z=np.asfortranarray(z.numpy()))
    elif path.suffix == ".npz":
        np.savez(path, labels=np.arange(len(z)), z=z.numpy())
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file({"z": z.contiguous()}, path)
    else:
        torch.save({"z": z, "step": 3} if path.name == "dict.pt" else z, path)


NAMES = ["a.npy", "a.npz", "compressed.npz", "fortran.npz", "a.pt", "dict.pt", "a.pth", "a.safetensors"]


@pytest.fixture
def healthy(tmp_path):
    path = tmp_path / "healthy.npy"
    write(path, normal(200, 16))
    return path


def refused(capsys, *arguments) -> str:
    """The one line on stderr of an unusable input."""
    assert main(["inspect", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_numbers(name, tmp_path, capsys):
    z = 0.5 * normal(200, 16)
    write(tmp_path / name, z)
    assert main(["inspect", str(tmp_path / name), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in found["findings"]] == ["off scale"]
    assert (found["rows"], found["columns"], found["dtype"]) == (200, 16, "float32")
    assert found["measured"]["value"] == diagnose(z).measured.value


def test_the_exit_status_says_healthy_not_healthy_or_unusable(healthy, tmp_path, capsys):
    assert main(["inspect", str(healthy)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "healthy"
    write(tmp_path / "flat.pt", torch.zeros(64, 8))
    assert main(["inspect", str(tmp_path / "flat.pt")]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[1] == "not healthy: collapsed"
    assert "all rows are 0; SIGReg is 25.731, its value at an exact collapse, 0.40205 N." in " ".join(
        printed.split()
    )
    assert main(["inspect", str(tmp_path / "nothing.npy")]) == 2


def test_the_command_line_is_that_of_the_module(healthy):
    command = [sys.executable, "-m", "sigreg"]
    done = subprocess.run([*command, "inspect", str(healthy)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, "healthy")
    done = subprocess.run([*command, "inspct"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m sigreg inspect FILE")


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


def test_labels_add_what_the_embeddings_are_good_for(tmp_path, capsys):
    pytest.importorskip("sklearn")
    y = torch.arange(200) % 4
    z = normal(200, 16) + 4 * torch.nn.functional.one_hot(y, 16)
    write(tmp_path / "z.npy", z)
    np.save(tmp_path / "y.npy", y.numpy())
    (tmp_path / "y.txt").write_text("\n".join(f"class {i}" for i in y.tolist()) + "\n")
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, y.tolist())) + "\n")
    results = []
    for labels in ("y.npy", "y.txt", "y.csv"):
        main(["inspect", str(tmp_path / "z.npy"), "--labels", str(tmp_path / labels), "--json"])
        results.append(json.loads(capsys.readouterr().out)["labels"])
    assert results[0] == results[1] == results[2]
    knn, linear, chance = results[0].values()
    assert chance == 25
    assert min(knn, linear) > 90  # classes 5.7 standard deviations apart
    main(["inspect", str(tmp_path / "z.npy"), "--labels", str(tmp_path / "y.npy")])
    assert "accuracy of a linear probe (%)" in capsys.readouterr().out
    np.save(tmp_path / "few.npy", np.zeros(7, int))
    assert "7 labels, shape (7,), for 200 rows" in refused(
        capsys, tmp_path / "z.npy", "--labels", tmp_path / "few.npy"
    )
    np.save(tmp_path / "same.npy", np.zeros(200, int))
    assert "two classes" in refused(capsys, tmp_path / "z.npy", "--labels", tmp_path / "same.npy")


@pytest.mark.parametrize(
    "name", ["y.npz", "zy.npz", "compressed zy.npz", "zy.pt", "column.npz", "row.npy", "bool.npy"]
)
def test_labels_are_found_in_any_file(name, healthy, tmp_path, capsys):
    pytest.importorskip("sklearn")
    y, z = np.arange(200) % 2, normal(200, 1).numpy()  # as many numbers as there are labels
    path = tmp_path / name
    if name.endswith("zy.npz"):
        (np.savez_compressed if "compressed" in name else np.savez)(path, z=z, y=y)
    elif name.endswith(".npz"):
        np.savez(path, y=y[:, None] if name == "column.npz" else y)
    elif name.endswith(".pt"):
        torch.save({"z": torch.tensor(z), "y": torch.tensor(y)}, path)
    else:
        np.save(path, y[None] if name == "row.npy" else y.astype(bool))
    main(["inspect", str(healthy), "--labels", str(path), "--json", "--seed", "-1"])
    found = json.loads(capsys.readouterr().out)["labels"]
    assert found["accuracy of the most frequent class (%)"] == 50


BAD_LABELS = {
    "text.npy": (lambda p: np.save(p, np.array(["a", "b"])[np.arange(200) % 2]), "<U1 are not numbers"),
    "number.npy": (lambda p: np.save(p, np.array(3)), r"1 labels, shape \(\), for 200 rows"),
    "number.npz": (lambda p: np.savez(p, y=np.array(3)), r"1 labels, shape \(\), for 200 rows"),
    "number.pt": (lambda p: torch.save(torch.tensor(3), p), r"1 labels, shape \(\), for 200 rows"),
    "empty.npy": (lambda p: np.save(p, np.zeros((0, 4))), r"0 labels, shape \(0, 4\), for 200 rows"),
    "two.npz": (
        lambda p: np.savez(p, a=np.ones(200), b=np.ones(200)),
        r"one array of 200 labels; it has a \(200,\)",
    ),
    "neither.npz": (
        lambda p: np.savez(p, a=np.ones(7), b=np.ones(9)),
        r"one array of 200 labels; it has a \(7,\)",
    ),
    "cut.npz": (lambda p: cut_short(p, np.arange(200) % 2), "damaged"),
}


def cut_short(path, y) -> None:
    """An archive whose member ends before its header says."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("y.npy", "w") as file:
        whole = io.BytesIO()
        np.save(whole, y)
        file.write(whole.getvalue()[:-8])


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_one_line(name, healthy, tmp_path, capsys):
    make, message = BAD_LABELS[name]
    make(tmp_path / name)
    said = refused(capsys, healthy, "--labels", tmp_path / name)
    assert name in said
    assert re.search(message, said), said


def test_two_files_are_set_side_by_side(healthy, tmp_path, capsys):
    write(tmp_path / "b.pt", 0.5 * normal(300, 16, seed=2))
    assert main(["inspect", str(healthy), "--compare", str(tmp_path / "b.pt")]) == 0
    printed = capsys.readouterr().out
    assert "B only: off scale" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("standard deviation of a coordinate")]
    a, b, expected = map(float, line.split()[-3:])
    assert (round(a, 1), round(b, 1), expected) == (1.0, 0.5, 1.0)
    assert main(["inspect", str(tmp_path / "b.pt"), "--compare", str(healthy), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["healthy"], found["compare"]["healthy"]) == (False, True)


@pytest.mark.parametrize("shape", [(200, 16), (20, 40), (3, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_picture_is_drawn_of_any_embeddings(shape, scale, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write(tmp_path / "a.npy", scale * normal(*shape))
    main(["inspect", str(tmp_path / "a.npy"), "--plot", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_spectrum_drawn_for_a_gaussian_is_that_of_its_samples():
    for N, D in ((400, 100), (101, 100), (50, 200)):
        x = normal(N, D).double()
        x = x - x.mean(0)
        count = min(N - 1, D)
        measured = torch.linalg.eigvalsh(x.T @ x / (N - 1)).flip(0)[:count]
        # eigenvalues of one sample of this size scatter by a few percent of their mean, which is max(1, D/N)
        assert float((null_spectrum(N, D, count) - measured).abs().mean()) < 0.05 * max(1.0, D / N)


@pytest.mark.parametrize(
    ("module", "package", "option"),
    [("matplotlib", "matplotlib", "--plot"), ("sklearn", "scikit-learn", "--labels")],
)
def test_a_missing_package_is_named(module, package, option, healthy, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    np.save(tmp_path / "y.npy", np.arange(200) % 2)
    said = refused(capsys, healthy, option, tmp_path / ("a.png" if option == "--plot" else "y.npy"))
    assert f"{option} needs {package}, which is not installed: pip install {package}" in said


def test_an_unknown_key_names_those_there_are(tmp_path, capsys):
    write(tmp_path / "a.npz", normal(20, 4))
    said = refused(capsys, tmp_path / "a.npz", "--key", "x")
    assert "there is no array 'x'; it has labels (20,), z (20, 4)" in said
    assert main(["inspect", str(tmp_path / "a.npz"), "--key", "z"]) == 0
    with pytest.raises(Unusable, match="got int64"):
        files.opened(tmp_path / "a.npz", key="labels")


def test_importing_the_command_line_loads_torch_alone():
    program = (
        "import sys, torch; before = set(sys.modules); import sigreg.__main__; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert loaded == {"sigreg"}


ROOT = Path(__file__).parents[1]


def test_the_power_said_is_that_of_the_committed_rows():
    page = (ROOT / "docs/inspect.md").read_text(encoding="utf-8")
    for part in engine.module("inspect_power").table(Table("inspect_power").frame()).split("\n\n"):
        assert part in page


def test_a_gaussian_is_healthy_in_99_of_100_draws_in_the_committed_rows():
    rows = Table("inspect_power").frame()
    null = rows[rows.defect == "none"]
    assert null.named.min() >= 0.99
    assert {(N, D) for N in (32, 128, 512) for D in (2, 8, 64)} <= set(zip(null.N, null.D, strict=True))


def test_every_finding_has_its_place_in_the_documentation():
    page = (ROOT / "docs/inspect.md").read_text(encoding="utf-8")
    for name in FINDINGS:
        assert f"| **{name}** |" in page
