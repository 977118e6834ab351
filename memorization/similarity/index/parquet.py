"""An index as one Parquet file, for other programs: a row for each picture that has a descriptor."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from memorization.files.whole import replacing
from memorization.similarity.index.stored import IDENTITY, StoredIndex


def write_parquet(index: StoredIndex, path: Path) -> None:
    """Columns row, index, caption, repeats, picture, descriptor (float32 list); what it is of in the file's metadata.

    One shard is in memory at a time.
    """
    import pyarrow
    from pyarrow import parquet

    known = {name: str(index.settings[name]) for name in IDENTITY}
    columns = {"row": pyarrow.int64(), "index": pyarrow.int64(), "caption": pyarrow.string()}
    columns |= {"repeats": pyarrow.int64(), "picture": pyarrow.string()}
    columns |= {"descriptor": pyarrow.list_(pyarrow.float32(), index.dim)}
    schema = pyarrow.schema(columns, metadata=known)
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for shard in tqdm(range(index.num_shards), desc="parquet", unit="shard"):
            part = index.open_shard(shard).astype(np.float32)
            good, entries = np.flatnonzero(np.isfinite(part[:, 0])), index.shard_entries(shard)
            some = [entries[k] for k in good]
            flat = pyarrow.array(part[good].reshape(-1))
            writer.write_table(
                pyarrow.table(
                    [
                        pyarrow.array(good + shard * index.shard_size),
                        pyarrow.array([entry.index for entry in some], pyarrow.int64()),
                        pyarrow.array([entry.caption for entry in some], pyarrow.string()),
                        pyarrow.array([entry.repeats for entry in some], pyarrow.int64()),
                        pyarrow.array([str(entry.picture) for entry in some], pyarrow.string()),
                        pyarrow.FixedSizeListArray.from_arrays(flat, index.dim),
                    ],
                    schema=schema,
                )
            )
