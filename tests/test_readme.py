"""The READMEs' code runs, their links lead to files, and their numbers are those of committed rows."""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import engine

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NAMES = {  # in the comparison of README, by the name in the rows
    "lejepa": "LeJEPA, hidden width 512",
    "lejepa-2048": "LeJEPA, 2,048 (default)",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "dino": "DINO",
    "simsiam": "SimSiam",
    "pixels": "pixels",
    "untrained": "untrained",
}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_python_block_runs(number):
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})


def test_every_link_of_a_document_to_a_file_leads_to_one():
    run = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    documents = [ROOT / name for name in run.stdout.split("\0") if name]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert {ROOT / "README.md", ROOT / "docs/index.md"} < {document for document, _ in links}
    assert [(str(d), link) for d, link in links if not (d.parent / link).exists()] == []


def test_every_make_target_and_module_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for module in re.findall(r"python -m ([\w.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_the_demos_baselines_are_the_report_that_is_committed():
    report = json.loads((ROOT / "docs/demo/report.json").read_text())
    pixels, untrained = (
        " / ".join(f"{report['knn'][row][n]['mean']:.3f}"[1:] for n in ("1", "5", "10"))
        for row in ("pixels", "random")
    )
    said = f"Raw pixels have {pixels}, the untrained encoder {untrained}."
    assert said in (ROOT / "integrations/lightly/README.md").read_text()


def test_the_costs_are_the_rows_that_are_committed():
    frame = pd.read_csv(ROOT / "benchmarks/results/cost.csv")
    kept = frame[frame.allocator.notna()]
    frame = frame[(frame.scale == "cpu") & frame.allocator.isna()]
    faster = frame.pivot_table(index="case", columns="implementation", values="faster_than_lightly")
    than_compiled = frame.pivot_table(index="case", columns="implementation", values="faster_than_compiled")
    memory = frame.pivot_table(index="case", columns="implementation", values="extra_mib")
    rows = re.findall(r"^\| (\d+(?: x \d+){3}) \|(.*)\|$", README, re.MULTILINE)
    assert len(rows) == 5
    for name, cells in rows:
        case = name.replace(" ", "")
        speeds = [
            f"{faster.loc[case, ours]:.1f} ({than_compiled.loc[case, ours]:.1f})"
            for ours in ("eager", "inductor")
        ]
        needs = [
            f"{memory.loc[case, its]:.0f}" for its in ("eager", "inductor", "lightly", "lightly compiled")
        ]
        assert [cell.strip() for cell in cells.split("|")] == [*speeds, *needs], name
    eager = kept[kept.implementation == "eager"].faster_than_lightly
    text = " ".join(README.split())
    assert f"freed memory, eager is {eager.min():.1f} to {eager.max():.1f} times faster" in text
    shares = 100 * frame[frame.case == "resnet18"].set_index("implementation").added_share
    assert f"is {shares['eager']:.2f} % of a ResNet-18 step (lightly's {shares['lightly']:.2f} %)" in text


def test_what_is_said_of_a_gpu_is_the_rows_that_are_committed():
    frame = pd.read_csv(ROOT / "benchmarks/results/cost.csv")
    gpu = frame[(frame.scale == "gpu") & (frame.case != "resnet18")]
    ours, theirs, compiled, graphed = (
        gpu[gpu.implementation == name].set_index("case")
        for name in ("triton", "lightly", "lightly compiled", "triton, CUDA graph")
    )

    def between(values: pd.Series, digits: int) -> str:
        return f"{values.min():.{digits}f} to {values.max():.{digits}f}"

    text = " ".join(README.split())
    assert f"{ours.launches.min():.0f} or {ours.launches.max():.0f} launches a pass" in text
    memory = f"(lightly {between(theirs.extra_mib, 0)}; compiled {between(compiled.extra_mib, 0)})"
    assert f"(lightly {between(theirs.launches, 0)}), {between(ours.extra_mib, 0)} MiB {memory}" in text
    assert f"kernels run for {between(ours.busy_ms, 2)} ms" in text
    less = theirs.busy_ms / ours.busy_ms
    assert f"{less.min():.1f} to {less.max():.0f} times less than lightly's" in text
    assert f"{between(compiled.busy_ms / ours.busy_ms, 1)} times less than compiled lightly's" in text
    assert f"takes {between(ours.ms, 1)} ms" in text
    assert f"{between(ours.faster_than_lightly, 1)} times faster than lightly, " in text
    assert f"{between(ours.faster_than_compiled, 1)} times compiled lightly's speed" in text
    assert (
        f"it takes {between(graphed.ms, 1)} ms: {between(graphed.faster_than_lightly, 1)} times faster"
        in text
    )
    theirs_graphed = gpu[gpu.implementation == "lightly compiled, CUDA graph"].set_index("case")
    than_theirs = between(theirs_graphed.ms / graphed.ms, 1)
    assert f"{than_theirs} times faster than compiled lightly with CUDA graphs." in text
    steps = frame[(frame.scale == "gpu") & (frame.case == "resnet18")].set_index("implementation")
    share = (100 * steps.added_share).map("{:.1f} %".format)
    assert f"a pass is {share['triton']} of a ResNet-18 step, lightly's {share['lightly']}" in text
    mixes = frame[(frame.scale == "gpu") & frame.implementation.str.startswith("mix")]
    assert (mixes.faster_than_lightly < 1).all()  # "slower than lightly"
    eager = frame[(frame.scale == "gpu") & (frame.implementation == "eager")]
    assert (eager.faster_than_lightly < 1).sum() == 3  # "on three shapes"


def test_the_lightly_readmes_numbers_are_the_reports_that_are_committed():
    readme = (ROOT / "integrations/lightly/README.md").read_text()
    for file, method, name in (
        ("report", "lejepa", "LeJEPA"),
        ("byol", "byol", "BYOL"),
        ("dino", "dino", "DINO"),
        ("simsiam", "simsiam", "SimSiam"),
    ):
        report = json.loads((ROOT / f"docs/demo/{file}.json").read_text())
        cells = [report["knn"][method][n] for n in ("1", "5", "10")]
        assert f"| {name} | " + " | ".join(f"{c['mean']:.3f} ± {c['sd']:.3f}" for c in cells) + " |" in readme


@pytest.mark.parametrize("question", ["hosts", "hosts_long"])
def test_the_comparisons_in_lightlys_readme_are_the_rows_that_are_committed(question):
    results = ROOT / "benchmarks/results"
    parts = [pd.read_csv(results / f"{q}.csv").assign(question=q) for q in (question, "host_steps")]
    frame = pd.concat(parts)
    table = engine.module(question).table(frame[frame.scale == "cpu"])
    assert table in (ROOT / "integrations/lightly/README.md").read_text()


def test_the_hundred_epochs_are_the_rows_that_are_committed():
    frame = pd.read_csv(ROOT / "benchmarks/results/hosts_long.csv")
    runs = 100 * frame[frame.scale == "long"].set_index("method")[["knn", "linear"]]
    text = " ".join((ROOT / "integrations/lightly/README.md").read_text().split())
    for method, name in NAMES.items():
        said = _row(name)[2]
        if method not in runs.index:
            assert said == "not run"
            continue
        accuracies = " / ".join(_mean_and_sd(runs.loc[[method], probe]) for probe in ("knn", "linear"))
        assert said == f"{accuracies} ({len(runs.loc[[method]])})"
        assert f"{name.partition(',')[0]} {accuracies}" in text


def _row(name: str) -> list[str]:
    """The cells behind a name in README's comparison."""
    (line,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", README, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def _mean_and_sd(values: pd.Series) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.iloc[0]:.1f}"


def _lines(text: str) -> list[dict[str, str]]:
    """The first table of a Markdown text, a dict by column for each line, without the number of runs."""
    table = re.sub(r" \(n = \d+\)", "", re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0])
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


RUNS = r"^\| (\S+) \| ([^|]*) \|.*\(n = (\d+)\)"  # method, setting, number of runs


def test_the_comparison_here_is_that_of_lightlys_readme():
    text = (ROOT / "integrations/lightly/README.md").read_text().split("### On real images")[1]
    search = {line["method"]: line for line in _lines(text)}
    long = {(line["method"], line["setting"]): line for line in _lines(text.split("**The long run.**")[1])}
    ran = {(method, how): n for method, how, n in re.findall(RUNS, text.split("**The long run.**")[1], re.M)}
    for method, name in NAMES.items():
        short_run, long_run, _, *cost = _row(name)
        own = search[method]
        last = long.get((method, own["k-NN's setting"].removesuffix(", edge")))
        assert short_run == f"{own['k-NN']} / {own['linear']}"
        accuracies = f"{last['k-NN at 100 %']} / {last['linear at 100 %']}" if last else "not run"
        number = f" ({ran[method, last['setting']]})" if last else ""
        assert long_run == accuracies + number
        assert cost == [own["step, ms"], own["peak MiB"]]
    for method in ("lejepa-4", "lightly-lejepa"):
        assert f"{search[method]['k-NN']} / {search[method]['linear']}" in " ".join(README.split())
