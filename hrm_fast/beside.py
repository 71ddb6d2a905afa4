"""Check that Python finds our own packages under their names, which other projects use too."""

import importlib.util
from pathlib import Path

OWN = {  # a file that only ours has
    "envs": "gym_tokens.py",
    "hrm_fast": "beside.py",
    "kernels": "attention_block.py",
    "train": "dqn.py",
}


def check(*names: str) -> None:
    """Raise ImportError unless each of these packages is the project's own."""
    for name in names:
        spec = importlib.util.find_spec(name)
        folders = list(spec.submodule_search_locations or []) if spec else []
        if any((Path(folder) / OWN[name]).is_file() for folder in folders):
            continue
        found = "missing" if spec is None else folders[0] if folders else spec.origin
        raise ImportError(
            f"the package {name} is {found}: expected the one beside "
            f"{Path(__file__).resolve().parent}; uninstall or rename the other, or use an "
            "environment and a folder without it"
        )


check("kernels")
