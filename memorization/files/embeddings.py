"""."""

from safetensors import SafetensorError
from safetensors.torch import load_file

from memorization.errors import InputError


def read_embeddings(path, session):
    """Prompt embeddings by index, each (tokens, dim).

    Raises:
        InputError: if the file cannot be read, lacks a prompt, or is of another model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; tools/search_embeddings.py writes such a file") from error
    shape = session.pipe.encode([""])[0].shape[1:]
    for record in session.records:
        if str(record.index) not in found or found[str(record.index)].shape != shape:
            raise InputError(f"{path} has no embedding of prompt {record.index} for this model; search again")
    return {r.index: found[str(r.index)] for r in session.records}
