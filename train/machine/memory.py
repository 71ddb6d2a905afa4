"""How much memory a device has free, as far as that can be asked."""

from pathlib import Path, PurePosixPath

import torch

CGROUPS = Path("/sys/fs/cgroup")
# how the two versions name a group's limit, what it uses, and what of that the kernel takes back
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free(device: torch.device) -> int | None:
    """Bytes free on the device, None where that cannot be asked; of a CPU's, what a container or a
    batch system allows of them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            line = next(line for line in lines if line.startswith("MemAvailable"))
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, StopIteration):
        return None
    return min([int(line.split()[1]) * 1024, *in_groups(groups)])


def in_groups(groups: str, root: Path = CGROUPS) -> list[int]:
    """Bytes left free by each control group around this process, as /proc/self/cgroup lists them.

    A container may see only the innermost group, as the root.
    """
    found = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        is_v1 = "memory" in controllers.split(",")
        if not is_v1 and controllers:
            continue
        top, names = (root / "memory", V1) if is_v1 else (root, V2)
        group = PurePosixPath(path.lstrip("/"))
        found += [_left(top / inner, *names) for inner in (group, *group.parents)]
    return [bytes_ for bytes_ in found if bytes_ is not None]


def _left(folder: Path, limit: str, used: str, inactive: str) -> int | None:
    try:
        most, now = ((folder / name).read_text(encoding="utf-8") for name in (limit, used))
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        stat = dict(line.split() for line in lines)
        return max(0, int(most) - int(now) + int(stat.get(inactive, 0)))
    except (OSError, ValueError):  # no such group here, or "max"
        return None
