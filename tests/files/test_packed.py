"""Pictures within a Parquet file: each row group is read once when they are read in order, and one is kept."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from memorization.files import packed
from memorization.files.packed import ParquetCell


def write_cells(path, values):
    parquet.write_table(pa.table({"image": [{"bytes": value} for value in values]}), path, row_group_size=4)


def test_a_row_group_is_read_once_in_order(tmp_path, monkeypatch):
    path, values, groups = tmp_path / "set.parquet", [b"%d" % k for k in range(10)], []
    write_cells(path, values)
    read = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile, "read_row_group", lambda f, g, **how: (groups.append(g), read(f, g, **how))[1]
    )
    cells = [ParquetCell(path, "image", row) for row in range(10)]
    assert [cell.open().read() for cell in cells] == values and groups == [0, 1, 2]
    assert packed.read_group.cache_info().currsize == 1
    assert cells[1].open().read() == b"1" and groups == [0, 1, 2, 0]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "set.parquet"
    for values in ([b"old"] * 5, [b"newer"] * 5):
        write_cells(path, values)
        assert ParquetCell(path, "image", 4).open().read() == values[4]


@pytest.mark.parametrize(("column", "row"), [("image", 2), ("image", 9), ("picture", 0)])
def test_a_cell_without_bytes_is_said(tmp_path, column, row):
    write_cells(tmp_path / "set.parquet", [b"a", b"b", None])
    with pytest.raises(OSError, match=f"{column} of row {row} holds no picture"):
        ParquetCell(tmp_path / "set.parquet", column, row).open()
