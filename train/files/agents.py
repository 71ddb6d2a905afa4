"""Trained agents that come with the repository, by the name of their preset."""

from pathlib import Path

from train.config import PRESETS
from train.files import remote

RESULTS = Path(__file__).resolve().parents[2] / "profiling" / "results"


def trained(results: Path = RESULTS) -> dict[str, Path]:
    """Preset -> its checkpoint of the lowest seed; empty where only the packages are installed."""
    found = {}
    for name in PRESETS:
        seeds = (results / name).glob("seed*/best.safetensors")
        if best := min(seeds, key=lambda p: (len(p.parent.name), p.parent.name), default=None):
            found[name] = best
    return found


def find(name: str | Path, results: Path = RESULTS) -> Path:
    """The checkpoint that a preset's name stands for; a path or URL stands for itself.

    Raises:
        ValueError: neither a path nor the name of a trained agent.
    """
    path = remote.here(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    agents = trained(results)
    if path.name not in agents:
        names = ", ".join(agents) or "none here: they come with a clone of the repository"
        raise ValueError(
            f"checkpoint is {str(name)!r}: expected a run's folder, a .safetensors file or the "
            f"name of a trained agent ({names})"
        )
    return agents[path.name]
