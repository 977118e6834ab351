"""tools/download_data.sh against a server on this machine: resuming, checksums, archives, errors of one line."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from memorization.bundled import ROOT
from memorization.data.prompts import load_prompts

SCRIPT = ROOT / "tools" / "download_data.sh"
CONTENT = bytes(range(256)) * 64


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; notes each request's path and the number of bytes that it was sent."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.server.log.append((self.path, 404))
            return self.send_error(404)
        wanted = self.headers.get("Range") if self.server.ranges else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            return self.send_error(416)
        body, cut_after = content[start:], self.server.cut_after.pop(self.path, None)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.log.append((self.path, len(body[:cut_after])))
        self.wfile.write(body[:cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.ranges, server.cut_after = {"/a.bin": CONTENT}, [], True, {}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(server, tmp_path):
    """`add` puts an entry into the table, `run` calls the script on it."""
    table, dest = tmp_path / "table.tsv", tmp_path / "dest"
    table.write_text("# name, url, ...\n")
    address = f"http://127.0.0.1:{server.server_port}"

    def add(name, path="/a.bin", target="examples/a.bin", checksum="-", url=None):
        fields = (name, url or address + path, target, checksum, "16 kB", "none stated", "https://page", f"the {name}")
        with table.open("a") as file:
            file.write("\t".join(fields) + "\n")
        return dest / target

    def run(*names, **env):
        command = ["bash", SCRIPT, "--manifest", table, "--dest", dest, *names]
        env = {**os.environ, "PYTHON": sys.executable, "DOWNLOAD_TRIES": "2", "DOWNLOAD_WAIT": "0", **env}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

    return SimpleNamespace(add=add, run=run, dest=dest, table=table, record=dest / "examples" / "downloads.sha256")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def refused(result, *words):
    """Whether this is the project's kind of error: exit code 2, one line, with what it is about."""
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and len(lines) == 1, result
    return lines[0].startswith("error: ") and all(word in lines[0] for word in words)


def test_the_shipped_table_is_listed_and_nothing_changes(tmp_path):
    result = subprocess.run(["bash", SCRIPT, "--dest", tmp_path], capture_output=True, text=True)
    assert (result.returncode, result.stderr, list(tmp_path.iterdir())) == (0, "", [])
    for name in ("prompts", "groundtruth", "webster", "nemo", "sscd_large", "sscd_mixup"):
        assert f"\n{name}: " in "\n" + result.stdout
    assert result.stdout.count("licence: ") == result.stdout.count(": missing") == 6


def test_list_tells_the_state_of_each_file(site):
    for name in ("here", "other", "part", "gone"):
        site.add(name, target=f"examples/{name}.bin", checksum=sha256(CONTENT))
    (site.dest / "examples").mkdir(parents=True)
    (site.dest / "examples" / "here.bin").write_bytes(CONTENT)
    (site.dest / "examples" / "other.bin").write_bytes(b"other")
    (site.dest / "examples" / "part.bin.part").write_bytes(b"1234567")
    listing = site.run().stdout
    states = ("here.bin: present\n", "other.bin: present, but not the known file\n", "part.bin: cut off at 7 bytes\n")
    assert all(f"examples/{state}" in listing for state in (*states, "gone.bin: missing\n"))


@pytest.mark.parametrize("checksum", [sha256(CONTENT), hashlib.md5(CONTENT).hexdigest()])
def test_fetches_once(site, server, checksum):
    file = site.add("a", checksum=checksum)
    site.add("b", target="examples/b.bin")
    first, second = site.run("a"), site.run("a")
    assert (first.returncode, second.returncode, first.stderr + second.stderr) == (0, 0, "")
    assert file.read_bytes() == CONTENT and server.log == [("/a.bin", len(CONTENT))]
    assert [p.name for p in file.parent.iterdir()] == ["a.bin"] and "none stated" in first.stdout


def test_all_fetches_everything(site):
    files = [site.add("a", checksum=sha256(CONTENT)), site.add("b", target="examples/deep/b.bin")]
    assert site.run("all").returncode == 0
    assert [file.read_bytes() for file in files] == [CONTENT, CONTENT]


def test_resumes_a_part_and_asks_for_the_rest_only(site, server):
    file = site.add("a", checksum=sha256(CONTENT))
    file.parent.mkdir(parents=True)
    file.with_name("a.bin.part").write_bytes(CONTENT[:1000])
    assert site.run("a").returncode == 0
    assert file.read_bytes() == CONTENT and server.log == [("/a.bin", len(CONTENT) - 1000)]


def test_goes_on_after_a_cut_within_one_run(site, server):
    file, server.cut_after["/a.bin"] = site.add("a", checksum=sha256(CONTENT)), 5000
    assert site.run("a").returncode == 0
    assert file.read_bytes() == CONTENT and server.log == [("/a.bin", 5000), ("/a.bin", len(CONTENT) - 5000)]


def test_keeps_the_part_when_the_tries_are_used_up(site, server):
    file, server.cut_after["/a.bin"] = site.add("a"), 5000
    assert refused(site.run("a", DOWNLOAD_TRIES="1"), "a: ", "/a.bin")
    assert file.with_name("a.bin.part").read_bytes() == CONTENT[:5000] and not file.exists()


@pytest.mark.parametrize("ranges, kept", [(False, CONTENT[:1000]), (True, CONTENT + b"of a longer file")])
def test_begins_again_where_a_part_cannot_be_continued(site, server, ranges, kept):
    file, server.ranges = site.add("a"), ranges
    file.parent.mkdir(parents=True)
    file.with_name("a.bin.part").write_bytes(kept)
    assert site.run("a").returncode == 0
    assert file.read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(site):
    file = site.add("a", checksum=sha256(b"other"))
    assert refused(site.run("a"), "a: ", "checksum", sha256(CONTENT), "removed")
    assert list(file.parent.iterdir()) == []


def test_a_file_of_the_user_with_another_checksum_stays(site, server):
    file = site.add("a", checksum=sha256(CONTENT))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    assert refused(site.run("a"), str(file), "remove it")
    assert file.read_bytes() == b"mine" and server.log == []


def test_first_download_decides_where_no_checksum_is_published(site, server):
    file, other = site.add("a"), site.add("b", target="examples/b.bin")
    assert "no checksum is published" in site.run("a", "b").stdout
    lines = [f"{sha256(CONTENT)}  examples/{name}.bin" for name in "ab"]
    assert site.record.read_text().splitlines() == lines
    file.unlink()
    server.files["/a.bin"] = CONTENT + b"changed"
    assert refused(site.run("a", "b"), "a: ", "first download", str(site.record))
    assert not file.exists() and not file.with_name("a.bin.part").exists() and other.read_bytes() == CONTENT
    assert site.record.read_text().splitlines() == lines
    site.record.write_text(lines[1] + "\n")
    assert site.run("a").returncode == 0 and file.read_bytes() == CONTENT + b"changed"


def test_missing_files_and_servers_are_named_and_the_others_still_fetched(site):
    site.add("gone", path="/gone.bin", target="examples/gone.bin")
    file = site.add("a", checksum=sha256(CONTENT))
    assert refused(site.run("all"), "gone: ", "/gone.bin", "404", "https://page")
    assert file.read_bytes() == CONTENT and not (file.parent / "gone.bin.part").exists()
    site.add("dead", url="http://127.0.0.1:1/x", target="examples/dead.bin")
    assert refused(site.run("dead"), "dead: ", "127.0.0.1:1", "onnect")


def test_a_404_is_not_tried_again(site, server):
    site.add("gone", path="/gone.bin")
    site.run("gone")
    assert server.log == [("/gone.bin", 404)]


def test_a_web_page_is_not_taken_for_the_file(site, server):
    file, server.files["/a.bin"] = site.add("a"), b"\n<!DOCTYPE html><title>Quota exceeded</title>"
    assert refused(site.run("a"), "web page", "https://page", str(file))
    assert list(file.parent.iterdir()) == []


def make_archive(folder, kind, rows="planned_groundtruth.jsonl"):
    """An archive as Wen et al. lay it out: NAME/NAME.jsonl and NAME/gt_images/INDEX/*.png."""
    images = folder / "planned_groundtruth" / "gt_images" / "7"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(images / "0.png")
    (images.parent.parent / rows).write_text('{"caption": "a red square", "index": 7}\n')
    return Path(shutil.make_archive(folder / "archive", kind, folder, "planned_groundtruth")).read_bytes()


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_becomes_a_data_set(site, server, tmp_path, kind):
    server.files["/truth"] = make_archive(tmp_path / "made", kind)
    folder = site.add("truth", path="/truth", target="examples/planned_groundtruth/")
    assert [site.run("truth").returncode for _ in range(2)] == [0, 0]
    (record,) = load_prompts(str(folder))
    assert (record.prompt, [p.name for p in record.reference_images]) == ("a red square", ["0.png"])
    assert len(server.log) == 1 and sorted(p.name for p in folder.parent.iterdir()) == ["downloads.sha256", folder.name]


def test_an_archive_saved_by_hand_is_taken(site, server, tmp_path):
    folder = site.add("truth", path="/truth", target="examples/planned_groundtruth/")
    folder.parent.mkdir(parents=True)
    (folder.parent / "planned_groundtruth.archive").write_bytes(make_archive(tmp_path / "made", "zip"))
    assert site.run("truth").returncode == 0
    assert len(load_prompts(str(folder))) == 1 and server.log == []


def test_a_damaged_or_foreign_archive_leaves_no_folder(site, server, tmp_path):
    whole = make_archive(tmp_path / "made", "zip")
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("readme.txt", "something else")
    server.files |= {"/damaged": whole[: len(whole) // 2], "/foreign": (tmp_path / "foreign.zip").read_bytes()}
    server.files["/rows"] = make_archive(tmp_path / "rows", "zip", rows="other.jsonl")
    for name, word in (
        ("damaged", "cannot unpack"),
        ("foreign", "no folder gt_images"),
        ("rows", "no planned_groundtruth.jsonl"),
    ):
        folder = site.add(name, path=f"/{name}", target=f"examples/{name}/planned_groundtruth/")
        assert refused(site.run(name), f"{name}: ", word)
        assert [p.name for p in folder.parent.iterdir()] == ["planned_groundtruth.archive"]


def test_a_full_disk_is_named_and_the_part_kept(site):
    file = site.add("a", checksum=sha256(CONTENT))
    file.parent.mkdir(parents=True)
    file.with_name("a.bin.part").symlink_to("/dev/full")
    assert refused(site.run("a"), "disk full", "a.bin.part")
    assert file.with_name("a.bin.part").is_symlink() and not file.exists()


def test_wrong_arguments_and_tables(site, server):
    site.add("a")
    assert refused(site.run("b"), "has no b", "it has: a")
    assert refused(site.run("--resume"), "--resume", "--help")
    assert refused(site.run("--manifest"), "--manifest", "value")
    assert refused(site.run("--manifest", "gone.tsv"), "gone.tsv")
    site.table.write_text("a\tb")
    assert refused(site.run(), f"{site.table}, line 1", "8 fields")
    assert server.log == [] and site.run("--help").stdout.startswith("Fetch what cannot be shipped")


def test_says_when_curl_is_missing(site, tmp_path):
    site.add("a")
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "awk"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    assert refused(site.run("a", PATH=str(tmp_path / "bin")), "curl is not installed")
