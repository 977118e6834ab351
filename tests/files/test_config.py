"""What the file beside a results file says of the software."""

import subprocess

import numpy as np

from memorization.files.config import git_commit, versions


def test_versions_without_git_and_in_somebody_elses_repository(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    (tmp_path / "copy").mkdir()
    assert len(git_commit(tmp_path)) >= 7 and git_commit(tmp_path / "copy") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions()["commit"] is None and versions()["numpy"] == np.__version__
