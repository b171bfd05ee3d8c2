"""What git knows of the project's files, at one commit or another."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.workflow.lock import Execution, file_hash, folder_hash, parse_lock


@contextlib.contextmanager
def worktree(root: Path, commit: str, folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Check a commit out beside the workspace, in a folder of its own.

    Args:
        root: of the checkout.
        commit: which git has here.
        folder: where; an earlier worktree there is replaced.
        keep: whether to leave it there afterward.

    Raises:
        PipelineError: git cannot do so; the text is git's.
    """
    if folder.exists():
        _checked("worktree", "remove", "--force", str(folder), root=root)
    _checked("worktree", "prune", root=root)
    _checked("worktree", "add", "--quiet", "--detach", str(folder), commit, root=root)
    try:
        yield folder
    finally:
        if not keep:
            _checked("worktree", "remove", "--force", str(folder), root=root)


def git_text(*arguments: str, root: Path | None = None) -> str | None:
    """Return what git prints; None where there is no git, no checkout or no commit.

    Args:
        arguments: of git.
        root: of the checkout; None for the current folder.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def changes(*paths: str) -> str:
    """Return as a patch what the current folder has otherwise than its commit; empty if nothing.

    Files that git does not know yet, and does not ignore, are in it, as are binary ones.

    Args:
        paths: what to look at, files or folders; they need not be there.
    """
    options = ("--binary", "--no-color", "--no-ext-diff")
    known = _diff(*options, "HEAD", "--", *paths)
    if known is None:
        return ""
    listed = git_text("ls-files", "--others", "--exclude-standard", "-z", "--", *paths) or ""
    new = [
        _diff(*options, "--no-index", "--", "/dev/null", path)
        for path in listed.split("\0")
        if path
    ]
    return "".join([known, *filter(None, new)])


def _diff(*arguments: str) -> str | None:
    """Return what `git diff` prints, ends of lines as they are; None where it fails."""
    try:
        done = subprocess.run(["git", "diff", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    # Of --no-index, 1 says that there is a difference.
    return done.stdout.decode(errors="replace") if done.returncode in (0, 1) else None


def _checked(*arguments: str, root: Path) -> None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise PipelineError(f"git {arguments[0]}: {done.stderr.strip()}")


class Commits:
    """Hashes of files and folders as they are in commits, in DVC's way.

    What a commit does not hold, or what git cannot tell, has none.
    """

    def __init__(self, root: Path) -> None:
        """Take the root of a checkout; without git, nothing is found."""
        self._root = root
        self._known: dict[tuple[str, str], str | None] = {}

    def hash_at(self, commit: str, path: str) -> str | None:
        """Return DVC's hash of a file or folder in a commit; None where it is not there."""
        key = (commit, path)
        if key not in self._known:
            self._known[key] = self._hash(commit, path)
        return self._known[key]

    def of_entries(self, lock: Mapping[str, Execution]) -> dict[str, str]:
        """Return stage -> the newest commit, for the entries of `dvc.lock` that it has alike."""
        commit = self._git("rev-parse", "HEAD").decode().strip()
        committed = self._git("show", "HEAD:dvc.lock")
        if not committed:
            return {}
        there = parse_lock(committed, "HEAD:dvc.lock")
        return {stage: commit for stage, own in lock.items() if there.get(stage) == own}

    def _hash(self, commit: str, path: str) -> str | None:
        listing = self._git("ls-tree", "-r", "-z", commit, "--", path)
        if not listing:
            return None
        files = {}
        for entry in listing.decode().rstrip("\0").split("\0"):
            about, _, name = entry.partition("\t")
            files[name] = about.split()[2]
        contents = self._blobs(list(files.values()))
        if list(files) == [path]:
            return file_hash(contents[0])
        return folder_hash(
            (name.removeprefix(f"{path}/"), file_hash(content))
            for name, content in zip(files, contents, strict=True)
        )

    def _blobs(self, names: list[str]) -> list[bytes]:
        """Return the content of each object."""
        answer = self._git("cat-file", "--batch", given="".join(f"{n}\n" for n in names).encode())
        contents = []
        at = 0
        for _ in names:
            end = answer.index(b"\n", at)
            size = int(answer[at:end].split()[2])
            contents.append(answer[end + 1 : end + 1 + size])
            at = end + 1 + size + 1
        return contents

    def _git(self, *arguments: str, given: bytes | None = None) -> bytes:
        """Return what git prints; nothing where there is no git, checkout or commit."""
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self._root, input=given, capture_output=True, check=False
            )
        except FileNotFoundError:
            return b""
        return done.stdout if done.returncode == 0 else b""
