"""."""

LARGEST_SEED = 2**32 - 1


MAX_IMAGES = 1000  # run_utils.image_seed gives k three digits


def image_seed(gen_seed, index, k):
    """Seed of image k of the prompt with this index; readable as gen_seed, index, k in decimal.

    Torch's CPU generator reads the low 32 bits: within a run all images differ (up to index 4 million),
    but runs whose gen_seeds are 43 or more apart can share noise at indices in the thousands.
    """
    return gen_seed * 10**8 + index * 10**3 + k


LARGEST_INDEX = 10**12  # seeds are made of it and have to fit into 64 bits
