"""Seeds of images and of what else is drawn for them, and the whole numbers that indices and seeds may be."""

import hashlib

LARGEST_SEED = 2**32 - 1  # of --gen_seed
MAX_IMAGES = 1000  # per prompt: `image_seed` gives k three digits
LARGEST_INDEX = 10**12  # seeds are made of it and have to fit into 64 bits


def image_seed(gen_seed: int, index: int, k: int) -> int:
    """Seed of image k of the prompt with this index; readable as gen_seed, index, k in decimal.

    Torch's CPU generator reads the low 32 bits: within a run all images differ (up to index 4 million),
    but runs whose gen_seeds are 43 or more apart can share noise at indices in the thousands.
    """
    return gen_seed * 10**8 + index * 10**3 + k


def image_seeds(gen_seed: int, index: int, count: int) -> list[int]:
    """`image_seed` of every image of a prompt."""
    return [image_seed(gen_seed, index, k) for k in range(count)]


def derived_seed(seed: int, purpose: str) -> int:
    """Seed of other random numbers of an image than its starting noise, which `seed` draws: below 2**32.

    A generator with the image's own seed would draw that noise again. A hash, as torch's CPU generator reads the low
    32 bits alone: to it, seeds that differ above them are the same.

    Args:
        purpose: what is drawn, such as "hessian_map"; another one gives other numbers.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:4], "big")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number from 0 on that fits into 64 bits, as indices and seeds do."""
    return type(value) is int and 0 <= value < 2**63
