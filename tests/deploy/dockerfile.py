"""The Dockerfile as data, and what a build of it makes, without Docker.

`python -m tests.deploy.dockerfile` runs each instruction in a directory that stands for its stage's root, with this
machine's Python for the image's, and then starts the product from the last stage alone: its files read-only, as the
user that the Dockerfile names, or, where that user cannot reach this machine's Python, as root without its powers.
What that cannot show is the base image itself.
"""

import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.support.environment import ROOT
from tests.support.postgres import free_port

STARTS_WITHIN_S = 120
BASE_PYTHON = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
PATHS = ("/opt/guard", "/app")
"""The absolute paths of the Dockerfile, which here are below a stage's directory."""


@dataclass
class Stage:
    """The instructions after one FROM: (name, the rest of the line)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]


def stages(text: str) -> list[Stage]:
    found: list[Stage] = []
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found.append(Stage(stage, base))
        else:
            found[-1].instructions.append((name, rest.strip()))
    return found


def copies(stage: Stage) -> Iterator[tuple[str | None, list[str], str]]:
    """(the stage it comes from, if not the checkout; sources; destination) of each COPY."""
    for words in map(shlex.split, stage.values("COPY")):
        origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        yield origin, words[:-1], words[-1]


class Build:
    """Directories that stand for the stages' roots."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        tools = directory / "tools"
        tools.mkdir()
        for name, command in (("python", str(BASE_PYTHON)), ("pip", f"{sys.executable} -m pip")):
            (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (tools / name).chmod(0o755)
        kept = {name: os.environ[name] for name in os.environ if name.startswith("PIP_") or name == "HOME"}
        self.environment = {**kept, "PATH": f"{tools}:/usr/bin:/bin"}

    def run(self, stage: Stage) -> Path:
        """Each instruction in turn; returns the directory of the stage."""
        root = self.directory / (stage.name or "last")
        root.mkdir()
        at, copied = root, copies(stage)
        for name, rest in stage.instructions:
            if name == "WORKDIR":
                at = root / rest.lstrip("/")
                at.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                self._copy(root, at, *next(copied))
            elif name == "RUN":
                print(f"RUN {rest}", flush=True)
                subprocess.run(["/bin/sh", "-ec", below(root, rest)], cwd=at, env=self.environment, check=True)
        return root

    def _copy(self, root: Path, at: Path, origin: str | None, sources: list[str], destination: str) -> None:
        for source in sources:
            path = self.directory / origin / source.lstrip("/") if origin else ROOT / source
            target = root / destination.lstrip("/") if destination.startswith("/") else at / destination
            if path.is_dir():
                ignored = None if origin else shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(path, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy2(path, target)


def below(root: Path, text: str) -> str:
    for path in PATHS:
        text = text.replace(path, f"{root}{path}")
    return text


def size_of(root: Path) -> int:
    """Bytes of all files below."""
    return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())


@dataclass
class Container:
    """The last stage, started as the image would be: its entry point, its user, its files read-only."""

    stage: Stage
    root: Path
    data: Path

    def __post_init__(self) -> None:
        assignments = [each.split("=", 1) for each in shlex.split(self.stage.values("ENV")[-1])]
        base = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.data), "HOME": "/nonexistent"}
        self.environment = base | {name: below(self.root, value) for name, value in assignments}
        self.environment["PATH"] = self.environment["PATH"].replace("$PATH", base["PATH"])
        self.environment |= {
            "SECRET_KEY": secrets.token_urlsafe(48),
            "DATABASE_URL": f"sqlite:///{self.data / 'guard.sqlite3'}",
            "PORT": str(free_port()),
        }
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(self.root)], check=True)
        self.data.chmod(0o777)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        entry_point = json.loads(self.stage.values("ENTRYPOINT")[-1])
        interpreter = shutil.which(entry_point[0], path=self.environment["PATH"])
        assert interpreter is not None
        return subprocess.Popen(
            [*self._as_its_user(), interpreter, *entry_point[1:], *arguments],
            cwd=self.root / self.stage.values("WORKDIR")[-1].lstrip("/"),
            env=self.environment,
        )

    def _as_its_user(self) -> list[str]:
        """Whoever it is, read-only files are read-only to it."""
        if os.geteuid() != 0:
            return []
        user, group = self.stage.values("USER")[-1].split(":")
        if all(parent.stat().st_mode & 0o001 for parent in BASE_PYTHON.parents):
            return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]

    def refuses_writing(self) -> bool:
        return (
            subprocess.run([*self._as_its_user(), "touch", str(self.root / "app" / "x")], check=False).returncode != 0
        )

    def run(self, *arguments: str) -> None:
        assert self.start(*arguments).wait() == 0, f"{arguments} failed"

    def serve(self) -> None:
        """Until it answers that it is well; then it is told to stop, and does."""
        process = self.start(*json.loads(self.stage.values("CMD")[-1]))
        try:
            wait_until_well(f"http://127.0.0.1:{self.environment['PORT']}/api/health")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STARTS_WITHIN_S)


def wait_until_well(address: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            answer = requests.get(address, timeout=5)
        except requests.ConnectionError:
            answer = None
        if answer is not None and answer.status_code == 200:
            print(answer.text, flush=True)
            return
        assert time.monotonic() < deadline, answer and answer.text
        time.sleep(0.1)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        build = Build(directory)
        first, last = stages((ROOT / "Dockerfile").read_text())
        built = build.run(first)
        root = build.run(last)
        shutil.rmtree(built)  # the last stage stands alone
        print(f"The image is its base and {size_of(root) / 1e6:.0f} MB.", flush=True)
        (data := directory / "data").mkdir()
        container = Container(last, root, data)
        assert container.refuses_writing(), "its files can be written"
        container.run("migrate", "--verbosity=0")
        container.run("sync_prices", "--verbosity=0")
        container.serve()
        subprocess.run(["chmod", "-R", "u+w", str(root)], check=True)


if __name__ == "__main__":
    main()
