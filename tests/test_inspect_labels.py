"""`python -m sigreg inspect FILE --labels FILE`: accuracies, and labels that cannot be used."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
import torch

from sigreg.__main__ import main
from sigreg.inspect import files, probes
from tests.inspected import refused, write
from tests.samples import normal


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


@pytest.mark.parametrize("header", ["", "class\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labels_are_those_of_their_rows(header, end, encoding, tmp_path):
    names = ["cat", "dog", "eel"]
    (tmp_path / "y.txt").write_text(header + "\n".join(names) + end, encoding=encoding, newline="")
    assert probes.read(tmp_path / "y.txt", 3) == names


def test_an_array_of_names_is_refused_whatever_their_length(tmp_path):
    np.save(tmp_path / "y.npy", np.array(["tabby cat", "dog", "eel"]))
    with pytest.raises(files.Unusable, match="labels of the type <U9 are not numbers"):
        probes.read(tmp_path / "y.npy", 3)
