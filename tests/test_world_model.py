"""The world model's recipe: the world keeps its rules, planning is right for a right model, SIGReg prevents
collapse."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from integrations.world_model import demo, planning, probes, study, world
from integrations.world_model.model import Settings, WorldModel, train
from sigreg.objective import NextEmbeddingLoss

NOISE = 0.1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def many():
    """Places and actions, all the longest ones among them."""
    position = world.places(4000, generator())
    action = 4 * torch.rand(4000, 2, generator=generator(1)) - 2
    return position, action


def test_a_move_that_meets_nothing_is_the_action_times_the_longest_move():
    position, action = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, -3.0]])
    moved = position + world.LONGEST * torch.tensor([[0.25, -1.0]])
    assert_close(world.step(position, action), moved)


def test_no_action_brings_the_agent_into_a_wall_or_out_of_the_room(many):
    moved = world.step(*many)
    assert world.free(moved).all()
    assert ((moved >= world.RADIUS) & (moved <= 1 - world.RADIUS)).all()


def test_no_action_brings_the_agent_through_a_wall(many):
    position, moved = many[0], world.step(*many)
    for x0, y0, x1, y1 in world.WALLS.tolist():
        low = (position[:, 1] > y0) & (position[:, 1] < y1) & (moved[:, 1] > y0) & (moved[:, 1] < y1)
        jumped = ((position[:, 0] < x0) & (moved[:, 0] > x1)) | ((position[:, 0] > x1) & (moved[:, 0] < x0))
        assert not (low & jumped).any()


def test_a_wall_stops_motion_towards_it_and_not_along_it():
    face = world.WALLS[0, 0] - world.RADIUS
    position, action = torch.stack([face - 0.01, torch.tensor(0.3)]), torch.tensor([1.0, 0.5])
    assert_close(world.step(position, action), torch.stack([face, torch.tensor(0.3 + 0.5 * world.LONGEST)]))
    assert_close(world.step(position, action, world.EMPTY), position + world.LONGEST * action)


def test_the_disc_is_drawn_where_the_agent_is():
    position = world.places(200, generator(), world.EMPTY)
    position = position[((position > 0.1) & (position < 0.9)).all(1)]
    mass = world.drawing(position, world.EMPTY)[:, 0]
    at = (torch.arange(world.SIZE) + 0.5) / world.SIZE
    centre = torch.stack([(mass.sum(1) * at).sum(1), (mass.sum(2) * at).sum(1)], dim=1)
    # pixels sample the disc: its centre of mass is right to a tenth of a pixel
    assert_close(centre / mass.sum((1, 2))[:, None], position, rtol=0, atol=0.1 / world.SIZE)


def test_the_camera_adds_noise_of_its_own_to_every_frame():
    position = torch.full((100, 2), 0.5)
    noise = world.camera(position, NOISE, generator()) - world.drawing(position)
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.02)  # 100,000 pixels: 9 standard errors
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=5 * NOISE**2 / world.SIZE)


def test_held_out_episodes_and_tasks_differ_from_seed_to_seed_and_repeat_for_one():
    one, again, other = (study.prepare(Settings(seed=s, episodes=4), 4, 4) for s in (0, 0, 1))
    assert_close(one.held_out.frames, again.held_out.frames)
    parts = (one.episodes, one.held_out, other.episodes, other.held_out)
    starts = [part.positions[0, 0].tolist() for part in parts]
    assert len({tuple(start) for start in starts}) == 4
    assert (one.todo.start != other.todo.start).any()


@pytest.mark.parametrize("walls", [world.WALLS, world.EMPTY], ids=["walls", "empty"])
def test_the_prediction_term_is_zero_for_the_true_dynamics_and_only_for_them(walls):
    """With positions as embeddings.  Moving on regardless of walls is right in the empty room alone."""
    z, actions = world.episodes(256, 6, NOISE, 0, walls)[2:0:-1]

    def regardless(z, a):
        return (z + world.LONGEST * a).clamp(world.RADIUS, 1 - world.RADIUS)

    def true(z, a):
        return world.step(z, a, walls)

    criterion = NextEmbeddingLoss(rollout=2)
    assert float(criterion.components(z, true, actions).prediction) == 0
    error = float(criterion.components(z, regardless, actions).prediction)
    assert (error > 1e-5) == bool(len(walls))


def test_planning_in_the_true_world_reaches_more_goals_than_the_random_policy():
    todo = planning.tasks(60, 0)
    policies = (None, planning.in_truth(todo.goal))
    random, planned = (planning.success(planning.paths(todo, policy, 1), todo) for policy in policies)
    assert planning.interval(planned["success"], 60)[0] > planning.interval(random["success"], 60)[1]
    assert planned["success_behind"] > random["success_behind"]


def test_planning_with_a_perfect_model_is_planning_in_the_true_world(monkeypatch):
    class Perfect:
        encode = staticmethod(lambda frames: frames)

        def rollout(self, z, actions):
            path = []
            for action in actions.unbind(-2):
                z = world.step(z, action)
                path.append(z)
            return torch.stack(path, dim=-2)

    monkeypatch.setattr(world, "camera", lambda position, noise, generator: position)
    todo = planning.tasks(10, 0)
    truth = planning.paths(todo, planning.in_truth(todo.goal), 1)
    assert_close(planning.paths(todo, planning.in_embeddings(Perfect(), todo.goal, NOISE, 0), 1), truth)


def test_a_task_is_solved_by_a_path_that_comes_near_its_goal_and_goes_on():
    path = torch.tensor([[[0.1, 0.1], [0.5, 0.55], [0.9, 0.9]], [[0.1, 0.1], [0.5, 0.65], [0.9, 0.9]]])
    assert planning.reached(path, torch.tensor([[0.5, 0.5], [0.5, 0.5]])).tolist() == [True, False]


def test_tasks_behind_a_wall_are_those_whose_straight_line_meets_one():
    todo = planning.tasks(200, 0)
    left, right = todo.start[:, 0] < 0.3, todo.goal[:, 0] > 0.36
    crosses = left & right & (todo.start[:, 1] < 0.6) & (todo.goal[:, 1] < 0.6)
    assert crosses.any()
    assert todo.behind[crosses].all()
    same = (todo.start[:, 0] < 0.26) & (todo.goal[:, 0] < 0.26)
    assert not todo.behind[same].any()


def test_rollout_errors_of_a_model_that_predicts_no_change_are_those_of_the_first_frame(monkeypatch):
    model = WorldModel(4)
    torch.nn.init.zeros_(model.change[-1].weight)
    torch.nn.init.zeros_(model.change[-1].bias)
    errors = probes.rollout_errors(model, world.episodes(20, 16, NOISE, 0), world.episodes(10, 16, NOISE, 1))
    assert errors["position"] == errors["still"]
    assert len(errors["latent"]) == 15


def test_embeddings_collapse_without_sigreg_and_not_with_it():
    episodes, held_out = world.episodes(120, 16, NOISE, 0), world.episodes(40, 16, NOISE, 1)
    small = Settings(steps=80, batch_size=32, window=2, lr=1e-3)
    without, with_sigreg = (
        train(replace(small, lambda_param=weight), episodes, held_out)[1][-1]["sd"] for weight in (0.0, 1.0)
    )
    assert with_sigreg > 0.3
    assert without < 0.02


def test_the_demo_leaves_a_report_with_every_variant_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(planning, "CANDIDATES", 8)
    small = "--steps 2 --episodes 100 --batch-size 8 --held-out 10 --tasks 12"
    demo.main([*small.split(), "--out", str(tmp_path)])
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["settings"]["steps"] == 2
    assert list(written["results"]) == list(study.VARIANTS)
    shared = {"r2", "r2_few", "success", "success_free", "success_behind"}
    for variant, found in written["results"].items():
        more = {"truth"} if variant == "reference" else {"sd", "effective_rank", "rollout_position"}
        assert shared | more <= set(found)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("with SIGReg", "random policy", "true world"))


def test_the_numbers_of_the_readme_are_those_of_the_report_and_the_rows():
    root = Path(__file__).parents[1]
    readme = (root / "integrations/world_model/README.md").read_text(encoding="utf-8")
    kept = json.loads((root / "docs/demo/world_model.json").read_text())
    found = kept["results"]
    assert demo.table(found, kept["settings"]["tasks"]) in readme
    sigreg, pixels, untrained = (found[name] for name in ("sigreg", "reference", "untrained"))
    frame = pd.read_csv(root / "benchmarks/results/world_model.csv")
    rows = frame[(frame.variant == "sigreg") & (frame.noise == 0.1)]
    assert sorted(rows.seed) == list(range(10))
    rates, behind = 100 * rows.success, 100 * pixels["success_behind"]
    assert sigreg["success_free"] == 1
    for sentence in (
        f"{kept['cpu_seconds']:.0f} s of processor time",
        f"falls from {found['without']['curve_sd'][0]:.2g} to {found['without']['sd']:.2g}",
        f"R² is {sigreg['r2']:.2f}, of pixels {pixels['r2']:.2f}",
        f"with 100 it is {sigreg['r2_few']:.2f}, of pixels {pixels['r2_few']:.2f}",
        f"reach {untrained['r2_convolved']:.2f} and {untrained['r2_few_convolved']:.2f}",
        f"those of the trained one {sigreg['r2_convolved']:.2f} and {sigreg['r2_few_convolved']:.2f}",
        f"{sigreg['rollout_position'][-1]:.2f} room widths off, {sigreg['rollout_still'][-1]:.2f} when",
        f"{100 * sigreg['success_behind']:.1f} % of those behind a wall (random policy",
        f"policy {behind:.1f} %, planning in the true world {100 * pixels['truth_behind']:.1f} %)",
        f"R² from {rows.r2.min():.2f} to {rows.r2.max():.2f} and success from {rates.min():.1f} to",
        f"to {rates.max():.1f} %.",
    ):
        assert sentence in " ".join(readme.split()), sentence
    verdict = (root / "benchmarks/conf/question/world_model.yaml").read_text(encoding="utf-8")
    verdict = " ".join(verdict.split())
    assert f"(R^2 {rows.r2.min():.2f} to {rows.r2.max():.2f} on".replace("0.", ".") in verdict
    assert f"{rates.min():.1f} to {rates.max():.1f} % of the goals" in verdict
    without = frame[frame.variant == "without"]
    assert without.sd.max() < 0.001
    assert without.r2.max() < 0.1
