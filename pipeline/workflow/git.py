"""The project's files in git: worktrees, differences, and DVC's hashes at a commit."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.workflow.lock import Execution, file_hash, folder_hash, parse_lock


@contextlib.contextmanager
def worktree(root: Path, commit: str, folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Check out a commit in a separate folder.

    Args:
        root: The root of the checkout.
        commit: One that git has locally.
        folder: The worktree; an existing one is replaced.
        keep: Whether to keep the worktree afterward.

    Raises:
        PipelineError: git fails; the text is git's.
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
    """Return git's output; None without git, a checkout or a commit.

    Args:
        arguments: Git's.
        root: The root of the checkout; None for the current folder.
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
    """Return a patch from the commit to the current folder; empty without a difference.

    It includes binary files, and files that are neither tracked nor ignored.

    Args:
        paths: Files or folders to compare; they need not exist.
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
    """Return the output of `git diff` with its line ends; None if it fails."""
    try:
        done = subprocess.run(["git", "diff", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    # With --no-index, 1 means that there is a difference.
    return done.stdout.decode(errors="replace") if done.returncode in (0, 1) else None


def _checked(*arguments: str, root: Path) -> None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise PipelineError(f"git {arguments[0]}: {done.stderr.strip()}")


class Commits:
    """DVC's hashes of files and folders in commits.

    Paths that are not in a commit, and commits that git does not have, have no hash.
    """

    def __init__(self, root: Path) -> None:
        """Initialize with the root of a checkout; without git, there are no hashes."""
        self._root = root
        self._hashes: dict[tuple[str, str], str | None] = {}

    def hash_at(self, commit: str, path: str) -> str | None:
        """Return DVC's hash of a file or folder in a commit; None if it does not exist."""
        key = (commit, path)
        if key not in self._hashes:
            self._hashes[key] = self._hash(commit, path)
        return self._hashes[key]

    def of_entries(self, lock: Mapping[str, Execution]) -> dict[str, str]:
        """Return stage -> HEAD's commit, for the entries of `dvc.lock` that are equal there."""
        commit = self._git("rev-parse", "HEAD").decode().strip()
        committed = self._git("show", "HEAD:dvc.lock")
        if not committed:
            return {}
        at_head = parse_lock(committed, "HEAD:dvc.lock")
        return {stage: commit for stage, entry in lock.items() if at_head.get(stage) == entry}

    def _hash(self, commit: str, path: str) -> str | None:
        listing = self._git("ls-tree", "-r", "-z", commit, "--", path)
        if not listing:
            return None
        files = {}
        for entry in listing.decode().rstrip("\0").split("\0"):
            columns, _, name = entry.partition("\t")
            files[name] = columns.split()[2]
        contents = self._blobs(list(files.values()))
        if list(files) == [path]:
            return file_hash(contents[0])
        return folder_hash(
            (name.removeprefix(f"{path}/"), file_hash(content))
            for name, content in zip(files, contents, strict=True)
        )

    def _blobs(self, names: list[str]) -> list[bytes]:
        """Return the content of each object."""
        answer = self._git("cat-file", "--batch", stdin="".join(f"{n}\n" for n in names).encode())
        contents = []
        at = 0
        for _ in names:
            end = answer.index(b"\n", at)
            size = int(answer[at:end].split()[2])
            contents.append(answer[end + 1 : end + 1 + size])
            at = end + 1 + size + 1
        return contents

    def _git(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Return git's output; empty without git, a checkout or a commit."""
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self._root, input=stdin, capture_output=True, check=False
            )
        except FileNotFoundError:
            return b""
        return done.stdout if done.returncode == 0 else b""
