"""`python -m sigreg.selection`: its output, its file, and one line for what cannot be ranked."""

import csv
import subprocess
import sys

import pytest

from sigreg.selection import read_csv
from sigreg.selection.__main__ import main
from tests.test_selection import RUNS


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "runs.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(RUNS[0]))
        writer.writeheader()
        writer.writerows([*RUNS, RUNS[0] | {"batch_size": 256, "loss": 0.1}])
    return path


def test_the_command_ranks_a_csv_file_and_writes_the_ranking(file, tmp_path):
    out = tmp_path / "ranked.csv"
    arguments = [str(file), "--where", "batch_size=64", "--by", "name,lr", "--out", str(out)]
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = [line.split() for line in done.stdout.splitlines()]
    assert printed == [
        ["rank", "score", "loss", "runs", "name", "lr"],
        ["1", "0.2", "0.2", "1", "a", "0.02"],
        ["2", "0.3", "0.3", "1", "b", "0.01"],
        ["3", "0.4", "0.4", "1", "c", "0.03"],
    ]
    assert [row["name"] for row in read_csv(out)] == ["a", "b", "c"]


PROGRAM = """
import runpy, sys
sys.modules["pandas"] = None  # not there
runpy.run_module("sigreg.selection", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "batch_size is 64 in 3 runs and 256 in 1"),
        (["--where", "batch_size=8"], "leaves no run; batch_size is 256, 64"),
        (["--where", "width=8"], "expected COLUMN=VALUE with one of name, lr"),
        (["--loss", "val"], "no column 'val'"),
        (["nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_table_that_cannot_be_ranked_is_one_line_and_status_2(arguments, says, file, capsys):
    with pytest.raises(SystemExit) as exit:
        main([str(file), *arguments])
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sigreg.selection: ")
    assert says in line


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "holds no run"), (b"loss\n1,2\n", "row 2 has more cells"), (b"\xff\xfe\x00", "not a CSV file")],
)
def test_a_malformed_file_is_one_line(content, says, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(SystemExit):
        main([str(path)])
    assert says in capsys.readouterr().err
