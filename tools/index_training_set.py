"""Describe every picture of a training set once, for searches and near-duplicates.

    python tools/index_training_set.py --training_data FOLDER --sscd FILE --output my_index
    accelerate launch tools/index_training_set.py --training_data FOLDER --sscd FILE --output my_index
    python tools/index_training_set.py --training_data FOLDER --sscd FILE --output my_index --duplicates 0.9
    python eval_mem.py retrieval det_outputs/A_ours.jsonl --index my_index

Takes every form of data set that has pictures, and a folder of pictures without captions. Cut off, the same command
goes on; several processes share the shards. Once the index is made, --duplicates, --parquet and --faiss read it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memorization.errors import exit_on_input_error, input_errors
from memorization.files.whole import FolderLock, make_folder
from memorization.models.devices import pick_device
from memorization.report.duplicates_section import duplicates_section
from memorization.runs.arguments import HelpFormatter, Switch, device_name, positive_int, rate
from memorization.runs.indexing import SHARD_SIZE, build_index
from memorization.runs.settings import from_arguments
from memorization.runs.workers import Processes
from memorization.similarity.index.approximate import FEWEST, load_faiss, make_approximate
from memorization.similarity.index.describers import DescriberSettings, add_describer_options
from memorization.similarity.index.groups import similar_groups
from memorization.similarity.index.parquet import write_parquet
from memorization.similarity.index.stored import StoredIndex


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--training_data", required=True, help="any data set with pictures, or a folder of pictures alone")
    add("--prompt_key", help="column of the captions in a file of rows")
    add("--output", type=Path, required=True, help="folder of the index")
    add("--batch_size", type=positive_int, default=32, help="pictures that are described at once")
    add("--shard_size", type=positive_int, default=SHARD_SIZE, help="pictures of a shard, what a kill loses at most")
    add("--device", type=device_name, default="auto", help="auto (CUDA, MPS, CPU), cuda, cuda:N, mps, cpu")
    group = parser.add_argument_group("descriptor, one of --sscd, --reference_model and --dino")
    add_describer_options(group)
    text = "mean of the descriptors of a picture and of smaller ones, which the network has to take"
    group.add_argument("--multiscale", action=Switch, default=False, help=text)
    add = parser.add_argument_group("of the finished index").add_argument
    add("--duplicates", type=rate, metavar="THRESHOLD", help="write groups of pictures with a cosine from this on")
    add("--parquet", action=Switch, default=False, help="write OUTPUT/descriptors.parquet as well")
    add("--faiss", action=Switch, default=False, help=f"an approximate index as well, of {FEWEST:,} pictures or more")
    add("--faiss_pq", action=Switch, default=False, help="the same with 64 bytes a picture (product quantisation)")
    return parser


def build(args: argparse.Namespace, processes: Processes) -> StoredIndex | None:
    """The index, finished; None for a process that has nothing more to do."""
    with input_errors():
        settings = from_arguments(DescriberSettings, args, device=pick_device(processes.device))
    return build_index(
        args.output,
        args.training_data,
        settings,
        processes,
        prompt_key=args.prompt_key,
        shard_size=args.shard_size,
        batch_size=args.batch_size,
    )


def write_further(args: argparse.Namespace, index: StoredIndex) -> None:
    """What was asked for of a finished index."""
    if args.parquet:
        path = args.output / "descriptors.parquet"
        write_parquet(index, path)
        print(path)
    if args.faiss or args.faiss_pq:
        path = make_approximate(index, quantised=args.faiss_pq)
        print(path or f"fewer than {FEWEST:,} pictures: exact search is fast enough, no approximate index is made")
    if args.duplicates is not None:
        device = pick_device(args.device)
        section = duplicates_section(index, similar_groups(index, args.duplicates, device), args.duplicates)
        print(section.markdown(), end="\n\n")
        for path in section.save(args.output):
            print(path)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error(), Processes(args.device) as processes:
        if args.faiss or args.faiss_pq:
            load_faiss()
        make_folder(args.output, "--output")
        lock = FolderLock(args.output, "--output") if processes.is_main else None
        try:
            index = build(args, processes)
            if index is not None:
                count = index.num_rows - index.header["unreadable"]
                print(f"{args.output}: {count} pictures by {index.describe()}")
                write_further(args, index)
        finally:
            if lock is not None:
                lock.release()


if __name__ == "__main__":
    main()
