"""How solo-learn finds our methods: the Hydra plugin and the launcher, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("omegaconf", reason="solo-learn's configs are omegaconf's")
pytest.importorskip("hydra", reason="the plugin is Hydra's")

from tests import solo_stand_in as stand_in

ROOT = Path(__file__).parent.parent

PROGRAM = """
import sys
{first}
import hydra

@hydra.main(version_base="1.2", config_path=None)
def main(cfg):
    print({report})

main()
main()
"""


def _run(tmp_path: Path, first: str, report: str, *command: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(first=first, report=report))
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *command, str(script), "hydra.run.dir=.", "hydra.output_subdir=null"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_in_another_hydra_program_the_plugin_prints_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    report = "'hydra_plugins.sigreg_solo_learn' in sys.modules, 'torch' in sys.modules, 'solo' in sys.modules"
    done = _run(tmp_path, "", report)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True False False\n" * 2, "")


def test_a_program_that_has_imported_solo_learn_finds_lejepa(tmp_path: Path) -> None:
    first = "from tests import solo_stand_in; solo_stand_in.install(); from solo.methods import METHODS"
    done = _run(tmp_path, first, "'lejepa' in METHODS, 'byol+sigreg' in METHODS")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n" * 2, "")


def test_a_program_on_an_old_solo_learn_runs_on_and_is_told_why_once(tmp_path: Path) -> None:
    first = (
        "from tests import solo_stand_in; solo_stand_in.install(solo_stand_in.ArgparseBaseMethod); "
        "from solo.methods import METHODS"
    )
    done = _run(tmp_path, first, "'lejepa' in METHODS")
    assert (done.returncode, done.stdout) == (0, "False\n" * 2)
    assert done.stderr.count("method lejepa is not available: this solo-learn still takes") == 1
    assert len(done.stderr.splitlines()) == 1


def test_the_launcher_runs_a_script_as_python_would_with_our_methods_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.adapter(monkeypatch, stand_in.BaseMethod)
    script = tmp_path / "main_any.py"
    script.write_text(
        "import sys, beside\nfrom solo.methods import METHODS\n"
        "if __name__ == '__main__': print('lejepa' in METHODS, sys.argv[1:], beside.here)\n"
    )
    (tmp_path / "beside.py").write_text("here = True\n")
    monkeypatch.setattr(sys, "argv", ["before"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    from sigreg_adapters.solo_learn.__main__ import main

    main([str(script), "--k", "20"])
    assert capsys.readouterr().out == "True ['--k', '20'] True\n"


@pytest.mark.parametrize("argv", [[], ["main_nowhere.py"]])
def test_the_launcher_without_a_script_says_how_to_call_it(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigreg_adapters.solo_learn.__main__ import main

    with pytest.raises(SystemExit, match=r"usage: python -m sigreg_adapters.solo_learn main_knn.py"):
        main(argv)


def test_the_launcher_outside_a_clone_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.adapter(monkeypatch, None)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "sigreg_adapters.solo_learn.__main__", raising=False)
    from sigreg_adapters.solo_learn.__main__ import main

    script = tmp_path / "main_knn.py"
    script.touch()
    with pytest.raises(SystemExit, match=r"^sigreg: solo-learn cannot be imported .*clone"):
        main([str(script)])
