"""Rank the runs of CSV files, one row a run:

python -m sigreg.selection runs.csv --by lr,weight_decay --where batch_size=128 --against accuracy
"""

from __future__ import annotations

import argparse
import sys

from sigreg.selection import Row, rank_runs, read_csv, write_csv
from sigreg.selection.table import cell


def main(arguments: list[str] | None = None) -> None:
    """Print the ranking; a table that cannot be ranked ends in one line and exit status 2."""
    parser = argparse.ArgumentParser(
        "python -m sigreg.selection",
        description=rank_runs.__doc__.splitlines()[0] if rank_runs.__doc__ else None,
    )
    parser.add_argument("files", nargs="+", help="CSV files with a header and one row a run")
    parser.add_argument("--loss", default="loss", help="the column of the training loss")
    parser.add_argument(
        "--alpha", type=float, help="compare loss / lambda^alpha; needed where lambda differs"
    )
    parser.add_argument("--lambda-param", help="the column of lambda, where its name does not say so")
    parser.add_argument(
        "--by",
        type=_names,
        default=[],
        metavar="A,B",
        help="columns that name a setting: average over the others (seeds)",
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="only these runs"
    )
    parser.add_argument(
        "--objective", type=_names, default=[], metavar="A,B", help="further columns that must not differ"
    )
    parser.add_argument(
        "--ignore", type=_names, default=[], metavar="A,B", help="columns that may differ all the same"
    )
    parser.add_argument("--against", help="a column to set the order against, such as an accuracy")
    parser.add_argument("--out", help="write the ranking to this CSV file, too")
    args = parser.parse_args(arguments)
    try:
        runs = [row for path in args.files for row in read_csv(path)]
        for condition in args.where:
            runs = _where(runs, condition)
        ranking = rank_runs(
            runs,
            loss=args.loss,
            alpha=args.alpha,
            lambda_param=args.lambda_param,
            by=args.by,
            objective=args.objective,
            ignore=args.ignore,
            against=args.against,
        )
        if args.out:
            write_csv(args.out, ranking.rows())
    except (OSError, ValueError) as error:
        parser.exit(2, f"sigreg.selection: {error}\n")
    print(ranking)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _where(runs: list[Row], condition: str) -> list[Row]:
    column, sign, value = condition.partition("=")
    if not sign or not any(column in row for row in runs):
        raise ValueError(f"--where {condition}: expected COLUMN=VALUE with one of {', '.join(runs[0])}")
    kept = [row for row in runs if row.get(column) == cell(value, column)]
    if not kept:
        found = sorted({str(row.get(column)) for row in runs})
        raise ValueError(f"--where {condition} leaves no run; {column} is {', '.join(found[:8])}")
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
