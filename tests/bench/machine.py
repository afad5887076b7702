"""What the figures were measured on, and what processes have used of it."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("django", "djangorestframework", "uvicorn", "uvloop", "openai", "aiohttp", "psycopg")
MIB = 1024 * 1024
QUIET_LOAD = 0.5


def describe_machine(directory: Path) -> str:
    """Cores, load, disk and versions, on a line each; the databases will be in `directory`."""
    load, memory_mib = psutil.getloadavg()[0], psutil.virtual_memory().total // MIB
    busy = " - NOT A QUIET MACHINE: the figures are noise" if load > QUIET_LOAD else ""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{usable_cores()} cores, {memory_mib:,} MiB, {platform.system()} on {platform.machine()}",
        f"load before the start: {load:.2f}{busy}",
        f"databases on {filesystem_of(directory)}",
        ", ".join(versions),
    ]
    return "\n".join(lines)


def usable_cores() -> int:
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1


def filesystem_of(path: Path) -> str:
    """Its type; on tmpfs nothing waits for a disk."""
    parents = {str(parent) for parent in (path, *path.resolve().parents)}
    holding = [disk for disk in psutil.disk_partitions(all=True) if disk.mountpoint in parents]
    kind: str = max(holding, key=lambda disk: len(disk.mountpoint)).fstype if holding else "an unknown filesystem"
    return f"{kind} - IN MEMORY, set TMPDIR to a disk" if kind in ("tmpfs", "ramfs") else kind


def family_of(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its descendants have used so far."""
    return float(sum(times.user + times.system for times in (process.cpu_times() for process in family_of(pid))))


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its descendants; what they share counts in each."""
    return float(sum(process.memory_info().rss for process in family_of(pid)) / MIB)
