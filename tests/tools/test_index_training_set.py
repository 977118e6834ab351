"""The index of a training set by its command line: every form of data, kills, several processes, refusals."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.eval_runs import quarters, write_descriptor
from memorization.files.whole import save_png
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.index import build
from memorization.similarity.index.stored import open_index
from tools import index_training_set


def write_pairs(folder, count=10):
    """A folder of captioned pictures; the last shows what the first does, under another caption."""
    folder.mkdir()
    for k in range(count):
        save_png(folder / f"{k}.png", quarters(0 if k == count - 1 else k))
        (folder / f"{k}.txt").write_text(f"caption {k}")
    return folder


@pytest.fixture
def make(tmp_path):
    """The command on some training data; gives the folder of the index."""
    sscd = write_descriptor(tmp_path)

    def call(name, data, *options, descriptor=("--sscd", sscd)):
        output = tmp_path / name
        argv = ["--training_data", data, "--output", output, "--batch_size", 2, "--shard_size", 4, "--device", "cpu"]
        index_training_set.main([str(word) for word in (*argv, *descriptor, *options)])
        return output

    return call


@pytest.fixture
def refused(make, capsys):
    """The one line that a call ends with, with exit code 2."""

    def call(*argv, **options):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            make(*argv, **options)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2 and len(lines) == 1
        return lines[0]

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_descriptors_are_those_of_the_pictures_and_captions_are_kept(make, tmp_path):
    data = write_pairs(tmp_path / "data")
    index = open_index(make("index", data))
    expected = CopyDescriptor(tmp_path / "color.torchscript.pt")([quarters(k) for k in (*range(9), 0)]).numpy()
    np.testing.assert_allclose(index.descriptors(range(10)), expected, atol=1e-3)
    assert index.open_shard(0).dtype == np.float16 and index.num_shards == 3
    assert [index.entries([k])[k].caption for k in (0, 9)] == ["caption 0", "caption 9"]
    assert len(index.settings["checkpoint"]) == 64 and index.settings["preprocessing"] == "wen"


def test_a_killed_build_goes_on_and_is_the_same_byte_for_byte(make, tmp_path, monkeypatch):
    data, real = write_pairs(tmp_path / "data"), build.describe_readable
    whole = contents(make("whole", data))
    calls = []

    def killed(*args):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second shard
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(build, "describe_readable", killed)
    with pytest.raises(SystemExit):
        make("index", data)
    assert "00000.npy" in contents(tmp_path / "index") and "00001.npy" not in contents(tmp_path / "index")
    before = (tmp_path / "index" / "00000.npy").stat().st_mtime_ns
    assert contents(make("index", data)) == whole
    assert (tmp_path / "index" / "00000.npy").stat().st_mtime_ns == before and len(calls) == 7


def test_what_two_processes_share_is_the_same(make, tmp_path):
    data = write_pairs(tmp_path / "data")
    whole = contents(make("whole", data))
    folder = make("index", data)
    index = open_index(folder)
    for shard in range(3):
        index.descriptors_file(shard).unlink()
    describer = index_training_set.DescriberSettings(sscd=tmp_path / "color.torchscript.pt").open()
    for rank in (1, 0):
        build.describe_shards(index, range(3)[rank::2], describer, 2)
    build.finish_index(index)
    assert contents(folder) == whole


def test_unreadable_pictures_are_counted_and_named_in_one_line_and_the_others_go_on(make, tmp_path, capsys):
    data = write_pairs(tmp_path / "data")
    for k in (1, 6, 7):
        (data / f"{k}.png").write_bytes(b"no picture")
    index = open_index(make("index", data))
    told = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(told) == 1 and "3 of 10 pictures cannot be read" in told[0] and f"{data / '1.png'}" in told[0]
    assert index.readable_rows().tolist() == [0, 2, 3, 4, 5, 8, 9] and index.header["unreadable"] == 3


def test_near_duplicates_are_written_with_their_captions(make, tmp_path, capsys):
    output = make("index", write_pairs(tmp_path / "data"), "--duplicates", 0.999)
    found = json.loads((output / "duplicates.json").read_text())
    assert [m["caption"] for m in found["groups"][0]["members"]] == ["caption 0", "caption 9"]
    assert found["in_groups"] == 2 and "2 of 10 pictures" in (output / "duplicates.md").read_text()


def test_parquet_holds_the_same_descriptors(make, tmp_path):
    from pyarrow import parquet

    data = write_pairs(tmp_path / "data")
    (data / "3.png").write_bytes(b"no picture")
    output = make("index", data, "--parquet")
    table = parquet.read_table(output / "descriptors.parquet")
    assert table.column("row").to_pylist() == [0, 1, 2, *range(4, 10)]
    assert table.column("caption")[3].as_py() == "caption 4" and table.schema.metadata[b"preprocessing"] == b"wen"
    kept = open_index(output).descriptors([4])[0]
    np.testing.assert_array_equal(table.column("descriptor")[3].as_py(), kept)


def write_archive(path):
    with tarfile.open(path, "w") as tar:
        for k in range(5):
            buffer = io.BytesIO()
            Image.fromarray(quarters(k)).save(buffer, "PNG")
            for name, data in ((f"{k}.png", buffer.getvalue()), (f"{k}.txt", f"caption {k}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_archives_and_folders_without_captions_are_taken(make, tmp_path):
    packed = open_index(make("packed", write_archive(tmp_path / "shard.tar")))
    plain = tmp_path / "plain"
    for k in range(5):
        (plain / f"class {k}").mkdir(parents=True)
        save_png(plain / f"class {k}" / "a.png", quarters(k))
    alone = open_index(make("alone", plain))
    np.testing.assert_array_equal(packed.descriptors(range(5)), alone.descriptors(range(5)))
    assert packed.entries([4])[4].caption == "caption 4" and alone.entries([4])[4].caption == ""
    with packed.entries([4])[4].picture.open("rb") as file:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), quarters(4))


def test_clip_and_dino_describe_too(make, tmp_path):
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14)).save_pretrained(tmp_path / "dino")
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "dino")
    data = write_pairs(tmp_path / "data", 4)
    indexes = [
        open_index(make(name, data, descriptor=given))
        for name, given in (
            ("clip", ("--reference_model", "planted_evaluators/planted_clip")),
            ("last", ("--dino", tmp_path / "dino")),
            ("first", ("--dino", tmp_path / "dino", "--dino_layer", 2)),
        )
    ]
    assert [index.dim for index in indexes[1:]] == [16, 16] and len({str(i.identity) for i in indexes}) == 3
    for index in indexes:
        descriptors = index.descriptors(range(4))
        np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=2e-3)
        assert descriptors[0] @ descriptors[3] == pytest.approx(1, abs=2e-3)  # the same picture
    assert not np.allclose(indexes[1].descriptors([0]), indexes[2].descriptors([0]), atol=0.01)


class Positioned(torch.nn.Module):
    """Mean of the red channel and the picture's height: descriptors that show which sizes were shown."""

    def forward(self, images):
        ones = torch.ones(len(images))
        return torch.stack([images.mean((1, 2, 3)), ones * images.shape[2]], 1)


class OneSize(torch.nn.Module):
    def forward(self, images):
        return images.reshape(len(images), 3, 224, 224)[:, 0, 0]


def test_descriptors_over_scales_are_means_of_the_networks_and_named(make, refused, tmp_path):
    data, sscd = write_pairs(tmp_path / "data", 2), tmp_path / "sizes.torchscript.pt"
    torch.jit.script(Positioned()).save(sscd)
    index = open_index(make("index", data, "--multiscale", descriptor=("--sscd", sscd)))
    assert index.settings["preprocessing"] == "wen, scales 1 0.707 0.5"
    batch = CopyDescriptor(sscd).transform(Image.fromarray(quarters(0)))[None]
    sizes = [224, int(224 / 2**0.5), 112]
    smaller = [torch.nn.functional.interpolate(batch, size=[s, s], mode="bilinear") for s in sizes]
    mean = torch.nn.functional.normalize(torch.stack([Positioned()(b)[0] for b in smaller]).mean(0), dim=0)
    np.testing.assert_allclose(index.descriptors([0])[0], mean, atol=1e-3)
    assert "preprocessing 'wen, scales 1 0.707 0.5' -> 'wen'" in refused("index", data, descriptor=("--sscd", sscd))
    torch.jit.script(OneSize()).save(tmp_path / "one.torchscript.pt")
    one = ("--sscd", tmp_path / "one.torchscript.pt")
    assert "no pictures of 158 x 158 pixels" in refused("other", data, "--multiscale", descriptor=one)
    clip = ("--reference_model", "planted_evaluators/planted_clip")
    assert "CLIP takes pictures of one size" in refused("other", data, "--multiscale", descriptor=clip)


@pytest.mark.parametrize("kind", ["ViT", "Dinov2"])
def test_transformers_describe_over_scales(make, tmp_path, kind):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=32, patch_size=8)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / "dino")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dino")
    data, dino = write_pairs(tmp_path / "data", 2), ("--dino", tmp_path / "dino")
    plain = open_index(make("plain", data, descriptor=dino))
    scaled = open_index(make("scaled", data, "--multiscale", descriptor=dino))
    assert "scales" in scaled.settings["preprocessing"] and scaled.dim == 16
    assert 0.5 < (plain.descriptors([0]) @ scaled.descriptors([0]).T).item() < 1


def test_what_cannot_be_indexed_is_refused_in_one_line(refused, make, tmp_path):
    data = write_pairs(tmp_path / "data")
    assert "by one of --sscd" in refused("index", data, descriptor=())
    assert "not by --sscd and --dino" in refused("index", data, "--dino", "x")
    assert "cannot load --dino" in refused("index", data, descriptor=("--dino", tmp_path / "nowhere"))
    assert "does not exist" in refused("index", tmp_path / "nowhere.jsonl")
    assert "has no pictures" in refused("index", "planted_prompts.jsonl")
    assert "`random` has no pictures" in refused("index", "random")
    make("index", data)
    assert "preprocessing 'wen' -> 'official_288'" in refused("index", data, "--sscd_preprocessing", "official_288")
    for path in data.glob("*.png"):
        path.write_bytes(b"")
    assert "10 of 10 pictures cannot be read" in refused("other", data)
