"""Masked bytes of a text by a small BERT under Trainer, with and without SIGReg on its pooled embeddings.

    make transformers
    python -m integrations.transformers.train --text FILE

First one batch shows that neither padding nor the number of microbatches changes the loss or the gradient.
Then two models are trained, one with weight 0, and their embeddings of other passages are compared.
Writes report.json to --out.  Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from integrations.transformers import checks, report, text
from integrations.transformers.model import BATCH, PARTS, POOLING, bert, trainer
from sigreg.diagnostics import diagnose
from sigreg_adapters.pooling import pooled


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", help="a text file with an empty line between paragraphs; default: help()'s")
    parser.add_argument("--steps", type=int, default=100, help=f"of {BATCH} passages each, for each model")
    parser.add_argument("--weight", type=float, default=0.3, help="of SIGReg")
    parser.add_argument("--width", type=int, default=64, help="D, of the embedding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/transformers"))
    return parser.parse_args(arguments)


@torch.no_grad()
def embed(model: nn.Module, passages: list[bytes]) -> Tensor:
    """Of passages without masked bytes: `(N, D)`."""
    model.eval()
    base: Any = model.base_model
    device = next(model.parameters()).device
    found = []
    for n in range(0, len(passages), 256):
        batch = text.padded(text.rows(passages[n : n + 256], share=0.0))
        inputs = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
        found.append(pooled(POOLING, base(**inputs), inputs)[0].float().cpu())
    return torch.cat(found)


def top_1_retrieval(model: nn.Module, passages: list[bytes]) -> float:
    """The share of first halves whose nearest second half, by cosine, is that of the same passage."""
    whole = [p for p in passages if len(p) >= 48]
    halves = [[p[: len(p) // 2] for p in whole], [p[len(p) // 2 :] for p in whole]]
    first, second = (nn.functional.normalize(embed(model, half), dim=1) for half in halves)
    return float(((first @ second.T).argmax(1) == torch.arange(len(whole))).float().mean())


def evaluate(model: nn.Module, passages: list[bytes]) -> dict[str, float]:
    """Of passages that were not trained on; SIGReg's measure is about 1 for N(0, I)."""
    measured = diagnose(embed(model, passages)).measured
    return {
        "effective rank": measured.effective_rank,
        "SIGReg": measured.value,
        "top-1 retrieval": top_1_retrieval(model, passages),
    }


def train(args: argparse.Namespace, rows: list[text.Row], weight: float) -> tuple[nn.Module, float]:
    """A new model after `--steps` optimizer steps, which Trainer shows, and SIGReg at the end of training."""
    one = trainer(
        bert(args.width, seed=args.seed),
        rows,
        weight,
        max_steps=args.steps,
        learning_rate=2e-3,
        warmup_steps=args.steps // 10,
        lr_scheduler_type="cosine",
        logging_steps=max(args.steps // 8, 1),
        seed=args.seed,
        output_dir=str(args.out),
    )
    one.train()
    return one.model, [entry["sigreg"] for entry in one.state.log_history if "sigreg" in entry][-1]


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    origin = report.source()  # before anything is edited while this runs
    whole = text.read(args.text)
    training, held_out = text.split(text.passages(whole))
    rows, evaluation = text.rows(training, args.seed), text.rows(held_out, args.seed)
    start = time.perf_counter()

    exactness = checks.compare(rows, args.weight)
    print(f"\nThe first step, of {BATCH} passages:\n\n{report.table(exactness)}\n")

    results = {"untrained": evaluate(bert(args.width, seed=args.seed), held_out)}
    for name, weight in (("without SIGReg", 0.0), ("with SIGReg", args.weight)):
        print(f"\nTraining {name}: {args.steps} steps of {PARTS} x {BATCH // PARTS} passages\n")
        model, sigreg = train(args, rows, weight)
        loss = trainer(model, rows, weight, output_dir=str(args.out)).evaluate(evaluation)["eval_loss"]
        results[name] = {
            **evaluate(model, held_out),
            "loss of the masked bytes": loss,
            f"SIGReg of {BATCH} in training": sigreg,
        }
    print(
        f"\n{len(held_out)} passages that were not trained on, D = {args.width}:\n\n{report.table(results)}\n"
    )

    found = {
        "first_step": exactness,
        "results": results,
        "config": {key: value for key, value in vars(args).items() if key != "out"},
        "text": {"sha256": text.fingerprint(whole), "training": len(training), "held_out": len(held_out)},
        "seconds": round(time.perf_counter() - start, 1),
        **origin,
    }
    (args.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    print("wrote", args.out / "report.json")


if __name__ == "__main__":
    main()
