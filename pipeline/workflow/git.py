"""The project's files in git: worktrees, differences, and DVC's hashes at a commit."""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.workflow.lock import Execution, file_hash, folder_hash, parse_lock

# Of the new files that a patch may have.
_SOURCE_SUFFIXES = {".py", ".j2", ".yaml", ".sha256"}
_MAX_SOURCE_BYTES = 1_000_000
# The exit code where there is no git, as a shell has it.
_NO_GIT = 127


@contextlib.contextmanager
def worktree(root: Path, commit: str, folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Check out a commit that git has locally in a separate folder, which is replaced.

    Yields:
        The place of `root` in it: a subfolder, if the project is in one of a larger repository.

    Raises:
        PipelineError: git fails; the text is git's.
    """

    def git(*arguments: str) -> None:
        done = _git("worktree", *arguments, root=root)
        if done.returncode != 0:
            raise PipelineError(f"git worktree: {done.stderr.decode(errors='replace').strip()}")

    if folder.exists():
        git("remove", "--force", str(folder))
    git("prune")
    git("add", "--quiet", "--detach", str(folder), commit)
    try:
        yield folder / (git_text("rev-parse", "--show-prefix", root=root) or "").strip()
    finally:
        if not keep:
            git("remove", "--force", str(folder))


def git_text(*arguments: str, root: Path | None = None) -> str | None:
    """Return git's output in a folder; None without git, a checkout or a commit."""
    done = _git(*arguments, root=root)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def commit_problem(root: Path | None = None) -> str | None:
    """Return why git does not give the commit of a checkout, in git's words; None if it does.

    A folder that is not in a checkout is no problem of git's, nor is a machine without git.
    """
    done = _git("rev-parse", "--verify", "HEAD", root=root)
    lines = done.stderr.decode(errors="replace").split("\n")
    text = " ".join(filter(None, (line.strip() for line in lines)))
    apart = done.returncode == _NO_GIT or "not a git repository" in text
    return None if done.returncode == 0 or apart else text


def changes(*paths: str) -> str:
    """Return a patch from the commit to the current folder; empty without a difference.

    It includes binary files, and new source files: those that are neither tracked nor ignored, have
    a suffix of source code and are not large. Others may be data or secrets; the patch begins with
    their names. Paths need not exist.
    """
    diff = ("diff", "--binary", "--no-color", "--no-ext-diff")
    known = git_text(*diff, "HEAD", "--", *paths)
    if known is None:
        return ""
    listed = git_text("ls-files", "--others", "--exclude-standard", "-z", "--", *paths) or ""
    names = [name for name in listed.split("\0") if name]
    sources = [name for name in names if _is_source(Path(name))]
    left_out = [f"# left out: {name}\n" for name in names if name not in sources]
    new = (
        _git(*diff, "--no-index", "--", "/dev/null", name).stdout.decode(errors="replace")
        for name in sources
    )
    return "".join([*left_out, known, *new])


def _is_source(path: Path) -> bool:
    return path.suffix in _SOURCE_SUFFIXES and path.lstat().st_size <= _MAX_SOURCE_BYTES


def apply_patch(patch: str, folder: Path) -> str:
    """Apply a patch of `changes` to a checkout; return git's message if it cannot be applied."""
    top = git_text("rev-parse", "--show-toplevel", root=folder)
    done = _git("apply", "--binary", "-", root=Path((top or "").strip()), stdin=patch.encode())
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()


def _git(
    *arguments: str, root: Path | None = None, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git; a system without git looks like a failure."""
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=root, input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, _NO_GIT, b"", str(error).encode())


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
        commit = git_text("rev-parse", "HEAD", root=self._root)
        committed = git_text("show", "HEAD:./dvc.lock", root=self._root)
        if commit is None or committed is None:
            return {}
        at_head = parse_lock(committed.encode(), "HEAD:dvc.lock")
        return {stage: commit.strip() for stage, e in lock.items() if at_head.get(stage) == e}

    def _hash(self, commit: str, path: str) -> str | None:
        archive = _git("archive", "--format=tar", commit, "--", path, root=self._root).stdout
        if not archive:
            return None
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {
                member.name: file_hash(content.read())
                for member in tar
                if (content := tar.extractfile(member)) is not None
            }
        if path in files:
            return files[path]
        return folder_hash((name.removeprefix(f"{path}/"), files[name]) for name in files)
