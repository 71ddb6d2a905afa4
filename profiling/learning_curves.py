"""Draws the learning curves of the presets from the committed runs: `python -m
profiling.learning_curves` writes profiling/results/learning_curves.png."""

from pathlib import Path

from train import cli, curve

RESULTS = Path(__file__).parent / "results"
PRESETS = ("quick", "four-rooms", "maze")


def main() -> int:
    groups = {name: sorted((RESULTS / name).glob("seed*")) for name in PRESETS}
    picture = RESULTS / "learning_curves.png"
    curve.draw({name: folders for name, folders in groups.items() if folders}, picture)
    print(picture)
    return 0


if __name__ == "__main__":
    cli.main(main)
