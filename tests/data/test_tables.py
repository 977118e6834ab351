"""Files of prompts in every form, and tables of kinds: what is read, and that one line says what cannot be."""

import json

import pytest

from memorization.data.kinds import read_kinds
from memorization.data.prompts import load_prompts
from memorization.errors import InputError

SEPARATOR = "\u2028"  # taken for a line end by str.splitlines


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


def found(path, *names, **how):
    return [tuple(getattr(r, name) for name in names) for r in load_prompts(path, **how)]


def parquet(path, **columns):
    import pyarrow
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)
    return str(path)


def test_a_table_as_nemo_has_it(tmp_path):
    text = ';Caption;URL;type;Index\n0;A red harbour;http://x/a;VM;2030727993\n1;"""Watch: x"", a; b";http://x/b;TM;7\n'
    path = write(tmp_path / "nemo.csv", text)
    rows = [("A red harbour", 2030727993, "http://x/a", "VM"), ('"Watch: x", a; b', 7, "http://x/b", "TM")]
    assert found(path, "prompt", "index", "url", "kind") == rows


def test_cells_with_line_ends_a_byte_order_mark_and_truth_values(tmp_path):
    text = f'caption,is_memorized,index,kind\r\n"two\r\nlines, {SEPARATOR}",TRUE,5,\r\nb,0,,clutter\r\n\r\nc,,,x\r\n'
    path = write(tmp_path / "a.CSV", text, "utf-8-sig")
    rows = [(f"two\r\nlines, {SEPARATOR}", True, 5, None), ("b", False, 1, "clutter"), ("c", None, 2, "x")]
    assert found(path, "raw_prompt", "is_memorized", "index", "kind") == rows


def test_tabs_and_a_column_that_prompt_key_names(tmp_path):
    path = write(tmp_path / "a.tsv", "TEXT\tOther\na, b; c\td\n")
    assert found(path, "prompt") == [("a, b; c",)]
    assert found(path, "prompt", prompt_key="Other") == [("d",)]


def test_a_table_as_webster_has_it(tmp_path):
    path = parquet(tmp_path / "w.parquet", caption=["a", "b"], url=["u", None], overfit_type=["MV", "TV"])
    assert found(path, "prompt", "index", "url", "kind") == [("a", 0, "u", "MV"), ("b", 1, None, "TV")]
    gaps = parquet(tmp_path / "g.parquet", Prompt=["a", "b"], index=[3.0, float("nan")], picture=[b"x", b"y"])
    assert found(gaps, "prompt", "index") == [("a", 3), ("b", 1)]


def test_a_json_list_and_json_lines_of_other_names(tmp_path):
    rows = [{"Text": "a", "Index": 4, "Type": "TV"}, {"prompt": "b"}]
    expected = [("a", 4, "TV"), ("b", 1, None)]
    assert found(write(tmp_path / "a.json", json.dumps(rows)), "prompt", "index", "kind") == expected
    lines = "\n".join(map(json.dumps, rows))
    for name in ("a.jsonl", "b.json", "c"):
        assert found(write(tmp_path / name, lines), "prompt", "index", "kind") == expected
    assert found(write(tmp_path / "d.json", '["a", "b"]'), "prompt") == [("a",), ("b",)]


@pytest.mark.parametrize("name", ["a.jsonl", "x_groundtruth"])
def test_prompt_key_is_honoured_in_json_lines(tmp_path, name):
    row = json.dumps({"caption": "wrong", "english": "right", "index": 0})
    path = tmp_path / name
    if name.endswith("groundtruth"):
        (path / "gt_images" / "0").mkdir(parents=True)
        from PIL import Image

        Image.new("L", (8, 8), 9).save(path / "gt_images" / "0" / "0.png")
        write(path / "x_groundtruth.jsonl", row)
    else:
        write(path, row)
    assert found(str(path), "prompt", prompt_key="english") == [("right",)]
    with pytest.raises(InputError, match="no text under the key french, which --prompt_key names"):
        load_prompts(str(path), prompt_key="french")


def test_an_empty_caption_is_a_prompt_and_a_missing_one_is_named(tmp_path):
    assert found(write(tmp_path / "a.csv", "index,caption\n1,\n2,b\n"), "prompt") == [("",), ("b",)]
    assert found(write(tmp_path / "a.jsonl", '{"caption": ""}'), "prompt") == [("",)]
    path = parquet(tmp_path / "n.parquet", caption=["a", None])
    with pytest.raises(InputError, match=r"n.parquet, row 1: no text under the key caption"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "title,url\nx,y\n", r"line 2: no text under the key caption; name another by --prompt_key \(keys: t"),
        ("a.csv", "caption,index\na,3\nb,3\n", "has index 3 twice"),
        ("a.csv", "caption,index\na,-3\n", "line 2: index '-3' is not a whole number"),
        (
            "a.csv",
            "caption,index\na red, blue hill,3\n",
            "line 2: it has 3 cells, the header 2; put cells that hold ','",
        ),
        ("a.csv", 'caption,index\n"a,3\nb,4\n', "not CSV"),
        ("a.csv", "caption,is_memorized\na,maybe\n", "line 2: is_memorized 'maybe' is neither"),
        ("a.csv", "caption\n", "is empty"),
        ("a.csv", "", "is empty"),
        ("a.tsv", "caption\n", "is empty"),
        ("a.json", '[{"caption": "a"}, 3]', "row 1: expected a JSON object"),
        ("a.json", '[{"caption": "a"}', "is not JSON"),
        ("a.json", "[]", "is empty"),
        ("a.parquet", "PAR1 no table", "is not a readable Parquet file"),
        ("a.parquet", "", "is not a readable Parquet file"),
    ],
)
def test_what_is_no_table_of_prompts_is_one_line(tmp_path, name, text, told):
    with pytest.raises(InputError, match=told) as refusal:
        load_prompts(write(tmp_path / name, text))
    assert name in str(refusal.value) and "\n" not in str(refusal.value).strip()


def test_tables_that_are_not_there_or_not_utf8(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"caption\ncaf\xe9\n")
    with pytest.raises(InputError, match="latin.csv is not UTF-8"):
        load_prompts(str(tmp_path / "latin.csv"))
    for name in ("no/such.csv", "no/such.parquet", "no/such.tsv"):
        with pytest.raises(InputError, match="does not exist; give a file"):
            load_prompts(name)


@pytest.mark.parametrize("odd", [SEPARATOR, "\x85", "\x0b"])
def test_kinds_of_captions_that_hold_line_separators(tmp_path, odd):
    path = tmp_path / "kinds.csv"
    write(path, f";Caption;type\n0;red{odd}harbour;VM\n1;blue hill;TM\n")
    assert list(read_kinds(path).values()) == ["VM", "TM"] and read_kinds(path)["blue hill"] == "TM"


def test_one_row_without_a_kind_is_not_all_rows(tmp_path, capsys):
    path = tmp_path / "kinds.csv"
    write(path, 'caption,kind\n"a ""quoted"",\ncaption",verbatim\nb\nc,\nd,template\n')
    assert read_kinds(path) == {'a "quoted",\ncaption': "verbatim", "d": "template"}
    assert capsys.readouterr().err.startswith("warning: 2 rows without caption or kind are left out")
    write(path, "caption,other\na,b\n")
    with pytest.raises(InputError, match=r"needs the columns caption and kind \(or type\); it has caption, other"):
        read_kinds(path)


def test_kinds_from_other_files_of_prompts(tmp_path):
    lines = write(tmp_path / "k.jsonl", '{"caption": "a", "kind": "x"}\n{"caption": "b", "overfit_type": "TV"}\n')
    assert read_kinds(tmp_path / "k.jsonl") == {"a": "x", "b": "TV"} and lines
    parquet(tmp_path / "k.parquet", Caption=["a"], Type=["MV"])
    assert read_kinds(tmp_path / "k.parquet") == {"a": "MV"}
